//! The low-rank path beside a linear layer (Hu et al. 2021, eq. 3).

use super::gemm::{Operand, Product, gemm};
use super::gemm_dot::{self, FEW};
use super::gemm_pack::Factor;
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
    let (rank, out) = (a.rows, b.rows);
    down(cpu, h, x, a, n_tokens);
    let product = Product { alpha: scaling, accumulate: true, ..Product::new(n_tokens, out, rank) };
    gemm(cpu, y, Operand::k_contiguous(h, rank), Factor::rows_of(b), product);
}

pub(super) fn down(cpu: &Cpu, h: &mut [f32], x: &[f32], a: &Matrix, n_tokens: usize) {
    let (rank, inp) = (a.rows, a.cols);
    match rank < FEW {
        true => gemm_dot::product(cpu, h, x, a.values(), [n_tokens, rank, inp], inp, 1.0),
        false => linear::forward(cpu, h, x, a, n_tokens),
    }
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
    // d_b^T = h^T dy: the lanes are `out`, of which there are more than `rank`.
    let (h_t, dy_rows) = (Operand::lane_contiguous(h, rank), Factor::Values(Operand::lane_contiguous(dy, out)));
    let d_b_t = Product { alpha: scaling, accumulate: true, transposed: true, ..Product::new(rank, out, n_tokens) };
    gemm(cpu, d_b, h_t, dy_rows, d_b_t);

    match rank < FEW {
        true => gemm_dot::product_transposed(cpu, d_h, dy, b.values(), [n_tokens, rank, out], scaling),
        false => {
            let product = Product { alpha: scaling, ..Product::new(n_tokens, rank, out) };
            gemm(cpu, d_h, Operand::k_contiguous(dy, out), Factor::columns_of(b), product);
        }
    }

    linear::backward_weight(cpu, d_a, d_h, x, rank, inp, n_tokens);
    linear::backward_input(cpu, dx, d_h, a, n_tokens, true);
}
