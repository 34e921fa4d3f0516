//! Every buffer of an encoder, allocated once from its memory plan.

use crate::allocator::Allocator;
use crate::device::{Device, TripletBuffers};
use crate::encoder::block::EncoderLowRank;
use crate::encoder::layer_norm::NormActivations;
use crate::encoder::plan::LOW_RANK_BUFFERS;
use crate::linear::DroppedInput;

/// What a block keeps from its forward pass for its backward pass.
pub struct EncoderActivations<D: Device> {
    /// Input of the block.
    pub x: D::Act, // [n_tokens, hidden]
    /// Queries, rotated where the model does.
    pub q: D::Act, // [n_tokens, heads, head_dim]
    /// Keys, rotated where the model does.
    pub k: D::Act, // [n_tokens, heads, head_dim]
    /// Values.
    pub v: D::Act, // [n_tokens, heads, head_dim]
    /// Output of attention, before its projection.
    pub attn: D::Act, // [n_tokens, heads, head_dim]
    /// Log sum exp of the scores.
    pub lse: D::F32, // [n_tokens, heads]
    /// Of the norm after attention.
    pub attn_norm: NormActivations<D>,
    /// Input of the GELU.
    pub fc1: D::Act, // [n_tokens, intermediate]
    /// Of the norm after the MLP.
    pub mlp_norm: NormActivations<D>,
    /// `drop(x) A^T` of each adapted module.
    pub h: EncoderLowRank<D>,
}

/// Reused by every layer.
pub struct EncoderScratch<D: Device> {
    /// Normalised state between attention and MLP.
    pub x_mid: D::Act, // [n_tokens, hidden]
    /// Output of the GELU.
    pub mlp: D::Act, // [n_tokens, intermediate]
    /// Gradient of a block's output, of `x_mid`, of the block's input.
    pub dx: D::Act, // [n_tokens, hidden]
    /// Gradient of the sum after the MLP.
    pub d_mlp_sum: D::Act, // [n_tokens, hidden]
    /// Gradient of the sum after attention.
    pub d_attn_sum: D::Act, // [n_tokens, hidden]
    /// Gradient of attention's output.
    pub d_attn: D::Act, // [n_tokens, heads, head_dim]
    /// Gradient of the queries.
    pub dq: D::Act, // [n_tokens, heads, head_dim]
    /// Gradient of the keys.
    pub dk: D::Act, // [n_tokens, heads, head_dim]
    /// Gradient of the values.
    pub dv: D::Act, // [n_tokens, heads, head_dim]
    /// Row sums of `d_attn * attn`.
    pub delta: D::F32, // [n_tokens, heads]
    /// Gradient of `mlp`.
    pub d_mlp: D::Act, // [n_tokens, intermediate]
    /// Gradient of the GELU's input.
    pub d_fc1: D::Act, // [n_tokens, intermediate]
    /// Gradients of `drop(x) A^T`.
    pub d_h: EncoderLowRank<D>,
    /// Where the run has dropout.
    pub dropped: Option<DroppedInput<D>>,
}

/// From token states to embeddings.
pub struct PoolBuffers<D: Device> {
    /// Pooled states: the embeddings, where they are not scaled.
    pub pooled: D::Act, // [n_segments, hidden]
    /// Their gradient.
    pub d_pooled: D::Act, // [n_segments, hidden]
    /// Embeddings of length 1; empty where the model does not scale.
    pub scaled: D::Act, // [n_segments, hidden]
    /// Their gradient.
    pub d_scaled: D::Act, // [n_segments, hidden]
    /// Lengths of the pooled states.
    pub norm: D::F32, // [n_segments]
}

/// The texts on the device.
pub struct TextBuffers<D: Device> {
    /// Of all segments.
    pub token_ids: D::Index, // [n_tokens]
    /// Zeros: every token is of the first type.
    pub token_type: D::Index, // [n_tokens]
    /// Row of the position table, or place in the segment where positions are rotary.
    pub position: D::Index, // [n_tokens]
    /// A token sees its own text.
    pub mask: D::Mask, // [n_tokens]
    /// Starts of the segments, and the end of the last.
    pub offsets: D::Index, // [n_segments + 1]
    /// Cosines of the rotary embedding; empty where positions are learned.
    pub rope_cos: D::F32, // [max_length, head_dim / 2]
    /// Sines.
    pub rope_sin: D::F32, // [max_length, head_dim / 2]
}

/// All of them.
pub struct EncoderBuffers<D: Device> {
    /// One per block.
    pub layers: Vec<EncoderActivations<D>>,
    /// Of the norm after the embeddings.
    pub embeddings: NormActivations<D>,
    /// States after the last block.
    pub x_final: D::Act, // [n_tokens, hidden]
    /// Shared by the blocks.
    pub scratch: EncoderScratch<D>,
    /// Pooling and scaling.
    pub pool: PoolBuffers<D>,
    /// Input.
    pub batch: TextBuffers<D>,
    /// Which texts are compared.
    pub triplets: TripletBuffers<D>,
    /// Where training drops inputs of the updates.
    pub dropout_seeds: Option<D::Index>, // [n_modules, 2]
}

impl<D: Device> EncoderBuffers<D> {
    pub(crate) fn new(from: &mut Allocator<'_, D>, num_hidden_layers: usize) -> Self {
        let [dq, dk, dv] = from.acts(["scratch.dq", "scratch.dk", "scratch.dv"]);
        Self {
            layers: (0..num_hidden_layers).map(|layer| activations(from, layer)).collect(),
            embeddings: norm(from, "embeddings"),
            x_final: from.act("x_final"),
            scratch: EncoderScratch {
                x_mid: from.act("scratch.x_mid"),
                mlp: from.act("scratch.mlp"),
                dx: from.act("scratch.dx"),
                d_mlp_sum: from.act("scratch.d_mlp_sum"),
                d_attn_sum: from.act("scratch.d_attn_sum"),
                d_attn: from.act("scratch.d_attn"),
                dq,
                dk,
                dv,
                delta: from.f32("scratch.delta"),
                d_mlp: from.act("scratch.d_mlp"),
                d_fc1: from.act("scratch.d_fc1"),
                d_h: low_rank(from, "scratch.d_h"),
                dropped: DroppedInput::if_planned(from),
            },
            pool: PoolBuffers {
                pooled: from.act("pool.pooled"),
                d_pooled: from.act("pool.d_pooled"),
                scaled: from.act("pool.scaled"),
                d_scaled: from.act("pool.d_scaled"),
                norm: from.f32("pool.norm"),
            },
            batch: TextBuffers {
                token_ids: from.index("batch.token_ids"),
                token_type: from.index("batch.token_type"),
                position: from.index("batch.position"),
                mask: from.mask("batch.mask"),
                offsets: from.index("batch.offsets"),
                rope_cos: from.f32("rope.cos"),
                rope_sin: from.f32("rope.sin"),
            },
            triplets: TripletBuffers {
                segments: from.index("triplets.segments"),
                n_triplets: from.index("triplets.n_triplets"),
                n_step: from.f32("triplets.n_step"),
            },
            dropout_seeds: from.plans("dropout.seeds").then(|| from.index("dropout.seeds")),
        }
    }
}

fn activations<D: Device>(from: &mut Allocator<'_, D>, layer: usize) -> EncoderActivations<D> {
    let at = |name: &str| format!("layers.{layer}.{name}");
    let [q, k, v] = from.acts([&at("q"), &at("k"), &at("v")]);
    EncoderActivations {
        x: from.act(&at("x")),
        q,
        k,
        v,
        attn: from.act(&at("attn")),
        lse: from.f32(&at("lse")),
        attn_norm: norm(from, &at("attn_norm")),
        fc1: from.act(&at("fc1")),
        mlp_norm: norm(from, &at("mlp_norm")),
        h: low_rank(from, &at("lora")),
    }
}

fn low_rank<D: Device>(from: &mut Allocator<'_, D>, prefix: &str) -> EncoderLowRank<D> {
    let [q, k, v, o, fc1, fc2] = LOW_RANK_BUFFERS.map(|name| format!("{prefix}.{name}"));
    EncoderLowRank {
        qkv: from.acts_if_planned([&q, &k, &v]),
        o: from.acts_if_planned([&o]),
        fc1: from.acts_if_planned([&fc1]),
        fc2: from.acts_if_planned([&fc2]),
    }
}

fn norm<D: Device>(from: &mut Allocator<'_, D>, name: &str) -> NormActivations<D> {
    NormActivations {
        x: from.act(&format!("{name}.x")),
        mean: from.f32(&format!("{name}.mean")),
        rstd: from.f32(&format!("{name}.rstd")),
    }
}
