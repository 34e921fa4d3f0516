//! Attention of new tokens over a cache of keys and values.
//!
//! A few new tokens (generation has one) read the cache once: lanes are dimensions, and all query heads of a key head
//! meet sixteen keys while these are in L1. Many (a prompt) take the blocks of [`super::attention`], whose lanes are
//! queries.

use super::Cpu;
use super::attention::{self, KeyMask};
use super::attention_kernels::forward_block;
use super::attention_tile::lanes_below;
use super::exp::exp;
use super::parallel::rows;
use super::simd::{LANES, Simd, dispatch};
use crate::device::AttentionShape;

/// New tokens from which lanes are queries.
const MANY_QUERIES: usize = 4;
/// Query heads that share one reading of the cache; a larger group reads it again.
const GROUP: usize = 8;

pub(super) fn forward(
    cpu: &Cpu,
    o: &mut [f32],
    q: &[f32],
    k_cache: &[f32],
    v_cache: &[f32],
    n_past: usize,
    shape: AttentionShape,
) {
    attention::check_heads(shape);
    let AttentionShape { n_tokens: n_new, heads, kv_heads, head_dim } = shape;
    if n_new >= MANY_QUERIES {
        cpu.for_rows(n_new, LANES, rows(o, n_new, heads * head_dim), |range, o| {
            let out = o.into_slice().chunks_mut(LANES * heads * head_dim);
            for (start, o) in range.step_by(LANES).zip(out) {
                forward_block(cpu.simd, o, None, q, k_cache, v_cache, KeyMask::Cached { n_past }, start, shape);
            }
        });
        return;
    }
    let group = heads / kv_heads;
    cpu.for_rows(n_new * heads, group, rows(o, n_new * heads, head_dim), |range, o| {
        let q = q[range.start * head_dim..range.end * head_dim].chunks(group * head_dim);
        let out = o.into_slice().chunks_mut(group * head_dim).zip(q);
        for (row, (o, q)) in range.step_by(group).zip(out) {
            let cache = Cache { k: k_cache, v: v_cache, kv_heads, head: row % heads / group, head_dim };
            let n_keys = n_past + row / heads + 1;
            for (o, q) in o.chunks_mut(GROUP * head_dim).zip(q.chunks(GROUP * head_dim)) {
                group_of_heads(cpu.simd, o, q, cache, n_keys);
            }
        }
    });
}

/// One head of the cache.
#[derive(Clone, Copy)]
struct Cache<'a> {
    k: &'a [f32], // [n_keys, kv_heads, head_dim]
    v: &'a [f32], // [n_keys, kv_heads, head_dim]
    kv_heads: usize,
    head: usize,
    head_dim: usize,
}

impl Cache<'_> {
    /// Sixteen rows from `start`; after the last of `n` it is repeated.
    #[inline(always)]
    fn rows<'a>(&self, buffer: &'a [f32], start: usize, n: usize) -> [&'a [f32]; LANES] {
        let mut rows: [&[f32]; LANES] = [&[]; _];
        for (i, row) in rows.iter_mut().enumerate() {
            let at = (start + i.min(n - 1)) * self.kv_heads + self.head;
            *row = &buffer[at * self.head_dim..][..self.head_dim];
        }
        rows
    }
}

dispatch! { fn group_of_heads = group_of_heads_simd(
    o: &mut [f32], // [group, head_dim]
    q: &[f32],     // [group, head_dim]
    cache: Cache<'_>,
    n_keys: usize,
) }

/// The online softmax of Milakov & Gimelshein 2018, algorithm 3, sixteen keys at a time.
#[inline(always)]
fn group_of_heads_simd<S: Simd>(o: &mut [f32], q: &[f32], cache: Cache<'_>, n_keys: usize) {
    let head_dim = cache.head_dim;
    let scale = S::splat(1.0 / (head_dim as f32).sqrt());
    let mut softmax = [(f32::MIN, S::splat(0.0)); GROUP];
    o.fill(0.0);
    for start in (0..n_keys).step_by(LANES) {
        let n = LANES.min(n_keys - start);
        let (k, v) = (cache.rows(cache.k, start, n), cache.rows(cache.v, start, n));
        let heads = o.chunks_exact_mut(head_dim).zip(q.chunks_exact(head_dim));
        for ((o, q), (max, sum)) in heads.zip(&mut softmax) {
            let score = S::select(lanes_below(n), S::mul(products::<S>(q, &k), scale), S::splat(f32::MIN));
            if S::greater(score, S::splat(*max)) != 0 {
                let new_max = S::to_array(score).into_iter().fold(*max, f32::max);
                let rescale = exp::<S>(S::splat(*max - new_max));
                *sum = S::mul(*sum, rescale);
                multiply::<S>(o, rescale);
                *max = new_max;
            }
            // Behind the last key: e^-87, which is nothing beside the 1 of the largest.
            let p = exp::<S>(S::sub(score, S::splat(*max)));
            *sum = S::add(*sum, p);
            add_weighted::<S>(o, &S::to_array(p), &v);
        }
    }
    for (o, (_, sum)) in o.chunks_exact_mut(head_dim).zip(softmax) {
        multiply::<S>(o, S::splat(1.0 / S::sum(sum)));
    }
}

#[inline(always)]
fn multiply<S: Simd>(x: &mut [f32], factor: S::V) {
    for i in (0..x.len()).step_by(LANES) {
        let product = S::mul(S::read(&x[i..]), factor);
        S::write(&mut x[i..], product);
    }
}

/// Lane `i` is the product of `q` and row `i`.
#[inline(always)]
fn products<S: Simd>(q: &[f32], rows: &[&[f32]; LANES]) -> S::V {
    let mut sums = [S::splat(0.0); LANES];
    partial_products::<S>(&mut sums, q, rows);
    add_halves::<S, 8>(&mut sums);
    add_halves::<S, 4>(&mut sums);
    add_halves::<S, 2>(&mut sums);
    add_halves::<S, 1>(&mut sums);
    sums[0]
}

/// Adds the halves of two vectors and interleaves what is left, so that lane `i` ends with row `i`.
#[inline(always)]
fn add_halves<S: Simd, const HALF: usize>(sums: &mut [S::V; LANES]) {
    for i in 0..HALF {
        let (low, high) = S::zip(sums[i], sums[i + HALF]);
        sums[i] = S::add(low, high);
    }
}

/// Products that are not yet summed over lanes.
#[inline(always)]
fn partial_products<S: Simd>(sums: &mut [S::V; LANES], q: &[f32], rows: &[&[f32]; LANES]) {
    /// Rows at a time: with AVX2 their sums are half of the registers.
    const R: usize = 4;
    let (whole, rest) = q.as_chunks::<LANES>();
    for (sums, rows) in sums.as_chunks_mut::<R>().0.iter_mut().zip(rows.as_chunks::<R>().0) {
        let mut whole_rows: [&[[f32; LANES]]; R] = [&[]; _];
        for (whole_row, row) in whole_rows.iter_mut().zip(rows) {
            *whole_row = &row.as_chunks().0[..whole.len()];
        }
        let mut part = [S::splat(0.0); R];
        for (d, q) in whole.iter().enumerate() {
            let q = S::load(q);
            for r in 0..R {
                part[r] = S::mul_add(q, S::load(&whole_rows[r][d]), part[r]);
            }
        }
        if !rest.is_empty() {
            for r in 0..R {
                let row = S::read(&rows[r][q.len() - rest.len()..]);
                part[r] = S::mul_add(S::read(rest), row, part[r]);
            }
        }
        *sums = part;
    }
}

/// `o += sum_i weights[i] * rows[i]`
#[inline(always)]
fn add_weighted<S: Simd>(o: &mut [f32], weights: &[f32; LANES], rows: &[&[f32]; LANES]) {
    /// Four vectors at a time: their sums do not wait for each other.
    const D: usize = 4 * LANES;
    let whole = o.len() / D * D;
    for at in (0..whole).step_by(D) {
        let o = o[at..at + D].as_chunks_mut::<LANES>().0;
        let mut sums = [S::splat(0.0); D / LANES];
        for (sum, o) in sums.iter_mut().zip(o.iter()) {
            *sum = S::load(o);
        }
        for (row, &weight) in rows.iter().zip(weights) {
            let row = row[at..at + D].as_chunks::<LANES>().0;
            for (sum, row) in sums.iter_mut().zip(row) {
                *sum = S::mul_add(S::splat(weight), S::load(row), *sum);
            }
        }
        for (sum, o) in sums.into_iter().zip(o) {
            S::store(o, sum);
        }
    }
    for at in (whole..o.len()).step_by(LANES) {
        let mut sum = S::read(&o[at..]);
        for (row, &weight) in rows.iter().zip(weights) {
            sum = S::mul_add(S::splat(weight), S::read(&row[at..]), sum);
        }
        S::write(&mut o[at..], sum);
    }
}
