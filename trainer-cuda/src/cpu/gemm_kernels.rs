//! The inner parts of [`super::gemm`]: packing sixteen rows or columns into lanes, and the register tile.

use super::gemm::{Operand, PANELS};
use super::simd::{LANES, Lanes, Simd, dispatch};
use super::transpose::rows_to_lanes;

dispatch! { pub(super) fn pack = pack_simd(
    packed: &mut [Lanes], // [depth, stride], every `stride`-th is written
    stride: usize,
    operand: Operand<'_>,
    first: usize,   // first row or column
    count: usize,   // at most 16; the other lanes are zero
    k_start: usize,
    depth: usize,
) }

#[inline(always)]
fn pack_simd<S: Simd>(
    packed: &mut [Lanes],
    stride: usize,
    operand: Operand<'_>,
    first: usize,
    count: usize,
    k_start: usize,
    depth: usize,
) {
    let count = count.min(LANES);
    if operand.k_stride == 1 {
        let row = |r| &operand.data[(first + r) * operand.lane_stride + k_start..][..depth];
        return rows_to_lanes::<S>(packed, stride, depth, count, row);
    }
    for p in 0..depth {
        let lanes = &operand.data[(k_start + p) * operand.k_stride + first..][..count];
        S::store(&mut packed[p * stride].0, S::read(lanes));
    }
}

/// Where a strip of the product goes.
pub(super) struct Target {
    /// First element of the strip in C.
    pub(super) c: *mut f32,
    /// Distance of two rows of C.
    pub(super) row_stride: usize,
    /// Rows of the strip, at most 16.
    pub(super) n_rows: usize,
    /// Columns of the strip, at most `16 * PANELS`.
    pub(super) n_cols: usize,
    /// `C += alpha A B` instead of `C = alpha A B`.
    pub(super) accumulate: bool,
    pub(super) alpha: f32,
}

dispatch! { pub(super) fn strip = strip_simd(
    a: &[Lanes], // [depth], 16 rows
    b: &[Lanes], // [depth, panels], 16 columns each
    panels: usize,
    target: &Target,
) }

/// Sixteen rows by all the panels, as register tiles of `R` rows by `N` panels.
#[inline(always)]
fn strip_simd<S: Simd>(a: &[Lanes], b: &[Lanes], panels: usize, target: &Target) {
    // 8 x 48: 24 accumulators, 3 panels and a broadcast from memory in 32 registers; 11 loads for 24 FMAs.
    // 4 x 16 in 16 half registers: 8 accumulators, 2 for the panel; as many as two FMA pipes of latency 4 need.
    match (S::MANY_REGISTERS, panels) {
        (true, 3) => tiles::<S, 8, 3>(a, b, panels, target),
        (true, 2) => tiles::<S, 8, 2>(a, b, panels, target),
        (true, _) => tiles::<S, 8, 1>(a, b, panels, target),
        (false, _) => tiles::<S, 4, 1>(a, b, panels, target),
    }
}

#[inline(always)]
fn tiles<S: Simd, const R: usize, const N: usize>(a: &[Lanes], b: &[Lanes], panels: usize, target: &Target) {
    debug_assert!(panels <= PANELS && panels.is_multiple_of(N));
    for row in (0..target.n_rows).step_by(R) {
        for panel in (0..panels).step_by(N) {
            let mut sums = [[S::splat(0.0); N]; R];
            for (a, b) in a.iter().zip(b.chunks_exact(panels)) {
                let a: &[f32; R] = &a.0.as_chunks().0[row / R];
                let b: &[Lanes; N] = &b[panel..].as_chunks().0[0];
                let mut lanes = [S::splat(0.0); N];
                for n in 0..N {
                    lanes[n] = S::load(&b[n].0);
                }
                for r in 0..R {
                    let a = S::splat(a[r]);
                    for n in 0..N {
                        sums[r][n] = S::mul_add(a, lanes[n], sums[r][n]);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate().take(target.n_rows - row) {
                for (n, &sum) in sums.iter().enumerate() {
                    let column = (panel + n) * LANES;
                    // SAFETY: row and column are inside the strip, which the caller owns.
                    let c = unsafe { target.c.add((row + r) * target.row_stride + column) };
                    let width = (target.n_cols - column).min(LANES);
                    // SAFETY: `width` values of that row are in the strip, and no one else writes them.
                    let c = unsafe { std::slice::from_raw_parts_mut(c, width) };
                    let alpha = S::splat(target.alpha);
                    S::write(
                        c,
                        if target.accumulate { S::mul_add(alpha, sum, S::read(c)) } else { S::mul(alpha, sum) },
                    );
                }
            }
        }
    }
}
