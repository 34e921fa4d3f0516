//! Random data, the devices to run on, and comparisons.

use trainer_cuda::cpu::{Cpu, SimdLevel};
use trainer_cuda::device::{
    Device, EdgeBuffers, LOG_COLUMNS, LowRank, Modules, Place, SCALARS, SUMS, StepState, Trainable,
};

/// What buffers hold behind the part that counts.
const SENTINEL: f32 = 12345.678;
/// Values behind the part that counts: more than a vector.
const TAIL: usize = 19;
/// Half the distance of 1 to the next f32: one rounding's relative error.
pub(crate) const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as usize % n
    }

    /// Uniform in -1..1, followed by a tail that no operation may use.
    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        let values = (0..n).map(|_| self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0);
        values.chain([SENTINEL; TAIL]).collect()
    }
}

/// A result buffer: nothing that an operation may read, and the tail.
pub(crate) fn output(n: usize) -> Vec<f32> {
    [vec![f32::NAN; n], vec![SENTINEL; TAIL]].concat()
}

/// The buffer's `n` values, after a look at its tail.
pub(crate) fn take(mut buffer: Vec<f32>, n: usize) -> Vec<f32> {
    assert!(buffer[n..].iter().all(|&x| x == SENTINEL), "wrote past {n} values");
    buffer.truncate(n);
    buffer
}

/// In f64, without the tail.
pub(crate) fn wide(values: &[f32], n: usize) -> Vec<f64> {
    values[..n].iter().map(|&x| f64::from(x)).collect()
}

/// A parameter; those have no tail.
pub(crate) fn weight(cpu: &Cpu, values: &[f32], rows: usize, cols: usize) -> <Cpu as Device>::Weight {
    trainable(cpu, values, rows, cols).weight
}

/// A parameter with a gradient and moments of zero.
pub(crate) fn trainable(cpu: &Cpu, values: &[f32], rows: usize, cols: usize) -> Trainable<Cpu> {
    cpu.upload_trained("w".into(), values[..rows * cols].to_vec(), rows, cols, Place::Matrix)
}

/// A layer that shares its input with no other.
pub(crate) fn single(weight: &<Cpu as Device>::Weight) -> Modules<'_, Cpu, 1> {
    Modules { packed: &(), weight: [weight], bias: [None], low_rank: [None] }
}

/// A layer and the update beside it.
pub(crate) fn adapted<'a>(
    weight: &'a <Cpu as Device>::Weight,
    a: &'a <Cpu as Device>::Weight,
    b: &'a <Cpu as Device>::Weight,
    scaling: f32,
) -> Modules<'a, Cpu, 1> {
    Modules { low_rank: [Some(LowRank { a, b, scaling })], ..single(weight) }
}

/// What a step adds to, with a log of `log_rows` rows; nothing is clipped.
pub(crate) fn step_state<D: Device>(device: &D, log_rows: usize) -> StepState<D> {
    let mut control = device.alloc_f32(2);
    device.write_f32(&mut control, &[1.0, 0.0]);
    StepState {
        scalars: device.alloc_f32(SCALARS),
        sums: device.alloc_f64(SUMS),
        control,
        log: device.alloc_f64(log_rows * LOG_COLUMNS),
    }
}

/// Edges with their targets, row by row.
pub(crate) fn edges(cpu: &Cpu, rows: &[Vec<u32>]) -> EdgeBuffers<Cpu> {
    let starts = rows.iter().scan(0, |end, row| {
        *end += row.len() as u32;
        Some(*end)
    });
    let (starts, targets) = ([0].into_iter().chain(starts).collect::<Vec<u32>>(), rows.concat());
    let mut buffers =
        EdgeBuffers { edge_start: cpu.alloc_index(starts.len() + TAIL), edge_target: cpu.alloc_index(targets.len()) };
    cpu.write_index(&mut buffers.edge_start, &starts);
    cpu.write_index(&mut buffers.edge_target, &targets);
    buffers
}

/// `run`'s results at each SIMD level; those of 1, 2 and 3 threads must be the same bytes.
pub(crate) fn at_every_level(run: impl Fn(&Cpu) -> Vec<Vec<f32>>) -> Vec<(SimdLevel, Vec<Vec<f32>>)> {
    let at_level = |level| {
        let result = run(&Cpu::with_simd(Some(1), level));
        for threads in [2, 3] {
            let other = run(&Cpu::with_simd(Some(threads), level));
            assert!(bits(&result) == bits(&other), "{threads} threads differ from one ({level})");
        }
        (level, result)
    };
    SimdLevel::available().into_iter().map(at_level).collect()
}

/// As [`at_every_level`], and the levels with FMA must give the same bytes.
pub(crate) fn on_every_device(run: impl Fn(&Cpu) -> Vec<Vec<f32>>) -> Vec<Vec<Vec<f32>>> {
    let results = at_every_level(run);
    let with_fma = results.iter().filter(|(level, _)| level.to_string() != "portable");
    let with_fma: Vec<_> = with_fma.map(|(_, result)| bits(result)).collect();
    assert!(with_fma.windows(2).all(|pair| pair[0] == pair[1]), "SIMD levels differ");
    results.into_iter().map(|(_, result)| result).collect()
}

fn bits(buffers: &[Vec<f32>]) -> Vec<u32> {
    buffers.concat().iter().map(|x| x.to_bits()).collect()
}

/// Each `got[i]` within `tolerance(i)` of `want[i]`.
#[track_caller]
pub(crate) fn assert_near(what: &str, got: &[f32], want: &[f64], tolerance: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance(i), "{what}[{i}]: {got}, expected {want}, off by {error:e} of {:e}", tolerance(i));
    }
}

/// Each `got[i]` within `relative` of the largest expected value.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], relative: f64) {
    let scale = want.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
    assert_near(what, got, want, |_| relative * scale);
}

/// Central differences of `f`: with a step of 1e-5 in f64, exact to about 1e-9 where the function is of order 1.
pub(crate) fn gradient(at: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = at.to_vec();
    (0..x.len())
        .map(|i| {
            let value = std::mem::replace(&mut x[i], at[i] + STEP);
            let above = f(&x);
            x[i] = value - STEP;
            let below = f(&x);
            x[i] = value;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(crate) fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
