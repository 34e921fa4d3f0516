//! Every buffer of a run, allocated once from the memory plan.

use crate::allocator::Allocator;
use crate::decoder::modules::{BlockLowRank, MODULE_NAMES};
use crate::device::{Device, EdgeBuffers, PairBuffers};
use crate::linear::DroppedInput;
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
    pub h: BlockLowRank<D>,
}

/// Reused by every layer.
pub struct Scratch<D: Device> {
    /// Normalised input of attention or MLP.
    pub normed: D::Act, // [n_tokens, hidden]
    /// `silu(gate) * up`.
    pub mlp: D::Act, // [n_tokens, intermediate]
    /// Gradient of the residual stream between blocks.
    pub dx: D::Act, // [n_tokens, hidden]
    /// Gradient of the residual stream between attention and MLP.
    pub dx_mid: D::Act, // [n_tokens, hidden]
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
    /// Gradients of `drop(x) A^T`.
    pub d_h: BlockLowRank<D>,
    /// Where the run has dropout.
    pub dropped: Option<DroppedInput<D>>,
    /// Normalised heads, of models that normalise them.
    pub heads: Option<HeadScratch<D>>,
}

/// Normalised queries and keys, computed again for the backward pass, and their gradients.
pub struct HeadScratch<D: Device> {
    /// Queries.
    pub q: D::Act, // [n_tokens, heads, head_dim]
    /// Keys.
    pub k: D::Act, // [n_tokens, kv_heads, head_dim]
    /// Gradient of the queries; empty outside training.
    pub dq: D::Act, // [n_tokens, heads, head_dim]
    /// Gradient of the keys; empty outside training.
    pub dk: D::Act, // [n_tokens, kv_heads, head_dim]
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
    /// Who sees whom.
    pub mask: D::Mask, // [n_tokens]
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
    /// Where batches are preference pairs.
    pub pairs: Option<PairBuffers<D>>,
    /// Where training drops inputs of the updates.
    pub dropout_seeds: Option<D::Index>, // [n_modules, 2]
}

impl<D: Device> Buffers<D> {
    pub(crate) fn new(from: &mut Allocator<'_, D>, plan: &MemoryPlan, num_hidden_layers: usize) -> Self {
        let [dq, dk, dv] = from.acts(["scratch.dq", "scratch.dk", "scratch.dv"]);
        let [d_gate, d_up] = from.acts(["scratch.d_gate", "scratch.d_up"]);
        Self {
            x: (0..=num_hidden_layers).map(|layer| from.act(&residual_name(layer, num_hidden_layers))).collect(),
            layers: plan.activation_sets.iter().map(|set| LayerActivations::new(from, set)).collect(),
            scratch: Scratch {
                normed: from.act("scratch.normed"),
                mlp: from.act("scratch.mlp"),
                dx: from.act("scratch.dx"),
                dx_mid: from.act("scratch.dx_mid"),
                d_normed: from.act("scratch.d_normed"),
                d_attn: from.act("scratch.d_attn"),
                dq,
                dk,
                dv,
                delta: from.f32("scratch.delta"),
                d_mlp: from.act("scratch.d_mlp"),
                d_gate,
                d_up,
                d_h: BlockLowRank::new(from, "scratch.d_h"),
                dropped: DroppedInput::if_planned(from),
                heads: HeadScratch::if_planned(from),
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
                mask: from.mask("batch.mask"),
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
            pairs: from.plans("pairs.n_pairs").then(|| PairBuffers {
                example_start: from.index("pairs.example_start"),
                example_edges: from.index("pairs.example_edges"),
                reference: from.f64("pairs.reference"),
                n_pairs: from.index("pairs.n_pairs"),
                n_step: from.f32("pairs.n_step"),
            }),
            dropout_seeds: from.plans("dropout.seeds").then(|| from.index("dropout.seeds")),
        }
    }
}

impl<D: Device> HeadScratch<D> {
    /// `None` for models that do not normalise their heads.
    pub(crate) fn if_planned(from: &mut Allocator<'_, D>) -> Option<Self> {
        from.plans("scratch.normed_q").then(|| Self {
            q: from.act("scratch.normed_q"),
            k: from.act("scratch.normed_k"),
            dq: from.act_if_planned("scratch.normed_dq").unwrap_or_else(|| from.device().alloc_act(0, 0)),
            dk: from.act_if_planned("scratch.normed_dk").unwrap_or_else(|| from.device().alloc_act(0, 0)),
            rstd_q: from.f32("scratch.rstd_q"),
            rstd_k: from.f32("scratch.rstd_k"),
        })
    }
}

impl<D: Device> LayerActivations<D> {
    fn new(from: &mut Allocator<'_, D>, set: &str) -> Self {
        let at = |name: &str| format!("{set}.{name}");
        let [q, k, v] = from.acts([&at("q"), &at("k"), &at("v")]);
        let [gate, up] = from.acts([&at("gate"), &at("up")]);
        Self {
            rstd_attn: from.f32(&at("rstd_attn")),
            q,
            k,
            v,
            attn: from.act(&at("attn")),
            lse: from.f32(&at("lse")),
            x_mid: from.act(&at("x_mid")),
            rstd_mlp: from.f32(&at("rstd_mlp")),
            gate,
            up,
            h: BlockLowRank::new(from, &at("lora")),
        }
    }
}

impl<D: Device> BlockLowRank<D> {
    pub(crate) fn new(from: &mut Allocator<'_, D>, prefix: &str) -> Self {
        let [q, k, v, o, gate, up, down] = MODULE_NAMES.map(|name| format!("{prefix}.{name}"));
        Self {
            qkv: from.acts_if_planned([&q, &k, &v]),
            o: from.acts_if_planned([&o]),
            gate_up: from.acts_if_planned([&gate, &up]),
            down: from.acts_if_planned([&down]),
        }
    }
}

/// The plan's name of the residual stream before block `layer`, or after the last.
pub(crate) fn residual_name(layer: usize, num_hidden_layers: usize) -> String {
    if layer < num_hidden_layers { format!("layers.{layer}.x") } else { "x_final".into() }
}
