//! The factor B of a product, and packing it: sixteen columns into lanes, k after k.

use super::bf16_products;
use super::gemm::{Operand, PANELS};
use super::gemm_tiles::Panels;
use super::matrix::{Matrix, Storage};
use super::simd::{LANES, Lanes, Pairs, Simd, SimdLevel, dispatch};
use super::transpose::{rows_to_lanes, square};
use crate::formats::BlockType;

/// Values of a row of blocks that are decoded at a time: the largest block.
const DECODED: usize = 256;

/// The factor B, `[k, n]`.
#[derive(Clone, Copy)]
pub(super) enum Factor<'a> {
    Values(Operand<'a>),
    /// The transpose of a weight `[n, k]`: `y = x W^T`.
    WeightRows(&'a Matrix),
    /// A weight `[k, n]`: `dx = dy W`.
    WeightColumns(&'a Matrix),
}

impl<'a> Factor<'a> {
    /// The transpose of a weight.
    pub(super) fn rows_of(weight: &'a Matrix) -> Self {
        match &weight.storage {
            Storage::Rows(values) => Factor::Values(Operand::k_contiguous(values, weight.cols)),
            _ => Factor::WeightRows(weight),
        }
    }

    /// A weight.
    pub(super) fn columns_of(weight: &'a Matrix) -> Self {
        match &weight.storage {
            Storage::Rows(values) => Factor::Values(Operand::lane_contiguous(values, weight.cols)),
            _ => Factor::WeightColumns(weight),
        }
    }

    fn storage(self) -> Option<&'a Storage> {
        match self {
            Factor::Values(_) => None,
            Factor::WeightRows(weight) | Factor::WeightColumns(weight) => Some(&weight.storage),
        }
    }

    /// Whether this is multiplied in bf16 by pairs.
    pub(super) fn multiplies_pairs(self, simd: SimdLevel) -> bool {
        simd.multiplies_bf16() && matches!(self.storage(), Some(Storage::PairPanels { round: true, .. }))
    }

    /// Values in a block along the columns; 1 where there are no blocks there.
    fn block_columns(self) -> usize {
        match (self, self.storage()) {
            (Factor::WeightColumns(_), Some(Storage::Blocks { block, .. })) => block.block().0,
            _ => 1,
        }
    }

    /// Panels that are packed together: whole blocks.
    pub(super) fn group_panels(self) -> usize {
        match self.block_columns() {
            1 => PANELS,
            32 => 2 * PANELS,
            columns => columns / LANES,
        }
    }

    /// What pieces of K are multiples of.
    pub(super) fn k_multiple(self) -> usize {
        match (self, self.storage()) {
            (Factor::WeightRows(_), Some(Storage::Blocks { block, .. })) => block.block().0.max(LANES),
            _ => LANES,
        }
    }

    /// The panels from `column` on where they lie in memory as the tiles want them.
    pub(super) fn in_place(self, pairs: bool, column: usize, n: usize, k: usize, n_rows: usize) -> Option<Panels> {
        match (self, self.storage()) {
            (Factor::WeightRows(weight), Some(Storage::Panels(panels))) => {
                let lanes = &panels.as_slice()[column / LANES * weight.cols + k..];
                Some(Panels { data: lanes.as_ptr().cast(), k_stride: LANES, panel_stride: LANES * weight.cols })
            }
            (Factor::WeightRows(weight), Some(Storage::PairPanels { pairs: panels, .. })) if pairs => {
                let depth = weight.cols.div_ceil(2);
                let lanes = &panels.as_slice()[column / LANES * depth + k..];
                Some(Panels { data: lanes.as_ptr().cast(), k_stride: LANES, panel_stride: LANES * depth })
            }
            // One strip of rows reads each value once, as packing would.
            (Factor::Values(Operand { data, lane_stride: 1, k_stride }), _)
                if n_rows <= LANES && n.is_multiple_of(LANES) =>
            {
                Some(Panels { data: data[k * k_stride + column..].as_ptr(), k_stride, panel_stride: LANES })
            }
            _ => None,
        }
    }
}

/// Bytes before a row of blocks.
pub(super) fn row_bytes(block: BlockType, cols: usize, row: usize) -> usize {
    let (values, bytes) = block.block();
    row * (cols / values) * bytes
}

dispatch! { pub(super) fn pack_rows = pack_rows_simd(
    packed: &mut [Lanes], // [depth]
    operand: Operand<'_>,
    first: usize, // first row or column
    count: usize, // the first sixteen count; lanes behind are zero
    k_start: usize,
) }

#[inline(always)]
fn pack_rows_simd<S: Simd>(packed: &mut [Lanes], operand: Operand<'_>, first: usize, count: usize, k_start: usize) {
    let (count, depth) = (count.min(LANES), packed.len());
    if operand.k_stride == 1 {
        let row = |r| &operand.data[(first + r) * operand.lane_stride + k_start..][..depth];
        return rows_to_lanes::<S>(packed, 1, depth, count, row);
    }
    for (p, packed) in packed.iter_mut().enumerate() {
        let lanes = &operand.data[(k_start + p) * operand.k_stride + first * operand.lane_stride..][..count];
        S::store(&mut packed.0, S::read(lanes));
    }
}

dispatch! { pub(super) fn pack = pack_simd(
    packed: &mut [Lanes], // [panels, depth]
    level: SimdLevel,
    factor: Factor<'_>,
    pairs: bool,
    column: usize, // the first, a multiple of sixteen
    n: usize,
    k_start: usize, // in words, as the depth
    depth: usize,
) }

#[inline(always)]
fn pack_simd<S: Simd>(
    packed: &mut [Lanes],
    level: SimdLevel,
    factor: Factor<'_>,
    pairs: bool,
    column: usize,
    n: usize,
    k_start: usize,
    depth: usize,
) {
    let (weight, transposed) = match factor {
        Factor::Values(operand) => {
            for (panel, packed) in packed.chunks_exact_mut(depth).enumerate() {
                let first = column + panel * LANES;
                pack_rows_simd::<S>(packed, operand, first, n - first, k_start);
            }
            return;
        }
        Factor::WeightRows(weight) => (weight, false),
        Factor::WeightColumns(weight) => (weight, true),
    };
    if let (Storage::Blocks { block, bytes }, true) = (&weight.storage, transposed) {
        return pack_block_columns(packed, *block, bytes, weight.cols, column, k_start, depth);
    }
    for (panel, packed) in packed.chunks_exact_mut(depth).enumerate() {
        let first = column + panel * LANES;
        let count = (n - first).min(LANES);
        match (&weight.storage, transposed) {
            (Storage::Panels(panels), true) => {
                let vector = |k: usize, column: usize| S::load(&panels.as_slice()[k / LANES * n + column].0);
                columns_to_lanes::<S>(packed, k_start, |k, v| {
                    (0..count).for_each(|i| v[i] = vector(k, first + i));
                });
            }
            (Storage::PairPanels { pairs: panels, .. }, true) if pairs => {
                let (depth, panels) = (n.div_ceil(2), panels.as_slice());
                bf16_products::pack_pair_columns(level, packed, panels, depth, first / 2, 2 * k_start);
            }
            (Storage::PairPanels { pairs: panels, .. }, true) => {
                let (depth, panels) = (n.div_ceil(2), panels.as_slice());
                columns_to_lanes::<S>(packed, k_start, |k, v| {
                    let columns = &panels[k / LANES * depth + first / 2..][..count.div_ceil(2)];
                    for (i, pairs) in columns.iter().enumerate() {
                        (v[2 * i], v[2 * i + 1]) = S::widen(&pairs.0);
                    }
                });
            }
            (Storage::PairPanels { pairs: panels, .. }, false) => {
                let start = first / LANES * weight.cols.div_ceil(2) + k_start / 2;
                widen_pairs::<S>(packed, &panels.as_slice()[start..]);
            }
            (Storage::Blocks { block, bytes }, false) => {
                pack_block_rows::<S>(packed, *block, bytes, weight.cols, first, count, k_start);
            }
            _ => unreachable!("panels of rows are multiplied in place, rows are values"),
        }
    }
}

/// Packs from panels whose lanes are k: `read(k, v)` gives the vectors of `k..k + 16`, one a column.
#[inline(always)]
fn columns_to_lanes<S: Simd>(packed: &mut [Lanes], k_start: usize, read: impl Fn(usize, &mut [S::V; LANES])) {
    for (block, packed) in packed.chunks_mut(LANES).enumerate() {
        let mut v = [S::splat(0.0); LANES];
        read(k_start + block * LANES, &mut v);
        for (packed, v) in packed.iter_mut().zip(square::<S>(v)) {
            S::store(&mut packed.0, v);
        }
    }
}

/// Pairs of k that are lanes already.
#[inline(always)]
fn widen_pairs<S: Simd>(packed: &mut [Lanes], pairs: &[Pairs]) {
    for (packed, pairs) in packed.chunks_mut(2).zip(pairs) {
        let (even, odd) = S::widen(&pairs.0);
        S::store(&mut packed[0].0, even);
        if let Some(packed) = packed.get_mut(1) {
            S::store(&mut packed.0, odd);
        }
    }
}

/// `count` rows of blocks into lanes.
#[inline(always)]
fn pack_block_rows<S: Simd>(
    packed: &mut [Lanes],
    block: BlockType,
    bytes: &[u8],
    cols: usize,
    first: usize,
    count: usize,
    k_start: usize,
) {
    let mut values = [[0.0; DECODED]; LANES];
    for (piece, packed) in packed.chunks_mut(DECODED).enumerate() {
        let (k, len) = (k_start + piece * DECODED, packed.len());
        for (row, values) in values.iter_mut().enumerate().take(count) {
            let start = row_bytes(block, cols, first + row) + row_bytes(block, k, 1);
            block.decode(&bytes[start..], &mut values[..len]);
        }
        rows_to_lanes::<S>(packed, 1, len, count, |row| &values[row][..len]);
    }
}

/// A group of whole blocks of `depth` rows into panels.
fn pack_block_columns(
    packed: &mut [Lanes], // [panels, depth]
    block: BlockType,
    bytes: &[u8],
    cols: usize,
    column: usize,
    k_start: usize,
    depth: usize,
) {
    let width = (cols - column).min(packed.len() / depth * LANES);
    let mut values = [0.0; DECODED];
    for k in 0..depth {
        let start = row_bytes(block, cols, k_start + k) + row_bytes(block, column, 1);
        block.decode(&bytes[start..], &mut values[..width]);
        values[width..].fill(0.0);
        for (packed, values) in packed.chunks_exact_mut(depth).zip(values.as_chunks().0) {
            packed[k].0 = *values;
        }
    }
}
