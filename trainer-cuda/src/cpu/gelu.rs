//! GELU (Hendrycks & Gimpel 2016), exact: `y = x Phi(x)`, `Phi(x) = (1 + erf(x / sqrt(2))) / 2`.

use std::f32::consts::FRAC_1_SQRT_2;

use super::Cpu;
use super::elementwise::GRAIN;
use super::erf::erf;
use super::exp::exp;
use super::parallel::rows;
use super::simd::{LANES, Simd, dispatch};

pub(super) fn forward(cpu: &Cpu, y: &mut [f32], x: &[f32], len: usize) {
    let x = &x[..len];
    cpu.for_rows(len, GRAIN, rows(y, len, 1), |range, y| forward_part(cpu.simd, y.into_slice(), &x[range]));
}

pub(super) fn backward(cpu: &Cpu, dx: &mut [f32], dy: &[f32], x: &[f32], len: usize) {
    let (dy, x) = (&dy[..len], &x[..len]);
    cpu.for_rows(len, GRAIN, rows(dx, len, 1), |range, dx| {
        backward_part(cpu.simd, dx.into_slice(), &dy[range.clone()], &x[range]);
    });
}

dispatch! { fn forward_part = forward_part_simd(y: &mut [f32], x: &[f32]) }

#[inline(always)]
fn forward_part_simd<S: Simd>(y: &mut [f32], x: &[f32]) {
    for i in (0..y.len()).step_by(LANES) {
        let x = S::read(&x[i..]);
        S::write(&mut y[i..], S::mul(x, normal::<S>(x)));
    }
}

dispatch! { fn backward_part = backward_part_simd(dx: &mut [f32], dy: &[f32], x: &[f32]) }

#[inline(always)]
fn backward_part_simd<S: Simd>(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    /// `1 / sqrt(2 pi)`
    const DENSITY_AT_0: f32 = 0.398_942_28;
    for i in (0..dx.len()).step_by(LANES) {
        let x = S::read(&x[i..]);
        let bell = exp::<S>(S::mul(S::mul(x, x), S::splat(-0.5)));
        let slope = S::mul_add(S::mul(x, S::splat(DENSITY_AT_0)), bell, normal::<S>(x));
        S::write(&mut dx[i..], S::mul(S::read(&dy[i..]), slope));
    }
}

/// `Phi(x)`
#[inline(always)]
fn normal<S: Simd>(x: S::V) -> S::V {
    let half = S::splat(0.5);
    S::mul_add(half, erf::<S>(S::mul(x, S::splat(FRAC_1_SQRT_2))), half)
}
