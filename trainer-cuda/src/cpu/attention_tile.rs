//! What the blocks of [`super::attention_kernels`] are made of: tiles of tokens with masks, and their products.

use super::attention::{KeyMask, MAX_HEAD_DIM, Mask};
use super::simd::{LANES, Lanes, Simd};
use crate::device::AttentionShape;

/// Tokens of the other side per tile: with heads of 64, their keys are 12 KiB, a third of L1.
const TILE: usize = 48;
/// One vector per dimension of a head.
pub(super) type HeadLanes = [Lanes; MAX_HEAD_DIM];
/// One vector per token of a tile.
pub(super) type TileLanes = [Lanes; TILE];

/// Finds a token's head in a buffer.
pub(super) struct Heads {
    heads: usize,
    kv_heads: usize,
    pub(super) group: usize,
    head_dim: usize,
    pub(super) scale: f32,
}

impl Heads {
    #[inline(always)]
    pub(super) fn new(shape: AttentionShape) -> Self {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        Heads { heads, kv_heads, group: heads / kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() }
    }

    #[inline(always)]
    pub(super) fn row<'a>(&self, buffer: &'a [f32], row: usize) -> &'a [f32] {
        &buffer[row * self.head_dim..][..self.head_dim]
    }

    #[inline(always)]
    pub(super) fn query<'a>(&self, buffer: &'a [f32], token: usize, head: usize) -> &'a [f32] {
        self.row(buffer, token * self.heads + head)
    }

    /// The key or value that query head `head` reads.
    #[inline(always)]
    pub(super) fn key<'a>(&self, buffer: &'a [f32], token: usize, head: usize) -> &'a [f32] {
        self.row(buffer, token * self.kv_heads + head / self.group)
    }
}

/// The next tokens that any lane of the block sees, or is seen by, and which lanes.
pub(super) struct Tile {
    pub(super) n: usize,
    pub(super) token: [usize; TILE],
    pub(super) mask: [u16; TILE],
    next: Option<usize>,
}

impl Tile {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Tile { n: 0, token: [0; TILE], mask: [0; TILE], next: None }
    }

    #[inline(always)]
    pub(super) fn masks(&self) -> &[u16] {
        &self.mask[..self.n]
    }

    #[inline(always)]
    fn push(&mut self, token: usize, mask: u16) {
        (self.token[self.n], self.mask[self.n]) = (token, mask);
        self.n += 1;
    }

    /// Keys for a block of queries. False when there are no more.
    #[inline(always)]
    pub(super) fn next_keys(&mut self, start: usize, block: usize, mask: KeyMask<'_>) -> bool {
        match mask {
            KeyMask::Batch(Mask::Forest(subtree_end)) => self.next_ancestors(start, block, subtree_end),
            KeyMask::Batch(Mask::Segments(from, to)) => self.next_of_segments(start, block, from, to),
            KeyMask::Cached { n_past } => self.next_up_to(n_past + start, block),
        }
    }

    /// Queries for a block of keys. False when there are no more.
    #[inline(always)]
    pub(super) fn next_queries<S: Simd>(&mut self, start: usize, block: usize, mask: Mask<'_>) -> bool {
        match mask {
            Mask::Forest(subtree_end) => self.next_descendants::<S>(start, block, subtree_end),
            Mask::Segments(from, to) => self.next_of_segments(start, block, from, to),
        }
    }

    #[inline(always)]
    fn next_ancestors(&mut self, start: usize, block: usize, subtree_end: &[u32]) -> bool {
        self.n = 0;
        let mut key = self.next.unwrap_or(0);
        while key < start + block && self.n < TILE {
            let end = subtree_end[key] as usize;
            if end <= start {
                key = end; // closed before the block: none of its tokens is seen
                continue;
            }
            self.push(key, lanes_below(end - start) & !lanes_below(key.saturating_sub(start)));
            key += 1;
        }
        self.next = Some(key);
        self.n > 0
    }

    #[inline(always)]
    fn next_descendants<S: Simd>(&mut self, start: usize, block: usize, subtree_end: &[u32]) -> bool {
        self.n = 0;
        let block_end = &subtree_end[start..start + block];
        let last = block_end.iter().fold(0, |last, &end| last.max(end)) as usize;
        let mut lane_end = [0.0; LANES];
        for (lane_end, &end) in lane_end.iter_mut().zip(block_end) {
            *lane_end = (end as usize - start) as f32; // exact below 2^24 tokens
        }
        let lane_end = S::load(&lane_end);
        let first = self.next.unwrap_or(start);
        for query in first..last.min(first + TILE) {
            let inside = S::greater(lane_end, S::splat((query - start) as f32));
            self.push(query, inside & lanes_below(query - start + 1));
        }
        self.next = Some(first + self.n);
        self.n > 0
    }

    /// The segments that the block touches, whole: seeing is mutual.
    #[inline(always)]
    fn next_of_segments(&mut self, start: usize, block: usize, segment_start: &[u32], segment_end: &[u32]) -> bool {
        self.n = 0;
        let first = self.next.unwrap_or(segment_start[start] as usize);
        let last = segment_end[start + block - 1] as usize;
        for token in first..last.min(first + TILE) {
            let [from, to] = [segment_start, segment_end].map(|bound| (bound[token] as usize).saturating_sub(start));
            self.push(token, lanes_below(to) & !lanes_below(from));
        }
        self.next = Some(first + self.n);
        self.n > 0
    }

    /// Every token up to and with the block, whose first is token `start`.
    #[inline(always)]
    fn next_up_to(&mut self, start: usize, block: usize) -> bool {
        self.n = 0;
        let first = self.next.unwrap_or(0);
        for key in first..(start + block).min(first + TILE) {
            self.push(key, !lanes_below(key.saturating_sub(start)));
        }
        self.next = Some(first + self.n);
        self.n > 0
    }
}

/// Bits `0..n`.
#[inline(always)]
pub(super) fn lanes_below(n: usize) -> u16 {
    if n < LANES { (1 << n) - 1 } else { u16::MAX }
}

#[inline(always)]
pub(super) fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = S::splat(0.0);
    for i in (0..a.len()).step_by(LANES) {
        sum = S::mul_add(S::read(&a[i..]), S::read(&b[i..]), sum);
    }
    S::sum(sum)
}

#[inline(always)]
pub(super) fn scale<S: Simd>(lanes: &mut [Lanes], factor: S::V) {
    for lanes in lanes {
        let scaled = S::mul(S::load(&lanes.0), factor);
        S::store(&mut lanes.0, scaled);
    }
}

/// `out[i] = sum_d lanes[d] * row(i)[d]` for `i < n`.
#[inline(always)]
pub(super) fn products<'a, S: Simd>(out: &mut TileLanes, lanes: &[Lanes], n: usize, row: impl Fn(usize) -> &'a [f32]) {
    if S::MANY_REGISTERS {
        products_of::<S, 8>(out, lanes, n, row);
    } else {
        products_of::<S, 4>(out, lanes, n, row);
    }
}

#[inline(always)]
fn products_of<'a, S: Simd, const R: usize>(
    out: &mut TileLanes,
    lanes: &[Lanes],
    n: usize,
    row: impl Fn(usize) -> &'a [f32],
) {
    for first in (0..n).step_by(R) {
        // The last group repeats the last row; what that gives is not read.
        let rows: [&[f32]; R] = std::array::from_fn(|r| &row((first + r).min(n - 1))[..lanes.len()]);
        let mut sums = [S::splat(0.0); R];
        for (d, lanes) in lanes.iter().enumerate() {
            let lanes = S::load(&lanes.0);
            for r in 0..R {
                sums[r] = S::mul_add(lanes, S::splat(rows[r][d]), sums[r]);
            }
        }
        for (out, sum) in out[first..first + R].iter_mut().zip(sums) {
            S::store(&mut out.0, sum);
        }
    }
}

/// `lanes[d] += sum_i weights[i] * row(i)[d]` over `i < n`.
#[inline(always)]
pub(super) fn add_weighted<'a, S: Simd>(
    lanes: &mut [Lanes],
    weights: &TileLanes,
    n: usize,
    row: impl Fn(usize) -> &'a [f32],
) {
    if S::MANY_REGISTERS {
        add_weighted_by::<S, 8>(lanes, weights, n, row);
    } else {
        add_weighted_by::<S, 4>(lanes, weights, n, row);
    }
}

#[inline(always)]
fn add_weighted_by<'a, S: Simd, const D: usize>(
    lanes: &mut [Lanes],
    weights: &TileLanes,
    n: usize,
    row: impl Fn(usize) -> &'a [f32],
) {
    let (whole, rest) = lanes.as_chunks_mut::<D>();
    let rest_start = whole.len() * D;
    for (block, lanes) in whole.iter_mut().enumerate() {
        let mut sums = [S::splat(0.0); D];
        for d in 0..D {
            sums[d] = S::load(&lanes[d].0);
        }
        for (i, weight) in weights.iter().enumerate().take(n) {
            let weight = S::load(&weight.0);
            let row: &[f32; D] = &row(i).as_chunks().0[block];
            for d in 0..D {
                sums[d] = S::mul_add(weight, S::splat(row[d]), sums[d]);
            }
        }
        for d in 0..D {
            S::store(&mut lanes[d].0, sums[d]);
        }
    }
    for (d, lanes) in rest.iter_mut().enumerate() {
        let mut sum = S::load(&lanes.0);
        for (i, weight) in weights.iter().enumerate().take(n) {
            sum = S::mul_add(S::load(&weight.0), S::splat(row(i)[rest_start + d]), sum);
        }
        S::store(&mut lanes.0, sum);
    }
}
