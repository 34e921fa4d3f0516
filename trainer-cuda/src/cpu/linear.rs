//! Linear layers.

use super::gemm::{Operand, Product, gemm};
use super::{Cpu, Matrix};

pub(super) fn forward(cpu: &Cpu, y: &mut [f32], x: &[f32], weight: &Matrix, n_tokens: usize) {
    let (n, k) = (weight.rows, weight.cols);
    let (x, weight) = (Operand::k_contiguous(x, k), Operand::k_contiguous(&weight.data, k));
    gemm(cpu, y, x, weight, Product { m: n_tokens, n, k, alpha: 1.0, accumulate: false });
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
    let (dy, weight) = (Operand::k_contiguous(dy, k), Operand::lane_contiguous(&weight.data, n));
    gemm(cpu, dx, dy, weight, Product { m: n_tokens, n, k, alpha: 1.0, accumulate });
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
    let product = Product { m: out_features, n: in_features, k: n_tokens, alpha: 1.0, accumulate: true };
    gemm(cpu, d_weight, dy, x, product);
}
