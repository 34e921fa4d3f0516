//! Softmax attention over a forest (query `q` sees key `k` iff `k <= q && q < subtree_end[k]`) or within segments.
//!
//! Lanes are sixteen neighbouring tokens: queries in the forward pass and for `dq`, keys for `dk` and `dv`. They meet
//! the tokens of the other side in tiles of 48, with one bit a lane for who sees whom. Tokens are in depth-first
//! order, so the keys of a query are found by walking from 0 and jumping over closed subtrees whole, and the queries
//! of a key are one range. A segment is one range for both. Nothing is scattered: every result has one writer and one order of summation.

use super::Cpu;
use super::attention_kernels::{backward_key_block, backward_query_block, forward_block};
use super::parallel::rows;
use super::simd::LANES;
use crate::device::{AttentionShape, Visibility, assert_visible};

/// Widest head; bounds the kernels' scratch on the stack (64 KiB).
pub(super) const MAX_HEAD_DIM: usize = 256;

/// What the backward pass reads.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub(super) d_o: &'a [f32], // [n_tokens, heads, head_dim]
    pub(super) o: &'a [f32],   // [n_tokens, heads, head_dim]
    pub(super) lse: &'a [f32], // [n_tokens, heads]
    pub(super) q: &'a [f32],   // [n_tokens, heads, head_dim]
    pub(super) k: &'a [f32],   // [n_tokens, kv_heads, head_dim]
    pub(super) v: &'a [f32],   // [n_tokens, kv_heads, head_dim]
}

/// Who sees whom.
#[derive(Clone, Copy)]
pub(super) enum Mask<'a> {
    /// Exclusive index where the subtree of each token ends.
    Forest(&'a [u32]), // [n_tokens]
    /// First token and exclusive end of each token's segment.
    Segments(&'a [u32], &'a [u32]), // [n_tokens] each
}

/// A mask in memory of its own, checked when it was written.
#[derive(Debug, Default)]
pub struct AttentionMask {
    /// A forest's ends of subtrees, or the segments' first tokens.
    first: Vec<u32>, // [n_tokens]
    /// The segments' ends; empty for a forest.
    end: Vec<u32>, // [n_tokens]
}

impl AttentionMask {
    pub(super) fn write(&mut self, visibility: Visibility<'_>) {
        assert_visible(visibility);
        let (first, end) = match visibility {
            Visibility::Forest { subtree_end } => (subtree_end, &[][..]),
            Visibility::Segments { segment_start, segment_end } => (segment_start, segment_end),
        };
        self.first.clear();
        self.first.extend_from_slice(first);
        self.end.clear();
        self.end.extend_from_slice(end);
    }

    fn get(&self, shape: AttentionShape) -> Mask<'_> {
        check_heads(shape);
        assert_eq!(self.first.len(), shape.n_tokens, "tokens of the mask");
        match self.end.is_empty() {
            true => Mask::Forest(&self.first),
            false => Mask::Segments(&self.first, &self.end),
        }
    }
}

/// Which keys the queries of a block see.
#[derive(Clone, Copy)]
pub(super) enum KeyMask<'a> {
    /// Queries and keys are the batch's tokens.
    Batch(Mask<'a>),
    /// Query `i` is token `n_past + i` and sees all up to itself.
    Cached { n_past: usize },
}

pub(super) fn forward(
    cpu: &Cpu,
    o: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    mask: &AttentionMask,
    shape: AttentionShape,
) {
    let AttentionShape { n_tokens, heads, head_dim, .. } = shape;
    let mask = mask.get(shape);
    // The grain is the block: the order of summation follows from the blocks' starts.
    let out = (rows(o, n_tokens, heads * head_dim), rows(lse, n_tokens, heads));
    cpu.for_rows(n_tokens, LANES, out, |range, (o, lse)| {
        let out = o.into_slice().chunks_mut(LANES * heads * head_dim).zip(lse.into_slice().chunks_mut(LANES * heads));
        for (start, (o, lse)) in range.step_by(LANES).zip(out) {
            forward_block(cpu.simd, o, Some(lse), q, k, v, KeyMask::Batch(mask), start, shape);
        }
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    delta: &mut [f32],
    saved: Saved<'_>,
    mask: &AttentionMask,
    shape: AttentionShape,
) {
    let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
    let mask = mask.get(shape);
    let out = (rows(dq, n_tokens, heads * head_dim), rows(delta, n_tokens, heads));
    cpu.for_rows(n_tokens, LANES, out, |range, (dq, delta)| {
        let out =
            dq.into_slice().chunks_mut(LANES * heads * head_dim).zip(delta.into_slice().chunks_mut(LANES * heads));
        for (start, (dq, delta)) in range.step_by(LANES).zip(out) {
            backward_query_block(cpu.simd, dq, delta, saved, mask, start, shape);
        }
    });

    let width = LANES * kv_heads * head_dim;
    let delta = &*delta;
    let out = (rows(dk, n_tokens, kv_heads * head_dim), rows(dv, n_tokens, kv_heads * head_dim));
    cpu.for_rows(n_tokens, LANES, out, |range, (dk, dv)| {
        let out = dk.into_slice().chunks_mut(width).zip(dv.into_slice().chunks_mut(width));
        for (start, (dk, dv)) in range.step_by(LANES).zip(out) {
            backward_key_block(cpu.simd, dk, dv, delta, saved, mask, start, shape);
        }
    });
}

pub(super) fn check_heads(shape: AttentionShape) {
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    assert!(kv_heads > 0 && heads % kv_heads == 0, "{heads} heads over {kv_heads} key heads");
    assert!(head_dim <= MAX_HEAD_DIM, "heads of {head_dim}: at most {MAX_HEAD_DIM} wide");
}
