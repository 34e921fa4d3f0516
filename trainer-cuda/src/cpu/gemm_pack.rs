//! The factor B of a product, and packing it: sixteen columns into lanes, k after k.

use std::ops::Range;

use super::bf16_products;
use super::gemm::{Operand, PANELS};
use super::gemm_tiles::Panels;
use super::matrix::{Matrix, Storage};
use super::simd::{LANES, Lanes, Pairs, Simd, SimdLevel, dispatch, prefetch};
use super::transpose::{rows_to_lanes, square};
use crate::formats::BlockType;

/// Values of a row of blocks that are decoded at a time: the largest block.
const DECODED: usize = 256;
/// Pairs of columns of a panel.
const PAIRED: usize = LANES / 2;

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

impl Factor<'_> {
    /// Whether what is packed together lies far apart, where the processor does not look by itself.
    pub(super) fn is_far_apart(self) -> bool {
        matches!(
            (self, self.storage()),
            (Factor::WeightColumns(_), Some(Storage::Panels(_) | Storage::PairPanels { .. }))
        )
    }

    /// Asks for the `share`-th of `shares` parts of what packing columns `column..` from word `k_start` on will
    /// read.
    pub(super) fn prefetch_columns(
        self,
        pairs: bool,
        columns: Range<usize>,
        words: Range<usize>,
        share: usize,
        shares: usize,
    ) {
        let Factor::WeightColumns(weight) = self else { return };
        let per_word = if pairs { 2 } else { 1 };
        let (first, last) = (words.start * per_word / LANES, (words.end * per_word).div_ceil(LANES));
        let part = |share: usize| first + (last - first) * share / shares;
        let columns = columns.start..columns.end.min(weight.cols);
        for panel in part(share)..part(share + 1).min(weight.rows.div_ceil(LANES)) {
            match &weight.storage {
                Storage::Panels(panels) => {
                    let vectors = &panels.as_slice()[panel * weight.cols..][columns.clone()];
                    prefetch::<true, _>(vectors.as_ptr(), vectors.len());
                }
                Storage::PairPanels { pairs, .. } => {
                    let vectors = &pairs.as_slice()[panel * weight.cols.div_ceil(2)..];
                    let vectors = &vectors[columns.start / 2..columns.end.div_ceil(2)];
                    prefetch::<true, _>(vectors.as_ptr(), vectors.len());
                }
                Storage::Blocks { .. } | Storage::Rows(_) => {}
            }
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
    let n_panels = packed.len() / depth;
    match factor {
        Factor::Values(operand) => {
            for (panel, packed) in packed.chunks_exact_mut(depth).enumerate() {
                let first = column + panel * LANES;
                pack_rows_simd::<S>(packed, operand, first, n - first, k_start);
            }
        }
        Factor::WeightRows(weight) => {
            for (panel, packed) in packed.chunks_exact_mut(depth).enumerate() {
                let first = column + panel * LANES;
                match &weight.storage {
                    Storage::PairPanels { pairs, .. } => {
                        let start = first / LANES * weight.cols.div_ceil(2) + k_start / 2;
                        widen_pairs::<S>(packed, &pairs.as_slice()[start..]);
                    }
                    Storage::Blocks { block, bytes } => {
                        let count = (n - first).min(LANES);
                        pack_block_rows::<S>(packed, *block, bytes, weight.cols, first, count, k_start);
                    }
                    Storage::Panels(_) | Storage::Rows(_) => unreachable!("multiplied in place, or as values"),
                }
            }
        }
        Factor::WeightColumns(weight) => match &weight.storage {
            Storage::Panels(panels) => {
                let (panels, width) = (panels.as_slice(), n_panels * LANES);
                let vectors = |k: usize| &panels[k / LANES * n..][column..n.min(column + width)];
                columns_to_lanes::<S, _, LANES>(packed, depth, k_start, Lanes::ZERO, vectors, |vectors, v| {
                    for (v, vector) in v.iter_mut().zip(vectors) {
                        *v = S::load(&vector.0);
                    }
                });
            }
            Storage::PairPanels { pairs: panels, .. } if pairs => {
                let (n_pairs, first) = (n.div_ceil(2), column / 2);
                bf16_products::pack_pair_columns(level, packed, panels.as_slice(), n_pairs, first, 2 * k_start, depth);
            }
            Storage::PairPanels { pairs: panels, .. } => {
                let (panels, n_pairs, width) = (panels.as_slice(), n.div_ceil(2), n_panels * PAIRED);
                let first = column / 2;
                let vectors = |k: usize| &panels[k / LANES * n_pairs..][first..n_pairs.min(first + width)];
                columns_to_lanes::<S, _, PAIRED>(packed, depth, k_start, Pairs::ZERO, vectors, |vectors, v| {
                    for (v, pairs) in v.as_chunks_mut::<2>().0.iter_mut().zip(vectors) {
                        (v[0], v[1]) = S::widen(&pairs.0);
                    }
                });
            }
            Storage::Blocks { block, bytes } => {
                pack_block_columns(packed, *block, bytes, weight.cols, column, k_start, depth);
            }
            Storage::Rows(_) => unreachable!("rows are values"),
        },
    }
}

/// Packs from panels whose lanes are k: `vectors(k)` are those of `k..k + 16`, column after column, and `load` turns `N`
/// of them into those of sixteen columns.
#[inline(always)]
fn columns_to_lanes<'a, S: Simd, T: Copy + 'a, const N: usize>(
    packed: &mut [Lanes], // [panels, depth]
    depth: usize,
    k_start: usize,
    zero: T,
    vectors: impl Fn(usize) -> &'a [T],
    load: impl Fn(&[T; N], &mut [S::V; LANES]),
) {
    let (n_panels, end) = (packed.len() / depth, k_start + depth);
    for k in (k_start..end).step_by(LANES) {
        if k + LANES < end {
            // The next rows lie far away, where the processor does not look by itself.
            let next = vectors(k + LANES);
            prefetch::<false, _>(next.as_ptr(), next.len());
        }
        let vectors = vectors(k);
        for panel in 0..n_panels {
            let columns = &vectors[panel * N..];
            let mut padded = [zero; N];
            let columns = columns.first_chunk().unwrap_or_else(|| {
                padded[..columns.len()].copy_from_slice(columns);
                &padded
            });
            let mut v = [S::splat(0.0); LANES];
            load(columns, &mut v);
            let v = square::<S>(v);
            let packed = &mut packed[panel * depth + k - k_start..][..LANES.min(end - k)];
            // Of constant length, the loop is sixteen stores, and the vectors stay in registers.
            match packed.first_chunk_mut::<LANES>() {
                Some(packed) => store_each::<S>(packed, v),
                None => {
                    let mut whole = [Lanes::ZERO; LANES];
                    store_each::<S>(&mut whole, v);
                    packed.copy_from_slice(&whole[..packed.len()]);
                }
            }
        }
    }
}

#[inline(always)]
fn store_each<S: Simd>(packed: &mut [Lanes; LANES], v: [S::V; LANES]) {
    for (packed, v) in packed.iter_mut().zip(v) {
        S::store(&mut packed.0, v);
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
