//! The low-rank path beside a linear layer (Hu et al. 2021, eq. 3).

use super::gemm::{Operand, Product, gemm};
use super::{Cpu, Matrix, linear};

pub(super) fn forward(
    cpu: &Cpu,
    y: &mut [f32],
    h: &mut [f32],
    x: &[f32],
    a: &Matrix,
    b: &Matrix,
    scaling: f32,
    n_tokens: usize,
) {
    assert_eq!(a.rows, b.cols, "rank of a and b");
    linear::forward(cpu, h, x, a, n_tokens);
    let (n, rank) = (b.rows, b.cols);
    let (h, b) = (Operand::k_contiguous(h, rank), Operand::k_contiguous(&b.data, rank));
    gemm(cpu, y, h, b, Product { m: n_tokens, n, k: rank, alpha: scaling, accumulate: true });
}

pub(super) fn backward(
    cpu: &Cpu,
    dx: &mut [f32],
    d_a: &mut [f32],
    d_b: &mut [f32],
    d_h: &mut [f32],
    dy: &[f32],
    x: &[f32],
    h: &[f32],
    a: &Matrix,
    b: &Matrix,
    scaling: f32,
    n_tokens: usize,
) {
    assert_eq!(a.rows, b.cols, "rank of a and b");
    let (rank, out, inp) = (a.rows, b.rows, a.cols);
    let (dy_t, h) = (Operand::lane_contiguous(dy, out), Operand::lane_contiguous(h, rank));
    gemm(cpu, d_b, dy_t, h, Product { m: out, n: rank, k: n_tokens, alpha: scaling, accumulate: true });

    let (dy, b) = (Operand::k_contiguous(dy, out), Operand::lane_contiguous(&b.data, rank));
    gemm(cpu, d_h, dy, b, Product { m: n_tokens, n: rank, k: out, alpha: scaling, accumulate: false });

    linear::backward_weight(cpu, d_a, d_h, x, rank, inp, n_tokens);
    linear::backward_input(cpu, dx, d_h, a, n_tokens, true);
}
