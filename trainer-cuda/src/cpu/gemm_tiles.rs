//! The register tiles of [`super::gemm`].

use super::gemm::PANELS;
use super::simd::{LANES, Simd, dispatch, prefetch};

/// Rows of A as the tiles read them: words of one f32, or of two bf16.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) data: *const f32,
    /// Distance of two rows.
    pub(super) row_stride: usize,
    /// Distance of sixteen rows.
    pub(super) sixteen: usize,
    /// Distance of two words of a row.
    pub(super) k_stride: usize,
}

impl Rows {
    /// From `row`, a multiple of sixteen, and the `k`-th word on.
    pub(super) fn at(self, row: usize, k: usize) -> Self {
        debug_assert!(row.is_multiple_of(LANES));
        Rows { data: self.data.wrapping_add(row / LANES * self.sixteen + k * self.k_stride), ..self }
    }
}

/// Panels of B, sixteen columns each.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    pub(super) data: *const f32,
    /// Distance of two vectors of a panel.
    pub(super) k_stride: usize,
    /// Distance of two panels.
    pub(super) panel_stride: usize,
}

/// Where the product goes.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// First element.
    pub(super) c: *mut f32,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
    pub(super) n_rows: usize,
    pub(super) n_cols: usize,
    /// `C += alpha A B` instead of `C = alpha A B`.
    pub(super) accumulate: bool,
    pub(super) alpha: f32,
}

/// How a word of A meets a word of B.
pub(super) trait Multiply<S: Simd> {
    /// `c` and the product.
    fn add(a: S::V, b: S::V, c: S::V) -> S::V;
}

pub(super) struct F32;

impl<S: Simd> Multiply<S> for F32 {
    #[inline(always)]
    fn add(a: S::V, b: S::V, c: S::V) -> S::V {
        S::mul_add(a, b, c)
    }
}

dispatch! { pub(super) fn multiply_tiles = f32_tiles(a: Rows, b: Panels, depth: usize, target: &Target) }

#[inline(always)]
fn f32_tiles<S: Simd>(a: Rows, b: Panels, depth: usize, target: &Target) {
    tiles::<S, F32>(a, b, depth, target);
}

/// All rows by all columns of the target, as tiles of up to eight rows by three panels. A panel's share of a few
/// hundred KiB is read from the L2 cache by each strip of rows; a row's vector lasts for sixteen of its values.
#[inline(always)]
pub(super) fn tiles<S: Simd, M: Multiply<S>>(a: Rows, b: Panels, depth: usize, target: &Target) {
    // 8 x 48: 24 accumulators, 3 panels and a broadcast in 32 registers; 11 loads for 24 FMAs.
    // 4 x 16 in 16 half registers: 8 accumulators, 2 for the panel; as many as two FMA pipes of latency 4 need.
    let (tallest, widest) = if S::MANY_REGISTERS { (8, PANELS) } else { (4, 1) };
    let n_panels = target.n_cols.div_ceil(LANES);
    let mut panel = 0;
    while panel < n_panels {
        let width = widest.min(n_panels - panel);
        let b = Panels { data: b.data.wrapping_add(panel * b.panel_stride), ..b };
        let mut row = 0;
        while row < target.n_rows {
            let height = tallest.min(1 << (target.n_rows - row).ilog2());
            match (height, width) {
                (8, 3) => tile::<S, M, 8, 3>(a, b, depth, target, row, panel),
                (8, 2) => tile::<S, M, 8, 2>(a, b, depth, target, row, panel),
                (8, _) => tile::<S, M, 8, 1>(a, b, depth, target, row, panel),
                (4, 3) => tile::<S, M, 4, 3>(a, b, depth, target, row, panel),
                (4, 2) => tile::<S, M, 4, 2>(a, b, depth, target, row, panel),
                (4, _) => tile::<S, M, 4, 1>(a, b, depth, target, row, panel),
                (2, 3) => tile::<S, M, 2, 3>(a, b, depth, target, row, panel),
                (2, 2) => tile::<S, M, 2, 2>(a, b, depth, target, row, panel),
                (2, _) => tile::<S, M, 2, 1>(a, b, depth, target, row, panel),
                (_, 3) => tile::<S, M, 1, 3>(a, b, depth, target, row, panel),
                (_, 2) => tile::<S, M, 1, 2>(a, b, depth, target, row, panel),
                (_, _) => tile::<S, M, 1, 1>(a, b, depth, target, row, panel),
            }
            row += height;
        }
        panel += width;
    }
}

#[inline(always)]
fn tile<S: Simd, M: Multiply<S>, const R: usize, const N: usize>(
    a: Rows,
    b: Panels,
    depth: usize,
    target: &Target,
    row: usize,
    panel: usize,
) {
    let first = a.data.wrapping_add(row / LANES * a.sixteen + row % LANES * a.row_stride);
    let a_rows: [*const f32; R] = std::array::from_fn(|r| first.wrapping_add(r * a.row_stride));
    let b_panels: [*const f32; N] = std::array::from_fn(|n| b.data.wrapping_add(n * b.panel_stride));
    let n_cols = target.n_cols - panel * LANES;
    // SAFETY: row and panel are inside the target, which the caller owns.
    let c = unsafe { target.c.add(row * target.row_stride + panel * LANES * target.col_stride) };
    if target.accumulate && target.col_stride == 1 {
        for r in 0..R {
            prefetch::<false, _>(c.wrapping_add(r * target.row_stride), n_cols.min(N * LANES));
        }
    }

    let mut sums = [[S::splat(0.0); N]; R];
    let (mut at_a, mut at_b) = (0, 0);
    for _ in 0..depth {
        let mut vectors = [S::splat(0.0); N];
        for n in 0..N {
            // SAFETY: the driver gives as many panels as the target has columns, `depth` vectors each.
            vectors[n] = S::load(unsafe { &*b_panels[n].add(at_b).cast() });
        }
        for r in 0..R {
            // SAFETY: the driver gives as many rows as the target has, `depth` words each.
            let word = S::splat(unsafe { *a_rows[r].add(at_a) });
            for n in 0..N {
                sums[r][n] = M::add(word, vectors[n], sums[r][n]);
            }
        }
        (at_a, at_b) = (at_a + a.k_stride, at_b + b.k_stride);
    }

    let alpha = S::splat(target.alpha);
    if target.col_stride == 1 && n_cols >= N * LANES {
        for (r, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.iter().enumerate() {
                // SAFETY: sixteen columns of that row are in the target, and no one else writes them.
                let c: &mut [f32; LANES] = unsafe { &mut *c.add(r * target.row_stride + n * LANES).cast() };
                S::store(c, if target.accumulate { S::mul_add(alpha, sum, S::load(c)) } else { S::mul(alpha, sum) });
            }
        }
        return;
    }
    let mut values = [[[0.0; LANES]; N]; R];
    let place = |r: usize, column: usize| c.wrapping_add(r * target.row_stride + column * target.col_stride);
    if target.accumulate {
        // SAFETY: `R` rows of `n_cols` columns are in the target, and no one else writes them.
        each_value(&mut values, n_cols, |r, column, value| *value = unsafe { *place(r, column) });
    }
    for r in 0..R {
        for n in 0..N {
            let (sum, old) = (sums[r][n], S::load(&values[r][n]));
            let new = if target.accumulate { S::mul_add(alpha, sum, old) } else { S::mul(alpha, sum) };
            S::store(&mut values[r][n], new);
        }
    }
    // SAFETY: as above.
    each_value(&mut values, n_cols, |r, column, value| unsafe { *place(r, column) = *value });
}

/// Calls `visit(row, column, value)` for the first `n_cols` columns of a tile.
#[inline(always)]
fn each_value<const R: usize, const N: usize>(
    values: &mut [[[f32; LANES]; N]; R],
    n_cols: usize,
    visit: impl Fn(usize, usize, &mut f32),
) {
    for column in 0..n_cols.min(N * LANES) {
        for (r, values) in values.iter_mut().enumerate() {
            visit(r, column, &mut values[column / LANES][column % LANES]);
        }
    }
}
