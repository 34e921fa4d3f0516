//! One block of sixteen tokens of [`super::attention`].

use super::attention::{MAX_HEAD_DIM, Saved};
use super::exp::exp;
use super::simd::{LANES, Lanes, Simd, dispatch};
use super::transpose::{lanes_to_rows, rows_to_lanes};
use crate::device::AttentionShape;

/// Tokens of the other side per tile: with heads of 64, their keys are 12 KiB, a third of L1.
const TILE: usize = 48;
/// One vector per dimension of a head.
type HeadLanes = [Lanes; MAX_HEAD_DIM];
/// One vector per token of a tile.
type TileLanes = [Lanes; TILE];

dispatch! { pub(super) fn forward_block = forward_block_simd(
    o: &mut [f32],   // [block, heads, head_dim]
    lse: &mut [f32], // [block, heads]
    q: &[f32],
    k: &[f32],
    v: &[f32],
    subtree_end: &[u32],
    start: usize,
    shape: AttentionShape,
) }

#[inline(always)]
fn forward_block_simd<S: Simd>(
    o: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    subtree_end: &[u32],
    start: usize,
    shape: AttentionShape,
) {
    let heads = Heads::new(shape);
    let block = LANES.min(shape.n_tokens - start);
    let (mut q_lanes, mut o_lanes): (HeadLanes, HeadLanes) = ([Lanes::ZERO; _], [Lanes::ZERO; _]);
    let mut p: TileLanes = [Lanes::ZERO; _];
    for head in 0..shape.heads {
        let (q_lanes, o_lanes) = (&mut q_lanes[..shape.head_dim], &mut o_lanes[..shape.head_dim]);
        rows_to_lanes::<S>(q_lanes, 1, shape.head_dim, block, |lane| heads.query(q, start + lane, head));
        o_lanes.fill(Lanes::ZERO);

        // The running maximum and sum of Milakov & Gimelshein 2018, algorithm 3: what was summed under the old
        // maximum is scaled to the new one.
        let (mut max, mut sum) = (S::splat(f32::MIN), S::splat(0.0));
        let mut keys = Tile::new();
        while keys.next_keys(start, block, subtree_end) {
            products::<S>(&mut p, q_lanes, keys.n, |i| heads.key(k, keys.token[i], head));
            let old_max = max;
            for (p, &mask) in p.iter_mut().zip(keys.masks()) {
                let score = S::mul(S::load(&p.0), S::splat(heads.scale));
                S::store(&mut p.0, score);
                max = S::max(max, S::select(mask, score, S::splat(f32::MIN)));
            }
            let rescale = exp::<S>(S::sub(old_max, max));
            sum = S::mul(sum, rescale);
            for (p, &mask) in p.iter_mut().zip(keys.masks()) {
                let e = S::select(mask, exp::<S>(S::sub(S::load(&p.0), max)), S::splat(0.0));
                S::store(&mut p.0, e);
                sum = S::add(sum, e);
            }
            scale::<S>(o_lanes, rescale);
            add_weighted::<S>(o_lanes, &p, keys.n, |i| heads.key(v, keys.token[i], head));
        }
        scale::<S>(o_lanes, S::div(S::splat(1.0), sum));
        lanes_to_rows::<S>(o_lanes, block, |lane, at, values| {
            o[(lane * shape.heads + head) * shape.head_dim + at..][..values.len()].copy_from_slice(values);
        });
        for (lane, (max, sum)) in S::to_array(max).into_iter().zip(S::to_array(sum)).enumerate().take(block) {
            lse[lane * shape.heads + head] = max + sum.ln();
        }
    }
}

dispatch! { pub(super) fn backward_query_block = backward_query_block_simd(
    dq: &mut [f32],    // [block, heads, head_dim]
    delta: &mut [f32], // [block, heads]
    saved: Saved<'_>,
    subtree_end: &[u32],
    start: usize,
    shape: AttentionShape,
) }

#[inline(always)]
fn backward_query_block_simd<S: Simd>(
    dq: &mut [f32],
    delta: &mut [f32],
    saved: Saved<'_>,
    subtree_end: &[u32],
    start: usize,
    shape: AttentionShape,
) {
    let heads = Heads::new(shape);
    let block = LANES.min(shape.n_tokens - start);
    let mut lanes: [HeadLanes; 3] = [[Lanes::ZERO; _]; _];
    let (mut p, mut dp): (TileLanes, TileLanes) = ([Lanes::ZERO; _], [Lanes::ZERO; _]);
    for head in 0..shape.heads {
        let [q_lanes, do_lanes, dq_lanes] = lanes.each_mut().map(|lanes| &mut lanes[..shape.head_dim]);
        rows_to_lanes::<S>(q_lanes, 1, shape.head_dim, block, |lane| heads.query(saved.q, start + lane, head));
        rows_to_lanes::<S>(do_lanes, 1, shape.head_dim, block, |lane| heads.query(saved.d_o, start + lane, head));
        dq_lanes.fill(Lanes::ZERO);

        let (mut block_delta, mut block_lse) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..block {
            let token = start + lane;
            let dot = dot::<S>(heads.query(saved.d_o, token, head), heads.query(saved.o, token, head));
            delta[lane * shape.heads + head] = dot;
            (block_delta[lane], block_lse[lane]) = (dot, saved.lse[token * shape.heads + head]);
        }
        let (block_delta, block_lse) = (S::load(&block_delta), S::load(&block_lse));

        let mut keys = Tile::new();
        while keys.next_keys(start, block, subtree_end) {
            products::<S>(&mut p, q_lanes, keys.n, |i| heads.key(saved.k, keys.token[i], head));
            products::<S>(&mut dp, do_lanes, keys.n, |i| heads.key(saved.v, keys.token[i], head));
            for ((p, dp), &mask) in p.iter().zip(&mut dp).zip(keys.masks()) {
                let p = probability::<S>(&heads, p, block_lse, mask);
                let ds = d_score::<S>(&heads, p, dp, block_delta);
                S::store(&mut dp.0, ds);
            }
            add_weighted::<S>(dq_lanes, &dp, keys.n, |i| heads.key(saved.k, keys.token[i], head));
        }
        lanes_to_rows::<S>(dq_lanes, block, |lane, at, values| {
            dq[(lane * shape.heads + head) * shape.head_dim + at..][..values.len()].copy_from_slice(values);
        });
    }
}

dispatch! { pub(super) fn backward_key_block = backward_key_block_simd(
    dk: &mut [f32], // [block, kv_heads, head_dim]
    dv: &mut [f32], // [block, kv_heads, head_dim]
    delta: &[f32],  // [n_tokens, heads]
    saved: Saved<'_>,
    subtree_end: &[u32],
    start: usize,
    shape: AttentionShape,
) }

#[inline(always)]
fn backward_key_block_simd<S: Simd>(
    dk: &mut [f32],
    dv: &mut [f32],
    delta: &[f32],
    saved: Saved<'_>,
    subtree_end: &[u32],
    start: usize,
    shape: AttentionShape,
) {
    let heads = Heads::new(shape);
    let block = LANES.min(shape.n_tokens - start);
    let mut lanes: [HeadLanes; 4] = [[Lanes::ZERO; _]; _];
    let (mut p, mut ds): (TileLanes, TileLanes) = ([Lanes::ZERO; _], [Lanes::ZERO; _]);
    for kv_head in 0..shape.kv_heads {
        let [k_lanes, v_lanes, dk_lanes, dv_lanes] = lanes.each_mut().map(|lanes| &mut lanes[..shape.head_dim]);
        let row = |lane| (start + lane) * shape.kv_heads + kv_head;
        rows_to_lanes::<S>(k_lanes, 1, shape.head_dim, block, |lane| heads.row(saved.k, row(lane)));
        rows_to_lanes::<S>(v_lanes, 1, shape.head_dim, block, |lane| heads.row(saved.v, row(lane)));
        dk_lanes.fill(Lanes::ZERO);
        dv_lanes.fill(Lanes::ZERO);

        let mut queries = Tile::new();
        while queries.next_queries::<S>(start, block, subtree_end) {
            for head in kv_head * heads.group..(kv_head + 1) * heads.group {
                products::<S>(&mut p, k_lanes, queries.n, |i| heads.query(saved.q, queries.token[i], head));
                products::<S>(&mut ds, v_lanes, queries.n, |i| heads.query(saved.d_o, queries.token[i], head));
                for (i, (p, ds)) in p.iter_mut().zip(&mut ds).enumerate().take(queries.n) {
                    let row = queries.token[i] * shape.heads + head;
                    let probability = probability::<S>(&heads, p, S::splat(saved.lse[row]), queries.mask[i]);
                    S::store(&mut p.0, probability);
                    let d_score = d_score::<S>(&heads, probability, ds, S::splat(delta[row]));
                    S::store(&mut ds.0, d_score);
                }
                add_weighted::<S>(dv_lanes, &p, queries.n, |i| heads.query(saved.d_o, queries.token[i], head));
                add_weighted::<S>(dk_lanes, &ds, queries.n, |i| heads.query(saved.q, queries.token[i], head));
            }
        }
        for (lanes, out) in [(dk_lanes, &mut *dk), (dv_lanes, &mut *dv)] {
            lanes_to_rows::<S>(lanes, block, |lane, at, values| {
                out[(lane * shape.kv_heads + kv_head) * shape.head_dim + at..][..values.len()].copy_from_slice(values);
            });
        }
    }
}

/// Finds a token's head in a buffer.
struct Heads {
    heads: usize,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    scale: f32,
}

impl Heads {
    #[inline(always)]
    fn new(shape: AttentionShape) -> Self {
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        Heads { heads, kv_heads, group: heads / kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() }
    }

    #[inline(always)]
    fn row<'a>(&self, buffer: &'a [f32], row: usize) -> &'a [f32] {
        &buffer[row * self.head_dim..][..self.head_dim]
    }

    #[inline(always)]
    fn query<'a>(&self, buffer: &'a [f32], token: usize, head: usize) -> &'a [f32] {
        self.row(buffer, token * self.heads + head)
    }

    /// The key or value that query head `head` reads.
    #[inline(always)]
    fn key<'a>(&self, buffer: &'a [f32], token: usize, head: usize) -> &'a [f32] {
        self.row(buffer, token * self.kv_heads + head / self.group)
    }
}

/// The next tokens that any lane of the block sees, or is seen by, and which lanes.
struct Tile {
    n: usize,
    token: [usize; TILE],
    mask: [u16; TILE],
    next: Option<usize>,
}

impl Tile {
    #[inline(always)]
    fn new() -> Self {
        Tile { n: 0, token: [0; TILE], mask: [0; TILE], next: None }
    }

    #[inline(always)]
    fn masks(&self) -> &[u16] {
        &self.mask[..self.n]
    }

    #[inline(always)]
    fn push(&mut self, token: usize, mask: u16) {
        (self.token[self.n], self.mask[self.n]) = (token, mask);
        self.n += 1;
    }

    /// Keys for a block of queries. False when there are no more.
    #[inline(always)]
    fn next_keys(&mut self, start: usize, block: usize, subtree_end: &[u32]) -> bool {
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

    /// Queries for a block of keys. False when there are no more.
    #[inline(always)]
    fn next_queries<S: Simd>(&mut self, start: usize, block: usize, subtree_end: &[u32]) -> bool {
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
}

/// Bits `0..n`.
#[inline(always)]
fn lanes_below(n: usize) -> u16 {
    if n < LANES { (1 << n) - 1 } else { u16::MAX }
}

/// `softmax` from the saved log sum exp; zero where the mask is.
#[inline(always)]
fn probability<S: Simd>(heads: &Heads, product: &Lanes, lse: S::V, mask: u16) -> S::V {
    let score = S::mul(S::load(&product.0), S::splat(heads.scale));
    S::select(mask, exp::<S>(S::sub(score, lse)), S::splat(0.0))
}

/// Gradient of a product before scaling: `p * (dp - delta) * scale`.
#[inline(always)]
fn d_score<S: Simd>(heads: &Heads, p: S::V, dp: &Lanes, delta: S::V) -> S::V {
    S::mul(S::mul(p, S::sub(S::load(&dp.0), delta)), S::splat(heads.scale))
}

#[inline(always)]
fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = S::splat(0.0);
    for i in (0..a.len()).step_by(LANES) {
        sum = S::mul_add(S::read(&a[i..]), S::read(&b[i..]), sum);
    }
    S::sum(sum)
}

#[inline(always)]
fn scale<S: Simd>(lanes: &mut [Lanes], factor: S::V) {
    for lanes in lanes {
        let scaled = S::mul(S::load(&lanes.0), factor);
        S::store(&mut lanes.0, scaled);
    }
}

/// `out[i] = sum_d lanes[d] * row(i)[d]` for `i < n`.
#[inline(always)]
fn products<'a, S: Simd>(out: &mut TileLanes, lanes: &[Lanes], n: usize, row: impl Fn(usize) -> &'a [f32]) {
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
fn add_weighted<'a, S: Simd>(lanes: &mut [Lanes], weights: &TileLanes, n: usize, row: impl Fn(usize) -> &'a [f32]) {
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
