//! RMSNorm (Zhang & Sennrich 2019, eq. 4).

use super::elementwise::GRAIN;
use super::parallel::rows;
use super::simd::{LANES, Simd, dispatch};
use super::{Cpu, Matrix};

pub(super) fn forward(
    cpu: &Cpu,
    y: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    weight: &Matrix,
    eps: f32,
    n_tokens: usize,
) {
    let (weight, hidden) = (weight.values(), weight.cols);
    let out = (rows(y, n_tokens, hidden), rows(rstd, n_tokens, 1));
    cpu.for_rows(n_tokens, GRAIN.div_ceil(hidden), out, |range, (y, rstd)| {
        let x = x[range.start * hidden..range.end * hidden].chunks_exact(hidden);
        for ((y, rstd), x) in y.into_slice().chunks_exact_mut(hidden).zip(rstd.into_slice()).zip(x) {
            *rstd = forward_row(cpu.simd, y, x, weight, eps);
        }
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    dx: &mut [f32],
    d_weight: Option<&mut [f32]>,
    y: Option<&mut [f32]>,
    dy: &[f32],
    x: &[f32],
    rstd: &[f32],
    weight: &Matrix,
    residual: Option<&[f32]>,
    n_tokens: usize,
) {
    let (weight, hidden) = (weight.values(), weight.cols);
    let grain = GRAIN.div_ceil(hidden);
    cpu.for_rows(n_tokens, grain, rows(dx, n_tokens, hidden), |range, dx| {
        for (dx, t) in dx.into_slice().chunks_exact_mut(hidden).zip(range) {
            let row = t * hidden..(t + 1) * hidden;
            match residual {
                Some(residual) => dx.copy_from_slice(&residual[row.clone()]),
                None => dx.fill(0.0),
            }
            backward_row(cpu.simd, dx, &dy[row.clone()], &x[row], rstd[t], weight);
        }
    });
    if let Some(y) = y {
        cpu.for_rows(n_tokens, grain, rows(y, n_tokens, hidden), |range, y| {
            for (y, t) in y.into_slice().chunks_exact_mut(hidden).zip(range) {
                scale_row(y, &x[t * hidden..][..hidden], rstd[t], weight);
            }
        });
    }
    if let Some(d_weight) = d_weight {
        // Each task owns some columns and adds up the tokens in order.
        let columns = GRAIN.div_ceil(n_tokens.max(1)).next_multiple_of(LANES);
        cpu.for_rows(hidden, columns, rows(d_weight, hidden, 1), |range, d_weight| {
            let d_weight = d_weight.into_slice();
            for (t, &rstd) in rstd[..n_tokens].iter().enumerate() {
                let row = t * hidden + range.start..t * hidden + range.end;
                add_weight_gradient(cpu.simd, d_weight, &dy[row.clone()], &x[row], rstd);
            }
        });
    }
}

dispatch! { fn forward_row = forward_row_simd(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) -> f32 }

#[inline(always)]
fn forward_row_simd<S: Simd>(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) -> f32 {
    let mut sum = S::splat(0.0);
    for i in (0..x.len()).step_by(LANES) {
        let x = S::read(&x[i..]);
        sum = S::mul_add(x, x, sum);
    }
    let rstd = 1.0 / (S::sum(sum) / x.len() as f32 + eps).sqrt();
    scale_row(y, x, rstd, weight);
    rstd
}

#[inline(always)]
fn scale_row(y: &mut [f32], x: &[f32], rstd: f32, weight: &[f32]) {
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * rstd * weight;
    }
}

dispatch! { fn backward_row = backward_row_simd(dx: &mut [f32], dy: &[f32], x: &[f32], rstd: f32, weight: &[f32]) }

#[inline(always)]
fn backward_row_simd<S: Simd>(dx: &mut [f32], dy: &[f32], x: &[f32], rstd: f32, weight: &[f32]) {
    let mut sum = S::splat(0.0);
    for i in (0..x.len()).step_by(LANES) {
        sum = S::mul_add(S::mul(S::read(&weight[i..]), S::read(&dy[i..])), S::read(&x[i..]), sum);
    }
    let along_x = S::sum(sum) / x.len() as f32 * rstd * rstd;
    for (((dx, dy), x), weight) in dx.iter_mut().zip(dy).zip(x).zip(weight) {
        *dx += rstd * (weight * dy - x * along_x);
    }
}

dispatch! { fn add_weight_gradient = add_weight_gradient_simd(d_weight: &mut [f32], dy: &[f32], x: &[f32], rstd: f32) }

#[inline(always)]
fn add_weight_gradient_simd<S: Simd>(d_weight: &mut [f32], dy: &[f32], x: &[f32], rstd: f32) {
    for ((d_weight, dy), x) in d_weight.iter_mut().zip(dy).zip(x) {
        *d_weight += dy * x * rstd;
    }
}
