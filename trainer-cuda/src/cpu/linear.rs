//! Linear layers.

use super::elementwise::GRAIN;
use super::gemm::{Operand, Product, gemm};
use super::gemm_pack::Factor;
use super::parallel::rows;
use super::{Cpu, Matrix};

pub(super) fn forward(cpu: &Cpu, y: &mut [f32], x: &[f32], weight: &Matrix, n_tokens: usize) {
    let (n, k) = (weight.rows, weight.cols);
    gemm(cpu, y, Operand::k_contiguous(x, k), Factor::rows_of(weight), Product::new(n_tokens, n, k));
}

/// `y += residual`.
pub(super) fn add_residual(cpu: &Cpu, y: &mut [f32], residual: &[f32], len: usize) {
    let residual = &residual[..len];
    cpu.for_rows(len, GRAIN, rows(y, len, 1), |range, y| {
        for (y, residual) in y.into_slice().iter_mut().zip(&residual[range]) {
            *y += residual;
        }
    });
}

pub(super) fn add_bias(cpu: &Cpu, y: &mut [f32], bias: &Matrix, n_tokens: usize) {
    let (bias, width) = (bias.values(), bias.cols);
    cpu.for_rows(n_tokens, GRAIN.div_ceil(width), rows(y, n_tokens, width), |_, y| {
        for y in y.into_slice().chunks_exact_mut(width) {
            for (y, bias) in y.iter_mut().zip(bias) {
                *y += bias;
            }
        }
    });
}

/// Column by column over all tokens, so the order of summation is that of the tokens.
pub(super) fn backward_bias(cpu: &Cpu, d_bias: &mut [f32], dy: &[f32], width: usize, n_tokens: usize) {
    let grain = GRAIN.div_ceil(n_tokens.max(1));
    cpu.for_rows(width, grain, rows(d_bias, width, 1), |range, d_bias| {
        let d_bias = d_bias.into_slice();
        for dy in dy[..n_tokens * width].chunks_exact(width) {
            for (d_bias, dy) in d_bias.iter_mut().zip(&dy[range.clone()]) {
                *d_bias += dy;
            }
        }
    });
}

pub(super) fn backward_input(
    cpu: &Cpu,
    dx: &mut [f32],
    dy: &[f32],
    weight: &Matrix,
    n_tokens: usize,
    accumulate: bool,
) {
    let (k, n) = (weight.rows, weight.cols);
    let product = Product { accumulate, ..Product::new(n_tokens, n, k) };
    gemm(cpu, dx, Operand::k_contiguous(dy, k), Factor::columns_of(weight), product);
}

pub(super) fn backward_weight(
    cpu: &Cpu,
    d_weight: &mut [f32],
    dy: &[f32],
    x: &[f32],
    out_features: usize,
    in_features: usize,
    n_tokens: usize,
) {
    let (dy, x) = (Operand::lane_contiguous(dy, out_features), Operand::lane_contiguous(x, in_features));
    let product = Product { accumulate: true, ..Product::new(out_features, in_features, n_tokens) };
    gemm(cpu, d_weight, dy, Factor::Values(x), product);
}
