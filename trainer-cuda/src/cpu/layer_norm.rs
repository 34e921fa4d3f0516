//! LayerNorm (Ba et al. 2016, eq. 4).

use super::elementwise::GRAIN;
use super::parallel::rows;
use super::simd::{LANES, Simd, dispatch};
use super::{Cpu, Matrix};

pub(super) fn forward(
    cpu: &Cpu,
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    weight: &Matrix,
    bias: &Matrix,
    eps: f32,
    n_tokens: usize,
) {
    let hidden = weight.cols;
    let out = (rows(y, n_tokens, hidden), rows(mean, n_tokens, 1), rows(rstd, n_tokens, 1));
    cpu.for_rows(n_tokens, GRAIN.div_ceil(hidden), out, |range, (y, mean, rstd)| {
        let x = x[range.start * hidden..range.end * hidden].chunks_exact(hidden);
        let statistics = mean.into_slice().iter_mut().zip(rstd.into_slice());
        for ((y, (mean, rstd)), x) in y.into_slice().chunks_exact_mut(hidden).zip(statistics).zip(x) {
            (*mean, *rstd) = forward_row(cpu.simd, y, x, weight.values(), bias.values(), eps);
        }
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    dx: &mut [f32],
    d_weight: Option<&mut [f32]>,
    d_bias: Option<&mut [f32]>,
    y: Option<&mut [f32]>,
    dy: &[f32],
    x: &[f32],
    mean: &[f32],
    rstd: &[f32],
    weight: &Matrix,
    bias: &Matrix,
    n_tokens: usize,
) {
    let hidden = weight.cols;
    let grain = GRAIN.div_ceil(hidden);
    if let Some(y) = y {
        cpu.for_rows(n_tokens, grain, rows(y, n_tokens, hidden), |range, y| {
            for (y, t) in y.into_slice().chunks_exact_mut(hidden).zip(range) {
                y.copy_from_slice(&x[t * hidden..][..hidden]);
                y.iter_mut().for_each(|y| *y -= mean[t]);
                scale_row(y, rstd[t], weight.values(), bias.values());
            }
        });
    }
    cpu.for_rows(n_tokens, grain, rows(dx, n_tokens, hidden), |range, dx| {
        for (dx, t) in dx.into_slice().chunks_exact_mut(hidden).zip(range) {
            let row = t * hidden..(t + 1) * hidden;
            backward_row(cpu.simd, dx, &dy[row.clone()], &x[row], mean[t], rstd[t], weight.values());
        }
    });
    if let Some(d_weight) = d_weight {
        // Each task owns some columns and adds up the tokens in order.
        let columns = GRAIN.div_ceil(n_tokens.max(1)).next_multiple_of(LANES);
        cpu.for_rows(hidden, columns, rows(d_weight, hidden, 1), |range, d_weight| {
            let d_weight = d_weight.into_slice();
            for (t, (&mean, &rstd)) in mean[..n_tokens].iter().zip(rstd).enumerate() {
                let row = t * hidden + range.start..t * hidden + range.end;
                add_weight_gradient(cpu.simd, d_weight, &dy[row.clone()], &x[row], mean, rstd);
            }
        });
    }
    if let Some(d_bias) = d_bias {
        super::linear::backward_bias(cpu, d_bias, dy, hidden, n_tokens);
    }
}

dispatch! { fn forward_row = forward_row_simd(
    y: &mut [f32],
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) -> (f32, f32) }

/// Returns the mean and the inverse deviation. The deviation is taken around the mean: with `mean(x^2) - mean^2` a mean
/// a thousand times the deviation would leave none of its bits.
#[inline(always)]
fn forward_row_simd<S: Simd>(y: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> (f32, f32) {
    let mut sum = S::splat(0.0);
    for i in (0..x.len()).step_by(LANES) {
        sum = S::add(sum, S::read(&x[i..]));
    }
    let mean = S::sum(sum) / x.len() as f32;
    for (y, x) in y.iter_mut().zip(x) {
        *y = x - mean;
    }
    let mut squares = S::splat(0.0);
    for i in (0..y.len()).step_by(LANES) {
        let centred = S::read(&y[i..]);
        squares = S::mul_add(centred, centred, squares);
    }
    let rstd = 1.0 / (S::sum(squares) / x.len() as f32 + eps).sqrt();
    scale_row(y, rstd, weight, bias);
    (mean, rstd)
}

/// From centred values to the result.
#[inline(always)]
fn scale_row(y: &mut [f32], rstd: f32, weight: &[f32], bias: &[f32]) {
    for ((y, weight), bias) in y.iter_mut().zip(weight).zip(bias) {
        *y = *y * rstd * weight + bias;
    }
}

dispatch! { fn backward_row = backward_row_simd(
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    mean: f32,
    rstd: f32,
    weight: &[f32],
) }

#[inline(always)]
fn backward_row_simd<S: Simd>(dx: &mut [f32], dy: &[f32], x: &[f32], mean: f32, rstd: f32, weight: &[f32]) {
    let (mut sum, mut along) = (S::splat(0.0), S::splat(0.0));
    for i in (0..x.len()).step_by(LANES) {
        let g = S::mul(S::read(&weight[i..]), S::read(&dy[i..]));
        sum = S::add(sum, g);
        along = S::mul_add(g, S::sub(S::read(&x[i..]), S::splat(mean)), along);
    }
    let n = x.len() as f32;
    let (mean_g, along) = (S::sum(sum) / n, S::sum(along) / n * rstd * rstd);
    for (((dx, dy), x), weight) in dx.iter_mut().zip(dy).zip(x).zip(weight) {
        *dx = rstd * (weight * dy - mean_g - (x - mean) * along);
    }
}

dispatch! { fn add_weight_gradient = add_weight_gradient_simd(
    d_weight: &mut [f32],
    dy: &[f32],
    x: &[f32],
    mean: f32,
    rstd: f32,
) }

#[inline(always)]
fn add_weight_gradient_simd<S: Simd>(d_weight: &mut [f32], dy: &[f32], x: &[f32], mean: f32, rstd: f32) {
    for ((d_weight, dy), x) in d_weight.iter_mut().zip(dy).zip(x) {
        *d_weight += dy * (x - mean) * rstd;
    }
}
