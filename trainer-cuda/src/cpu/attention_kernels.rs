//! One block of sixteen tokens of [`super::attention`].

use super::attention::{KeyMask, Mask, Saved};
use super::attention_tile::{HeadLanes, Heads, Tile, TileLanes, add_weighted, dot, products, scale};
use super::exp::exp;
use super::simd::{LANES, Lanes, Simd, dispatch};
use super::transpose::{lanes_to_rows, rows_to_lanes};
use crate::device::AttentionShape;

dispatch! { pub(super) fn forward_block = forward_block_simd(
    o: &mut [f32],           // [block, heads, head_dim]
    lse: Option<&mut [f32]>, // [block, heads]
    q: &[f32],
    k: &[f32],
    v: &[f32],
    mask: KeyMask<'_>,
    start: usize,
    shape: AttentionShape,
) }

#[inline(always)]
fn forward_block_simd<S: Simd>(
    o: &mut [f32],
    mut lse: Option<&mut [f32]>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    mask: KeyMask<'_>,
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
        while keys.next_keys(start, block, mask) {
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
        if let Some(lse) = &mut lse {
            for (lane, (max, sum)) in S::to_array(max).into_iter().zip(S::to_array(sum)).enumerate().take(block) {
                lse[lane * shape.heads + head] = max + sum.ln();
            }
        }
    }
}

dispatch! { pub(super) fn backward_query_block = backward_query_block_simd(
    dq: &mut [f32],    // [block, heads, head_dim]
    delta: &mut [f32], // [block, heads]
    saved: Saved<'_>,
    mask: Mask<'_>,
    start: usize,
    shape: AttentionShape,
) }

#[inline(always)]
fn backward_query_block_simd<S: Simd>(
    dq: &mut [f32],
    delta: &mut [f32],
    saved: Saved<'_>,
    mask: Mask<'_>,
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
        while keys.next_keys(start, block, KeyMask::Batch(mask)) {
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
    mask: Mask<'_>,
    start: usize,
    shape: AttentionShape,
) }

#[inline(always)]
fn backward_key_block_simd<S: Simd>(
    dk: &mut [f32],
    dv: &mut [f32],
    delta: &[f32],
    saved: Saved<'_>,
    mask: Mask<'_>,
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
        while queries.next_queries::<S>(start, block, mask) {
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
