//! Every buffer of an encoder, allocated once from its memory plan.

use crate::allocator::Allocator;
use crate::device::{AttentionMask, Device};
use crate::encoder::block::PerEncoderModule;
use crate::encoder::layer_norm::NormActivations;
use crate::encoder::plan::LORA_BUFFERS;
use crate::linear::LoraScratch;
use crate::plan::MemoryPlan;

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
    /// `x A^T` of each adapted module.
    pub lora: PerEncoderModule<Option<D::Act>>, // [n_tokens, rank]
}

/// Reused by every layer.
pub struct EncoderScratch<D: Device> {
    /// Normalised state between attention and MLP.
    pub x_mid: D::Act, // [n_tokens, hidden]
    /// Output of the attention's projection or of the MLP.
    pub proj: D::Act, // [n_tokens, hidden]
    /// Output of the GELU.
    pub mlp: D::Act, // [n_tokens, intermediate]
    /// Gradient of a block's output or input, or of the sum after attention.
    pub dx: D::Act, // [n_tokens, hidden]
    /// Gradient of the sum after the MLP, then of `x_mid`.
    pub d_sum: D::Act, // [n_tokens, hidden]
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
    /// Of the low-rank updates.
    pub lora: LoraScratch<D>,
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
    /// First token of each token's segment.
    pub segment_start: D::Index, // [n_tokens]
    /// One past the last.
    pub segment_end: D::Index, // [n_tokens]
    /// Starts of the segments, and the end of the last.
    pub offsets: D::Index, // [n_segments + 1]
    /// Cosines of the rotary embedding; empty where positions are learned.
    pub rope_cos: D::F32, // [max_length, head_dim / 2]
    /// Sines.
    pub rope_sin: D::F32, // [max_length, head_dim / 2]
}

impl<D: Device> TextBuffers<D> {
    /// A token sees its own text.
    pub fn mask(&self) -> AttentionMask<'_, D> {
        AttentionMask::Segments { segment_start: &self.segment_start, segment_end: &self.segment_end }
    }
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
}

impl<D: Device> EncoderBuffers<D> {
    /// Allocates the plan: each of its buffers once, and nothing else.
    pub fn new(device: &D, plan: &MemoryPlan, num_hidden_layers: usize) -> Self {
        let mut from = Allocator::new(device, plan);
        let buffers = Self {
            layers: (0..num_hidden_layers).map(|layer| activations(&mut from, layer)).collect(),
            embeddings: norm(&mut from, "embeddings"),
            x_final: from.act("x_final"),
            scratch: EncoderScratch {
                x_mid: from.act("scratch.x_mid"),
                proj: from.act("scratch.proj"),
                mlp: from.act("scratch.mlp"),
                dx: from.act("scratch.dx"),
                d_sum: from.act("scratch.d_sum"),
                d_attn: from.act("scratch.d_attn"),
                dq: from.act("scratch.dq"),
                dk: from.act("scratch.dk"),
                dv: from.act("scratch.dv"),
                delta: from.f32("scratch.delta"),
                d_mlp: from.act("scratch.d_mlp"),
                d_fc1: from.act("scratch.d_fc1"),
                lora: LoraScratch::new(&mut from),
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
                segment_start: from.index("batch.segment_start"),
                segment_end: from.index("batch.segment_end"),
                offsets: from.index("batch.offsets"),
                rope_cos: from.f32("rope.cos"),
                rope_sin: from.f32("rope.sin"),
            },
        };
        from.finish();
        buffers
    }
}

fn activations<D: Device>(from: &mut Allocator<'_, D>, layer: usize) -> EncoderActivations<D> {
    let at = |name: &str| format!("layers.{layer}.{name}");
    let Ok(lora) = LORA_BUFFERS.try_map(|name| Ok::<_, std::convert::Infallible>(from.act_if_planned(&at(name))));
    EncoderActivations {
        x: from.act(&at("x")),
        q: from.act(&at("q")),
        k: from.act(&at("k")),
        v: from.act(&at("v")),
        attn: from.act(&at("attn")),
        lse: from.f32(&at("lse")),
        attn_norm: norm(from, &at("attn_norm")),
        fc1: from.act(&at("fc1")),
        mlp_norm: norm(from, &at("mlp_norm")),
        lora,
    }
}

fn norm<D: Device>(from: &mut Allocator<'_, D>, name: &str) -> NormActivations<D> {
    NormActivations {
        x: from.act(&format!("{name}.x")),
        mean: from.f32(&format!("{name}.mean")),
        rstd: from.f32(&format!("{name}.rstd")),
    }
}
