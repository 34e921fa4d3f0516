//! Products with few columns, such as `h = x a^T` of a low-rank update: both factors lie along k, so the sums run over
//! k in the lanes and nothing is packed. (Eight columns would fill half of the lanes of [`super::gemm`]'s tiles.)

use super::Cpu;
use super::gemm::{Operand, Product, gemm};
use super::gemm_pack::Factor;
use super::parallel::rows;
use super::simd::{LANES, Lanes, Simd, dispatch, flat};
use super::transpose::rows_to_lanes;

/// From as many columns on, the other kernel's tiles are full.
pub(super) const FEW: usize = 48;
/// Rows and columns of a tile: sixteen sums.
const ROWS: usize = 2;
const COLUMNS: usize = LANES / ROWS;
/// Vectors of products that make a task: some 5 us.
const TASK: usize = 20_000;

/// `c = alpha * a b^T` with a few columns `n` columns, rows of `a` and `b` being `k` and `b_stride` values long.
pub(super) fn product(
    cpu: &Cpu,
    c: &mut [f32], // [m, n]
    a: &[f32],     // [m, k]
    b: &[f32],     // [n, b_stride], of which [n, k]
    [m, n, k]: [usize; 3],
    b_stride: usize,
    alpha: f32,
) {
    let grain = TASK.div_ceil((n * k).div_ceil(LANES).max(1)).next_multiple_of(ROWS);
    cpu.for_rows(m, grain, rows(c, m, n), |range, c| {
        tiles(cpu.simd, c.into_slice(), &a[range.start * k..range.end * k], b, n, k, b_stride, alpha);
    });
}

/// `c = alpha * a b`, where `b` is transposed first.
pub(super) fn product_transposed(
    cpu: &Cpu,
    c: &mut [f32], // [m, n]
    a: &[f32],     // [m, k]
    b: &[f32],     // [k, n]
    [m, n, k]: [usize; 3],
    alpha: f32,
) {
    let blocks = k.div_ceil(LANES);
    let mut scratch = cpu.scratch.lock();
    if n * blocks > scratch.len() {
        drop(scratch);
        let product = Product { alpha, ..Product::new(m, n, k) };
        return gemm(cpu, c, Operand::k_contiguous(a, k), Factor::Values(Operand::lane_contiguous(b, n)), product);
    }
    let columns = &mut scratch[..n * blocks];
    transpose(cpu.simd, columns, b, n, k);
    product(cpu, c, a, flat(columns), [m, n, k], blocks * LANES, alpha);
}

dispatch! { fn transpose = transpose_simd(columns: &mut [Lanes], b: &[f32], n: usize, k: usize) }

#[inline(always)]
fn transpose_simd<S: Simd>(columns: &mut [Lanes], b: &[f32], n: usize, k: usize) {
    let blocks = k.div_ceil(LANES);
    for block in 0..blocks {
        let first = block * LANES;
        let row = |r: usize| &b[(first + r) * n..][..n];
        rows_to_lanes::<S>(&mut columns[block..], blocks, n, (k - first).min(LANES), row);
    }
}

dispatch! { fn tiles = tiles_simd(
    c: &mut [f32],
    a: &[f32],
    b: &[f32],
    n: usize,
    k: usize,
    b_stride: usize,
    alpha: f32,
) }

#[inline(always)]
fn tiles_simd<S: Simd>(c: &mut [f32], a: &[f32], b: &[f32], n: usize, k: usize, b_stride: usize, alpha: f32) {
    let m = c.len() / n;
    for row in (0..m).step_by(ROWS) {
        // Past the last row or column, the last again: its sums are not written.
        let a: [&[f32]; ROWS] = std::array::from_fn(|r| &a[(row + r).min(m - 1) * k..][..k]);
        for column in (0..n).step_by(COLUMNS) {
            let b: [&[f32]; COLUMNS] = std::array::from_fn(|i| &b[(column + i).min(n - 1) * b_stride..][..k]);
            let mut sums = [S::splat(0.0); LANES];
            if S::MANY_REGISTERS {
                sums_of::<S, COLUMNS>(&mut sums, &a, &b);
            } else {
                // Four sums, two and two factors, in sixteen half registers.
                for first in (0..COLUMNS).step_by(2) {
                    sums_of::<S, 2>(&mut sums[first..], &a, &b[first..]);
                }
            }
            let sums = S::to_array(S::mul(S::splat(alpha), sum_each::<S>(sums)));
            let width = (n - column).min(COLUMNS);
            for (c, sums) in c[row * n..].chunks_mut(n).zip(sums.chunks_exact(COLUMNS)) {
                c[column..column + width].copy_from_slice(&sums[..width]);
            }
        }
    }
}

/// `sums[r * COLUMNS + i]` = the lanes of `a[r] . b[i]`, for `C` columns.
#[inline(always)]
fn sums_of<S: Simd, const C: usize>(sums: &mut [S::V], a: &[&[f32]; ROWS], b: &[&[f32]]) {
    let mut own = [[S::splat(0.0); C]; ROWS];
    let whole = a[0].len() / LANES;
    let a_whole: [_; ROWS] = std::array::from_fn(|r| &a[r].as_chunks::<LANES>().0[..whole]);
    let b_whole: [_; C] = std::array::from_fn(|i| &b[i].as_chunks::<LANES>().0[..whole]);
    for p in 0..whole {
        let mut a = [S::splat(0.0); ROWS];
        for r in 0..ROWS {
            a[r] = S::load(&a_whole[r][p]);
        }
        for i in 0..C {
            let b = S::load(&b_whole[i][p]);
            for r in 0..ROWS {
                own[r][i] = S::mul_add(a[r], b, own[r][i]);
            }
        }
    }
    if a[0].len() > whole * LANES {
        for i in 0..C {
            let b = S::read(&b[i][whole * LANES..]);
            for r in 0..ROWS {
                own[r][i] = S::mul_add(S::read(&a[r][whole * LANES..]), b, own[r][i]);
            }
        }
    }
    for r in 0..ROWS {
        sums[r * COLUMNS..r * COLUMNS + C].copy_from_slice(&own[r]);
    }
}

/// Lane `l` = the sum of `v[l]`'s lanes, as the tree of [`Simd::sum`].
#[inline(always)]
fn sum_each<S: Simd>(mut v: [S::V; LANES]) -> S::V {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            let (low, high) = S::zip(v[i], v[i + half]);
            v[i] = S::add(low, high);
        }
    }
    v[0]
}
