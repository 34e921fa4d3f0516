//! Memory and data for operations on any device, and comparisons between two.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use trainer_cuda::config::Precision;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::cuda::{Cuda, CudaOptions};
use trainer_cuda::device::{Device, PackedShape, Place, StepState, Trainable};
use trainer_cuda::device::{LOG_COLUMNS, SCALARS};
use trainer_cuda::formats::{BlockType, StoredTensor};
use trainer_cuda::plan::{Kind, MemoryPlan, PlannedBuffer, PlannedParameter, PlannedPart};

/// One rounding to bf16: half of 2^-7, the distance of neighbours at 1.
pub(crate) const BF16: f32 = 1.0 / 256.0;
/// A sum in f32 whose order differs.
pub(crate) const SUM: f32 = 1e-5;

/// What spare rows and values hold, before and after; bf16 has it.
const SENTINEL: f32 = 12352.0;
/// Rows or values behind the part that counts.
const SPARE: usize = 3;

/// Named results, row-major.
pub(crate) type Results = Vec<(&'static str, Vec<f32>)>;

/// The GPU, with memory for the test's buffers, `trained` values and packed matrices of the given shapes.
pub(crate) fn gpu(trained: &[usize], packed: &[PackedShape]) -> Cuda {
    gpu_with(CudaOptions { graphs: false, ..CudaOptions::default() }, trained, packed)
}

pub(crate) fn gpu_with(options: CudaOptions, trained: &[usize], packed: &[PackedShape]) -> Cuda {
    let folder = crate::libraries::folder("all");
    let cuda = Cuda::open(0, CudaOptions { libraries: folder, ..options }).expect("a GPU");
    let part = PlannedPart { name: "everything".into(), row: vec![] };
    let buffers = vec![PlannedBuffer { kind: Kind::F32, n_rows: 24 << 20, parts: vec![part], tail: 0 }];
    let trained = trained.iter().map(|&len| PlannedParameter::Trained(len));
    let packed = packed.iter().cloned().map(PlannedParameter::Packed);
    // The vector is there so that tensors have staging memory.
    let parameters = [PlannedParameter::Vector(1)].into_iter().chain(trained).chain(packed).collect();
    cuda.reserve(&MemoryPlan { buffers, parameters, chunk_rows: 0, activation_sets: vec![] }).expect("memory");
    cuda
}

/// The reference.
pub(crate) fn cpu() -> Cpu {
    Cpu::new(Some(1))
}

/// SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as usize % n
    }

    /// Uniform in -1..1, in steps of 1/128: bf16 has them, so that both devices see the same values.
    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.below(257) as f32 / 128.0 - 1.0).collect()
    }

    pub(crate) fn indices(&mut self, n: usize, below: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(below) as u32).collect()
    }
}

/// Buffers of a device, each with spare rows behind those that count.
pub(crate) struct On<'d, D: Device> {
    pub(crate) device: &'d D,
    /// How many activations were made: neighbours have other distances of their rows.
    made: Cell<usize>,
}

/// Activations in the front of each row of what is wider, and of more rows.
pub(crate) struct Rows<D: Device> {
    act: D::Act,
    n_rows: usize,
    width: usize,
    /// Values of a row that do not count, and rows that do not.
    beside: usize,
    below: usize,
    /// What lies around those that count.
    around: f32,
}

impl<D: Device> Deref for Rows<D> {
    type Target = D::Act;

    fn deref(&self) -> &D::Act {
        &self.act
    }
}

impl<D: Device> DerefMut for Rows<D> {
    fn deref_mut(&mut self) -> &mut D::Act {
        &mut self.act
    }
}

impl<'d, D: Device> On<'d, D> {
    pub(crate) fn new(device: &'d D) -> Self {
        Self { device, made: Cell::new(0) }
    }

    /// An input. What an operation computes from what lies around it is no number; or nothing does, and an emulated GPU
    /// refuses to look there.
    pub(crate) fn act(&self, values: &[f32], width: usize) -> Rows<D> {
        let is_tight = (self.made.get() + values.len() / width).is_multiple_of(3);
        self.rows(values, width, if is_tight { 0 } else { SPARE }, f32::NAN)
    }

    /// A result: nothing that an operation may leave as it is, and what lies around it has to stay.
    pub(crate) fn out(&self, n_rows: usize, width: usize) -> Rows<D> {
        self.rows(&vec![SENTINEL; n_rows * width], width, SPARE, SENTINEL)
    }

    /// An input that becomes a result.
    pub(crate) fn in_place(&self, values: &[f32], width: usize) -> Rows<D> {
        self.rows(values, width, SPARE, SENTINEL)
    }

    fn rows(&self, values: &[f32], width: usize, below: usize, around: f32) -> Rows<D> {
        let n_rows = values.len() / width;
        assert_eq!(values.len(), n_rows * width);
        self.made.set(self.made.get() + 1);
        // Rows of the CPU device have no distance of their own.
        let beside = if below == 0 || D::KIND == "cpu" { 0 } else { 1 + 8 * (self.made.get() % 5) };
        let mut act = self.device.alloc_act(n_rows + below, width + beside);
        let mut all = vec![around; (n_rows + below) * (width + beside)];
        for (row, values) in all.chunks_mut(width + beside).zip(values.chunks(width)) {
            row[..width].copy_from_slice(values);
        }
        self.device.write_act(&mut act, &all);
        Rows { act, n_rows, width, beside, below, around }
    }

    /// The values that count, after a look at the others.
    pub(crate) fn read(&self, rows: &Rows<D>) -> Vec<f32> {
        let &Rows { n_rows, width, beside, below, around, .. } = rows;
        let all = self.device.read_act(&rows.act, (n_rows + below) * (width + beside));
        self.device.check().expect("no failure");
        let mut values = Vec::with_capacity(n_rows * width);
        for (i, row) in all.chunks(width + beside).enumerate() {
            let (inside, outside) = row.split_at(if i < n_rows { width } else { 0 });
            let stays = |value: &f32| value.to_bits() == around.to_bits() || value.is_nan() && around.is_nan();
            assert!(outside.iter().all(stays), "row {i} of {n_rows}: wrote past the {width} values that count");
            values.extend_from_slice(inside);
        }
        values
    }

    /// Side by side, with room for a tail.
    pub(crate) fn acts<const N: usize>(&self, values: [&[f32]; N], widths: [usize; N], tail: usize) -> [D::Act; N] {
        let n_rows = values[0].len() / widths[0];
        let mut acts = self.device.alloc_acts(n_rows + SPARE, widths, tail);
        for ((act, values), width) in acts.iter_mut().zip(values).zip(widths) {
            assert_eq!(values.len(), n_rows * width);
            self.device.write_act(act, &[values, &vec![SENTINEL; SPARE * width]].concat());
        }
        acts
    }

    /// One of [`Self::acts`].
    pub(crate) fn read_act(&self, act: &D::Act, n_rows: usize, width: usize) -> Vec<f32> {
        let values = self.device.read_act(act, (n_rows + SPARE) * width);
        self.device.check().expect("no failure");
        spared(values, n_rows * width)
    }

    /// An input, with nothing behind it.
    pub(crate) fn f32_input(&self, values: &[f32]) -> D::F32 {
        let mut buffer = self.device.alloc_f32(values.len());
        self.device.write_f32(&mut buffer, values);
        buffer
    }

    pub(crate) fn f32(&self, values: &[f32]) -> D::F32 {
        let mut buffer = self.device.alloc_f32(values.len() + SPARE);
        self.device.write_f32(&mut buffer, &[values, &[SENTINEL; SPARE]].concat());
        buffer
    }

    pub(crate) fn f32_out(&self, n: usize) -> D::F32 {
        self.f32(&vec![SENTINEL; n])
    }

    pub(crate) fn read_f32(&self, buffer: &D::F32, n: usize) -> Vec<f32> {
        let values = self.device.read_f32(buffer, n + SPARE);
        self.device.check().expect("no failure");
        spared(values, n)
    }

    pub(crate) fn index(&self, values: &[u32]) -> D::Index {
        let mut buffer = self.device.alloc_index(values.len());
        self.device.write_index(&mut buffer, values);
        buffer
    }

    pub(crate) fn vector(&self, values: &[f32]) -> D::Weight {
        self.device.upload_vector(values.to_vec(), Place::Vector)
    }

    pub(crate) fn matrix(&self, values: &[f32], rows: usize, cols: usize) -> D::Weight {
        self.frozen(values, rows, cols, Place::Matrix)
    }

    pub(crate) fn frozen(&self, values: &[f32], rows: usize, cols: usize, place: Place<'_, D>) -> D::Weight {
        self.device.upload_frozen(&stored(values, rows, cols), Precision::Bf16, place)
    }

    pub(crate) fn trained(&self, values: &[f32], rows: usize, cols: usize, place: Place<'_, D>) -> Trainable<D> {
        self.device.upload_trained("w".into(), values.to_vec(), rows, cols, place)
    }

    /// What a step adds to, with a log of `log_rows` rows; nothing is clipped.
    pub(crate) fn step_state(&self, log_rows: usize) -> StepState<D> {
        let mut control = self.device.alloc_f32(2);
        self.device.write_f32(&mut control, &[1.0, 0.0]);
        StepState {
            scalars: self.device.alloc_f32(SCALARS),
            sums: self.device.alloc_f64(LOG_COLUMNS),
            control,
            log: self.device.alloc_f64(log_rows * LOG_COLUMNS),
        }
    }
}

/// A matrix as a file in bf16 has it.
pub(crate) fn stored(values: &[f32], rows: usize, cols: usize) -> StoredTensor<'static> {
    let bytes = values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect();
    StoredTensor::new(vec![rows, cols], BlockType::BF16, bytes)
}

fn spared(mut values: Vec<f32>, n: usize) -> Vec<f32> {
    assert!(values[n..].iter().all(|&value| value == SENTINEL), "wrote past the {n} values that count");
    values.truncate(n);
    values
}

/// How far a result may be from the reference.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    /// Of the value itself: roundings of the result.
    pub(crate) relative: f32,
    /// Of the largest value: roundings of what a sum is made of.
    pub(crate) of_largest: f32,
}

impl Tolerance {
    /// The result is computed in f32 and rounded once.
    pub(crate) const ROUNDED: Self = Self { relative: BF16, of_largest: SUM };
    /// Rounded twice: a factor is, and the product.
    pub(crate) const ROUNDED_TWICE: Self = Self { relative: 2.0 * BF16, of_largest: SUM };
    /// f32 in another order.
    pub(crate) const F32: Self = Self { relative: SUM, of_largest: SUM };
    /// The same bits.
    pub(crate) const EXACT: Self = Self { relative: 0.0, of_largest: 0.0 };
}

/// Compares results by name; `tolerance` is asked for each.
#[track_caller]
pub(crate) fn assert_parity(case: &str, gpu: &Results, cpu: &Results, tolerance: impl Fn(&str) -> Tolerance) {
    assert_eq!(gpu.len(), cpu.len(), "{case}");
    for ((name, got), (_, want)) in gpu.iter().zip(cpu) {
        let Tolerance { relative, of_largest } = tolerance(name);
        assert_eq!(got.len(), want.len(), "{case}: length of `{name}`");
        let largest = want.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        assert!(largest.is_finite(), "{case}: `{name}` of the reference");
        let mut worst = 0.0f32;
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            let (error, allowed) = ((got - want).abs(), relative * want.abs() + of_largest * largest);
            assert!(
                error <= allowed,
                "{case}: `{name}`[{i}] is {got}, on the CPU {want}: off by {error:e}, {allowed:e} is allowed"
            );
            worst = worst.max(if allowed > 0.0 { error / allowed } else { 0.0 });
        }
        println!("{case}: {name} within {worst:.2} of its tolerance");
    }
}
