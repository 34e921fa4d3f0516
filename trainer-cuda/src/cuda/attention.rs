//! Attention; see `attention.cu`, `attention_backward.cu` and `attention_cached.cu`.

use super::launch::{Grid, Launch, Source, source};
use super::memory::{Act, Buffer, Mask};
use super::{Cuda, layout::MASK_TILE};
use crate::device::AttentionShape;

static FORWARD: Source = source!("attention");
static BACKWARD: Source = source!("attention_backward");
static CACHED: Source = source!("attention_cached");

/// Widest head: what the backward pass keeps of a wider one would not fit the registers of a warp.
const MAX_HEAD_DIM: usize = 128;

/// What the backward pass reads.
pub(super) struct Saved<'a> {
    pub(super) d_o: &'a Act,         // [n_tokens, heads, head_dim]
    pub(super) o: &'a Act,           // [n_tokens, heads, head_dim]
    pub(super) lse: &'a Buffer<f32>, // [n_tokens, heads]
    pub(super) q: &'a Act,           // [n_tokens, heads, head_dim]
    pub(super) k: &'a Act,           // [n_tokens, kv_heads, head_dim]
    pub(super) v: &'a Act,           // [n_tokens, kv_heads, head_dim]
}

/// The kernels for heads of up to 32, 64 and 128: one of three names.
fn of_width(head_dim: usize, names: [&'static str; 3]) -> &'static str {
    let [narrow, middle, wide] = names;
    match head_dim {
        0..=32 => narrow,
        33..=64 => middle,
        65..=MAX_HEAD_DIM => wide,
        _ => panic!("heads of {head_dim}: at most {MAX_HEAD_DIM} wide"),
    }
}

/// A block for each tile of tokens and head. Its shared memory has `n_tiles` tiles, their rows padded by eight values, and who
/// sees whom.
fn tiles(n_tokens: usize, heads: usize, head_dim: usize, threads: usize, n_tiles: usize) -> Grid {
    let padded = head_dim.next_power_of_two().max(32);
    let shared_bytes = n_tiles * MASK_TILE * 2 * (padded + 8) + 1024;
    Grid { blocks: [n_tokens.div_ceil(MASK_TILE), heads, 1], threads: [threads, 1, 1], shared_bytes }
}

impl Launch<'_> {
    fn shape(self, mask: &Mask, shape: AttentionShape) -> Self {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        let sizes = self.by_value(mask.pointers()).int(n_tokens).int(heads).int(kv_heads).int(head_dim);
        sizes.float(scale(head_dim))
    }
}

fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

impl Cuda {
    pub(super) fn attend(
        &self,
        o: &Act,
        lse: &Buffer<f32>,
        q: &Act,
        k: &Act,
        v: &Act,
        mask: &Mask,
        shape: AttentionShape,
    ) {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        o.assert_holds("o", n_tokens, heads * head_dim);
        q.assert_holds("q", n_tokens, heads * head_dim);
        k.assert_holds("k", n_tokens, kv_heads * head_dim);
        v.assert_holds("v", n_tokens, kv_heads * head_dim);
        let name = of_width(head_dim, ["attention_forward_32", "attention_forward_64", "attention_forward_128"]);
        let launch = self.kernel(&FORWARD, name).act(o).buffer(lse).act(q).act(k).act(v);
        launch.shape(mask, shape).launch(tiles(n_tokens, heads, head_dim, 128, 4));
    }

    pub(super) fn attend_backward(
        &self,
        dq: &Act,
        dk: &Act,
        dv: &Act,
        delta: &Buffer<f32>,
        saved: &Saved<'_>,
        mask: &Mask,
        shape: AttentionShape,
    ) {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        let Saved { d_o, o, lse, q, k, v } = saved;
        dq.assert_holds("dq", n_tokens, heads * head_dim);
        dk.assert_holds("dk", n_tokens, kv_heads * head_dim);
        dv.assert_holds("dv", n_tokens, kv_heads * head_dim);
        d_o.assert_holds("d_o", n_tokens, heads * head_dim);
        let of_queries = of_width(
            head_dim,
            ["attention_backward_query_32", "attention_backward_query_64", "attention_backward_query_128"],
        );
        let launch = self.kernel(&BACKWARD, of_queries).act(dq).buffer(delta).act(d_o).act(o).buffer(lse);
        launch.act(q).act(k).act(v).shape(mask, shape).launch(tiles(n_tokens, heads, head_dim, 128, 4));
        let of_keys = of_width(
            head_dim,
            ["attention_backward_key_32", "attention_backward_key_64", "attention_backward_key_128"],
        );
        let launch = self.kernel(&BACKWARD, of_keys).act(dk).act(dv).buffer(delta).act(d_o).buffer(lse);
        launch.act(q).act(k).act(v).shape(mask, shape).launch(tiles(n_tokens, kv_heads, head_dim, 256, 5));
    }

    pub(super) fn attend_cached(
        &self,
        o: &Act,
        q: &Act,
        k_cache: &Act,
        v_cache: &Act,
        n_past: usize,
        shape: AttentionShape,
    ) {
        let AttentionShape { n_tokens: n_new, heads, kv_heads, head_dim } = shape;
        k_cache.assert_holds("k_cache", n_past + n_new, kv_heads * head_dim);
        let launch = self.kernel(&CACHED, "attention_cached").act(o).act(q).act(k_cache).act(v_cache);
        let launch = launch.int(n_new).int(n_past).int(heads).int(kv_heads).int(head_dim).float(scale(head_dim));
        launch.launch(Grid::new([n_new, heads, 1], 256));
    }
}
