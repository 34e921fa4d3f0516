//! Between rows in memory and columns in lanes.

use super::simd::{LANES, Lanes, Simd};

/// Sixteen by sixteen: four rounds of a perfect shuffle, each moving one bit of the row number to the column's.
#[inline(always)]
pub(super) fn square<S: Simd>(mut v: [S::V; LANES]) -> [S::V; LANES] {
    for _ in 0..4 {
        let mut shuffled = v;
        for i in 0..LANES / 2 {
            (shuffled[2 * i], shuffled[2 * i + 1]) = S::zip(v[i], v[i + LANES / 2]);
        }
        v = shuffled;
    }
    v
}

/// `columns[p * stride]` = the `p`-th value of every row; lanes from `n_rows` on are zero.
#[inline(always)]
pub(super) fn rows_to_lanes<'a, S: Simd>(
    columns: &mut [Lanes],
    stride: usize,
    len: usize,
    n_rows: usize,
    row: impl Fn(usize) -> &'a [f32],
) {
    for start in (0..len).step_by(LANES) {
        let width = LANES.min(len - start);
        let mut v = [S::splat(0.0); LANES];
        // Of constant length, the loops are sixteen loads and stores, and the vectors stay in registers.
        if n_rows >= LANES && width == LANES {
            for (r, v) in v.iter_mut().enumerate() {
                *v = S::read(&row(r)[start..start + LANES]);
            }
            for (p, v) in square::<S>(v).into_iter().enumerate() {
                S::store(&mut columns[(start + p) * stride].0, v);
            }
            continue;
        }
        for (r, v) in v.iter_mut().enumerate().take(n_rows) {
            *v = S::read(&row(r)[start..start + width]);
        }
        for (p, v) in square::<S>(v).into_iter().enumerate().take(width) {
            S::store(&mut columns[(start + p) * stride].0, v);
        }
    }
}

/// The inverse: calls `write(row, values)` for `n_rows` rows, each in pieces of up to sixteen, with the piece's start.
#[inline(always)]
pub(super) fn lanes_to_rows<S: Simd>(columns: &[Lanes], n_rows: usize, mut write: impl FnMut(usize, usize, &[f32])) {
    for (block, piece) in columns.chunks(LANES).enumerate() {
        let mut v = [S::splat(0.0); LANES];
        for (v, lanes) in v.iter_mut().zip(piece) {
            *v = S::load(&lanes.0);
        }
        for (row, v) in square::<S>(v).into_iter().enumerate().take(n_rows) {
            write(row, block * LANES, &S::to_array(v)[..piece.len()]);
        }
    }
}
