//! The low-rank path beside a linear layer (Hu et al. 2021, eq. 3).

use super::gemm::{Operand, Product, gemm};
use super::gemm_dot::{self, FEW};
use super::gemm_pack::Factor;
use super::{Cpu, Matrix, linear};
use crate::device::LowRank;

/// `h = x a^T`.
pub(super) fn down(cpu: &Cpu, h: &mut [f32], x: &[f32], a: &Matrix, n_tokens: usize) {
    let (rank, inp) = (a.rows, a.cols);
    match rank < FEW {
        true => gemm_dot::product(cpu, h, x, a.values(), [n_tokens, rank, inp], inp, 1.0),
        false => linear::forward(cpu, h, x, a, n_tokens),
    }
}

/// `y += scaling * h b^T`.
pub(super) fn add_up(cpu: &Cpu, y: &mut [f32], h: &[f32], update: &LowRank<'_, Cpu>, n_tokens: usize) {
    let (rank, out) = (check_rank(update), update.b.rows);
    let product = Product { alpha: update.scaling, accumulate: true, ..Product::new(n_tokens, out, rank) };
    gemm(cpu, y, Operand::k_contiguous(h, rank), Factor::rows_of(update.b), product);
}

/// `d_h = scaling * dy b`.
pub(super) fn backward(cpu: &Cpu, d_h: &mut [f32], dy: &[f32], update: &LowRank<'_, Cpu>, n_tokens: usize) {
    let (rank, out) = (check_rank(update), update.b.rows);
    match rank < FEW {
        true => {
            let shape = [n_tokens, rank, out];
            gemm_dot::product_transposed(cpu, d_h, dy, update.b.values(), shape, update.scaling);
        }
        false => {
            let product = Product { alpha: update.scaling, ..Product::new(n_tokens, rank, out) };
            gemm(cpu, d_h, Operand::k_contiguous(dy, out), Factor::columns_of(update.b), product);
        }
    }
}

/// `d_b += scaling * dy^T h`.
pub(super) fn b_gradient(
    cpu: &Cpu,
    d_b: &mut [f32],
    dy: &[f32],
    h: &[f32],
    [out, rank]: [usize; 2],
    scaling: f32,
    n_tokens: usize,
) {
    // d_b^T = h^T dy: the lanes are `out`, of which there are more than `rank`.
    let (h_t, dy_rows) = (Operand::lane_contiguous(h, rank), Factor::Values(Operand::lane_contiguous(dy, out)));
    let d_b_t = Product { alpha: scaling, accumulate: true, transposed: true, ..Product::new(rank, out, n_tokens) };
    gemm(cpu, d_b, h_t, dy_rows, d_b_t);
}

fn check_rank(update: &LowRank<'_, Cpu>) -> usize {
    assert_eq!(update.a.rows, update.b.cols, "rank of a and b");
    update.a.rows
}
