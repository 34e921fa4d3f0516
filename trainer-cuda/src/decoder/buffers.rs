//! Every buffer of a run, allocated once from the memory plan.

use crate::allocator::Allocator;
use crate::device::{Device, EdgeBuffers};
use crate::linear::{LoraScratch, PerModule};
use crate::plan::MemoryPlan;

/// What a block keeps from its forward pass for its backward pass, beside its input.
pub struct LayerActivations<D: Device> {
    /// Of the norm before attention.
    pub rstd_attn: D::F32, // [n_tokens]
    /// Queries: rotated, or where heads are normalised first, as projected.
    pub q: D::Act, // [n_tokens, heads, head_dim]
    /// Keys, likewise.
    pub k: D::Act, // [n_tokens, kv_heads, head_dim]
    /// Values.
    pub v: D::Act, // [n_tokens, kv_heads, head_dim]
    /// Output of attention, before `o_proj`.
    pub attn: D::Act, // [n_tokens, heads, head_dim]
    /// Log sum exp of the scores.
    pub lse: D::F32, // [n_tokens, heads]
    /// The residual stream between attention and MLP.
    pub x_mid: D::Act, // [n_tokens, hidden]
    /// Of the norm before the MLP.
    pub rstd_mlp: D::F32, // [n_tokens]
    /// Gate projection.
    pub gate: D::Act, // [n_tokens, intermediate]
    /// Up projection.
    pub up: D::Act, // [n_tokens, intermediate]
    /// `drop(x) A^T` of each adapted module.
    pub lora: PerModule<Option<D::Act>>, // [n_tokens, rank]
}

/// Reused by every layer.
pub struct Scratch<D: Device> {
    /// Normalised input of attention or MLP.
    pub normed: D::Act, // [n_tokens, hidden]
    /// Output of `o_proj` or `down_proj`.
    pub proj: D::Act, // [n_tokens, hidden]
    /// `silu(gate) * up`.
    pub mlp: D::Act, // [n_tokens, intermediate]
    /// Gradient of the residual stream.
    pub dx: D::Act, // [n_tokens, hidden]
    /// Gradient of `normed`.
    pub d_normed: D::Act, // [n_tokens, hidden]
    /// Gradient of attention's output.
    pub d_attn: D::Act, // [n_tokens, heads, head_dim]
    /// Gradient of the queries.
    pub dq: D::Act, // [n_tokens, heads, head_dim]
    /// Gradient of the keys.
    pub dk: D::Act, // [n_tokens, kv_heads, head_dim]
    /// Gradient of the values.
    pub dv: D::Act, // [n_tokens, kv_heads, head_dim]
    /// Row sums of `d_attn * attn`.
    pub delta: D::F32, // [n_tokens, heads]
    /// Gradient of `mlp`.
    pub d_mlp: D::Act, // [n_tokens, intermediate]
    /// Gradient of the gate projection.
    pub d_gate: D::Act, // [n_tokens, intermediate]
    /// Gradient of the up projection.
    pub d_up: D::Act, // [n_tokens, intermediate]
    /// Of the low-rank updates.
    pub lora: LoraScratch<D>,
    /// Normalised heads, of models that normalise them.
    pub heads: Option<HeadScratch<D>>,
}

/// Normalised queries and keys, computed again for the backward pass; then the gradients of what was normalised.
pub struct HeadScratch<D: Device> {
    /// Queries.
    pub q: D::Act, // [n_tokens, heads, head_dim]
    /// Keys.
    pub k: D::Act, // [n_tokens, kv_heads, head_dim]
    /// Of the queries.
    pub rstd_q: D::F32, // [n_tokens, heads]
    /// Of the keys.
    pub rstd_k: D::F32, // [n_tokens, kv_heads]
}

/// The output projection works on labelled rows only.
pub struct HeadBuffers<D: Device> {
    /// Gathered rows of the residual stream.
    pub x: D::Act, // [n_rows, hidden]
    /// Of the final norm.
    pub rstd: D::F32, // [n_rows]
    /// Normalised rows.
    pub normed: D::Act, // [n_rows, hidden]
    /// Gradient of `normed`.
    pub d_normed: D::Act, // [n_rows, hidden]
    /// Gradient of `x`.
    pub dx: D::Act, // [n_rows, hidden]
    /// One chunk of logits.
    pub logits: D::Act, // [chunk_rows, vocab]
    /// Rows in a chunk.
    pub chunk_rows: usize,
}

/// The forest on the device, and what it scored.
pub struct BatchBuffers<D: Device> {
    /// Depth-first.
    pub token_ids: D::Index, // [n_tokens]
    /// Depth.
    pub position: D::Index, // [n_tokens]
    /// Exclusive.
    pub subtree_end: D::Index, // [n_tokens]
    /// Labelled rows.
    pub rows: D::Index, // [n_rows]
    /// Their edges.
    pub edges: EdgeBuffers<D>,
    /// Log-probability of each edge's target.
    pub logprob: D::F32, // [n_edges]
    /// Gradient of the loss by it.
    pub d_logprob: D::F32, // [n_edges]
    /// Likeliest token of each row.
    pub argmax: D::Index, // [n_rows]
    /// Cosines of the rotary embedding.
    pub rope_cos: D::F32, // [max_position, head_dim / 2]
    /// Sines.
    pub rope_sin: D::F32, // [max_position, head_dim / 2]
}

/// All of them.
pub struct Buffers<D: Device> {
    /// The residual stream before each block, and after the last.
    pub x: Vec<D::Act>, // num_hidden_layers + 1 times [n_tokens, hidden]
    /// One per block, or one that all blocks share where the backward pass computes them again.
    pub layers: Vec<LayerActivations<D>>,
    /// Shared by the blocks.
    pub scratch: Scratch<D>,
    /// Output projection.
    pub head: HeadBuffers<D>,
    /// Input and labels.
    pub batch: BatchBuffers<D>,
}

impl<D: Device> Buffers<D> {
    /// Allocates the plan: each of its buffers once, and nothing else.
    pub fn new(device: &D, plan: &MemoryPlan, num_hidden_layers: usize) -> Self {
        let mut from = Allocator::new(device, plan);
        let buffers = Self {
            x: (0..=num_hidden_layers).map(|layer| from.act(&residual_name(layer, num_hidden_layers))).collect(),
            layers: plan.activation_sets.iter().map(|set| LayerActivations::new(&mut from, set)).collect(),
            scratch: Scratch {
                normed: from.act("scratch.normed"),
                proj: from.act("scratch.proj"),
                mlp: from.act("scratch.mlp"),
                dx: from.act("scratch.dx"),
                d_normed: from.act("scratch.d_normed"),
                d_attn: from.act("scratch.d_attn"),
                dq: from.act("scratch.dq"),
                dk: from.act("scratch.dk"),
                dv: from.act("scratch.dv"),
                delta: from.f32("scratch.delta"),
                d_mlp: from.act("scratch.d_mlp"),
                d_gate: from.act("scratch.d_gate"),
                d_up: from.act("scratch.d_up"),
                lora: LoraScratch::new(&mut from),
                heads: HeadScratch::if_planned(&mut from),
            },
            head: HeadBuffers {
                x: from.act("head.x"),
                rstd: from.f32("head.rstd"),
                normed: from.act("head.normed"),
                d_normed: from.act("head.d_normed"),
                dx: from.act("head.dx"),
                logits: from.act("head.logits"),
                chunk_rows: plan.chunk_rows,
            },
            batch: BatchBuffers {
                token_ids: from.index("batch.token_ids"),
                position: from.index("batch.position"),
                subtree_end: from.index("batch.subtree_end"),
                rows: from.index("batch.rows"),
                edges: EdgeBuffers {
                    edge_start: from.index("batch.edge_start"),
                    edge_target: from.index("batch.edge_target"),
                },
                logprob: from.f32("batch.logprob"),
                d_logprob: from.f32("batch.d_logprob"),
                argmax: from.index("batch.argmax"),
                rope_cos: from.f32("rope.cos"),
                rope_sin: from.f32("rope.sin"),
            },
        };
        from.finish();
        buffers
    }
}

impl<D: Device> HeadScratch<D> {
    /// `None` for models that do not normalise their heads.
    pub(crate) fn if_planned(from: &mut Allocator<'_, D>) -> Option<Self> {
        from.plans("scratch.q").then(|| Self {
            q: from.act("scratch.q"),
            k: from.act("scratch.k"),
            rstd_q: from.f32("scratch.rstd_q"),
            rstd_k: from.f32("scratch.rstd_k"),
        })
    }
}

impl<D: Device> LayerActivations<D> {
    fn new(from: &mut Allocator<'_, D>, set: &str) -> Self {
        let at = |name: &str| format!("{set}.{name}");
        Self {
            rstd_attn: from.f32(&at("rstd_attn")),
            q: from.act(&at("q")),
            k: from.act(&at("k")),
            v: from.act(&at("v")),
            attn: from.act(&at("attn")),
            lse: from.f32(&at("lse")),
            x_mid: from.act(&at("x_mid")),
            rstd_mlp: from.f32(&at("rstd_mlp")),
            gate: from.act(&at("gate")),
            up: from.act(&at("up")),
            lora: PerModule {
                q: from.act_if_planned(&at("lora.q_proj")),
                k: from.act_if_planned(&at("lora.k_proj")),
                v: from.act_if_planned(&at("lora.v_proj")),
                o: from.act_if_planned(&at("lora.o_proj")),
                gate: from.act_if_planned(&at("lora.gate_proj")),
                up: from.act_if_planned(&at("lora.up_proj")),
                down: from.act_if_planned(&at("lora.down_proj")),
            },
        }
    }
}

/// The plan's name of the residual stream before block `layer`, or after the last.
pub(crate) fn residual_name(layer: usize, num_hidden_layers: usize) -> String {
    if layer < num_hidden_layers { format!("layers.{layer}.x") } else { "x_final".into() }
}
