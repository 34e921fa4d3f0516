//! Rows scaled to length 1, as torch's `F.normalize`.

use super::Cpu;
use super::elementwise::GRAIN;
use super::parallel::rows;
use super::simd::{LANES, Simd, dispatch};

/// Shorter rows are divided by this.
const SHORTEST: f32 = 1e-12;

pub(super) fn forward(cpu: &Cpu, y: &mut [f32], norm: &mut [f32], x: &[f32], dim: usize, n: usize) {
    let out = (rows(y, n, dim), rows(norm, n, 1));
    cpu.for_rows(n, GRAIN.div_ceil(dim), out, |range, (y, norm)| {
        let x = x[range.start * dim..range.end * dim].chunks_exact(dim);
        for ((y, norm), x) in y.into_slice().chunks_exact_mut(dim).zip(norm.into_slice()).zip(x) {
            *norm = product(cpu.simd, x, x).sqrt();
            let length = norm.max(SHORTEST);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x / length);
        }
    });
}

pub(super) fn backward(cpu: &Cpu, dx: &mut [f32], dy: &[f32], y: &[f32], norm: &[f32], dim: usize, n: usize) {
    cpu.for_rows(n, GRAIN.div_ceil(dim), rows(dx, n, dim), |range, dx| {
        for (dx, row) in dx.into_slice().chunks_exact_mut(dim).zip(range) {
            let (dy, y) = (&dy[row * dim..][..dim], &y[row * dim..][..dim]);
            // Below the limit the length is a constant, and so has no gradient.
            let along = if norm[row] < SHORTEST { 0.0 } else { product(cpu.simd, dy, y) };
            let length = norm[row].max(SHORTEST);
            for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
                *dx = (dy - y * along) / length;
            }
        }
    });
}

dispatch! { fn product = product_simd(a: &[f32], b: &[f32]) -> f32 }

#[inline(always)]
fn product_simd<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = S::splat(0.0);
    for i in (0..a.len()).step_by(LANES) {
        sum = S::mul_add(S::read(&a[i..]), S::read(&b[i..]), sum);
    }
    S::sum(sum)
}
