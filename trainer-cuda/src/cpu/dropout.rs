//! Dropout (Srivastava et al. 2014) whose mask is computed again rather than stored.

use super::Cpu;
use super::elementwise::GRAIN;
use super::parallel::rows;
use super::simd::{Simd, dispatch};
use crate::device::Dropout;

pub(super) fn forward(cpu: &Cpu, y: &mut [f32], x: &[f32], dropout: Dropout<'_, Cpu>, len: usize) {
    let (mask, x) = (Mask::new(dropout), &x[..len]);
    // The grain is even: the hash of a pair is never cut.
    cpu.for_rows(len, GRAIN, rows(y, len, 1), |range, y| {
        forward_part(cpu.simd, y.into_slice(), &x[range.clone()], mask, range.start);
    });
}

pub(super) fn backward(cpu: &Cpu, dx: &mut [f32], dy: &[f32], dropout: Dropout<'_, Cpu>, len: usize) {
    let (mask, dy) = (Mask::new(dropout), &dy[..len]);
    cpu.for_rows(len, GRAIN, rows(dx, len, 1), |range, dx| {
        backward_part(cpu.simd, dx.into_slice(), &dy[range.clone()], mask, range.start);
    });
}

/// The rule of [`Dropout`], prepared.
#[derive(Clone, Copy)]
struct Mask {
    key: u64,
    /// Halves below it are dropped.
    threshold: u64,
    scale: f32,
}

impl Mask {
    fn new(Dropout { probability, seeds, module }: Dropout<'_, Cpu>) -> Self {
        assert!((0.0..1.0).contains(&probability), "a dropout probability of {probability}");
        let seed = u64::from(seeds[2 * module]) | u64::from(seeds[2 * module + 1]) << 32;
        let threshold = (f64::from(probability) * 2f64.powi(32)) as u64;
        Mask { key: mix(seed), threshold, scale: 1.0 / (1.0 - probability) }
    }

    /// Factors of activations `2 * pair` and `2 * pair + 1`.
    #[inline(always)]
    fn factors(self, pair: usize) -> [f32; 2] {
        let bits = mix(self.key.wrapping_add((pair as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        [bits & 0xffff_ffff, bits >> 32].map(|half| if half < self.threshold { 0.0 } else { self.scale })
    }
}

/// The finaliser of SplitMix64 (Steele et al. 2014).
#[inline(always)]
fn mix(z: u64) -> u64 {
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

dispatch! { fn forward_part = forward_part_simd(y: &mut [f32], x: &[f32], mask: Mask, start: usize) }

#[inline(always)]
fn forward_part_simd<S: Simd>(y: &mut [f32], x: &[f32], mask: Mask, start: usize) {
    for (i, (y, x)) in y.chunks_mut(2).zip(x.chunks(2)).enumerate() {
        for ((y, x), factor) in y.iter_mut().zip(x).zip(mask.factors(start / 2 + i)) {
            *y = x * factor;
        }
    }
}

dispatch! { fn backward_part = backward_part_simd(dx: &mut [f32], dy: &[f32], mask: Mask, start: usize) }

#[inline(always)]
fn backward_part_simd<S: Simd>(dx: &mut [f32], dy: &[f32], mask: Mask, start: usize) {
    for (i, (dx, dy)) in dx.chunks_mut(2).zip(dy.chunks(2)).enumerate() {
        for ((dx, dy), factor) in dx.iter_mut().zip(dy).zip(mask.factors(start / 2 + i)) {
            *dx += dy * factor;
        }
    }
}
