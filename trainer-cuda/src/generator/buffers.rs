//! Every buffer of text generation: the key-value cache, and what one pass through the model needs.

use crate::allocator::Allocator;
use crate::config::DecoderConfig;
use crate::decoder::buffers::HeadScratch;
use crate::decoder::modules::BlockLowRank;
use crate::device::Device;
use crate::plan::{Kind, MemoryPlan, PlanOptions, side_by_side};

/// Tokens that go through the model at once; a longer prompt takes several passes. A token of a pass takes 33 KiB of
/// buffers in SmolLM2-135M, and 512 of them already fill the GEMM.
pub(crate) const TOKENS_PER_PASS: usize = 512;

/// Keys and values of one block's earlier tokens.
pub struct LayerCache<D: Device> {
    /// Rotated.
    pub k: D::Act, // [max_length, kv_heads, head_dim]
    /// As projected.
    pub v: D::Act, // [max_length, kv_heads, head_dim]
}

/// Reused by every block and every pass.
pub struct StepBuffers<D: Device> {
    /// New tokens.
    pub token_ids: D::Index, // [n_tokens]
    /// Their places in the sequence.
    pub position: D::Index, // [n_tokens]
    /// The residual stream: a block's input and output.
    pub x: D::Act, // [n_tokens, hidden]
    /// The residual stream between attention and MLP.
    pub x_mid: D::Act, // [n_tokens, hidden]
    /// Normalised input of attention or MLP.
    pub normed: D::Act, // [n_tokens, hidden]
    /// Of either norm.
    pub rstd: D::F32, // [n_tokens]
    /// Queries.
    pub q: D::Act, // [n_tokens, heads, head_dim]
    /// Keys, on their way into the cache.
    pub k: D::Act, // [n_tokens, kv_heads, head_dim]
    /// Values, on their way into the cache.
    pub v: D::Act, // [n_tokens, kv_heads, head_dim]
    /// Normalised heads, of models that normalise them.
    pub heads: Option<HeadScratch<D>>,
    /// Output of attention.
    pub attn: D::Act, // [n_tokens, heads, head_dim]
    /// Gate projection.
    pub gate: D::Act, // [n_tokens, intermediate]
    /// Up projection.
    pub up: D::Act, // [n_tokens, intermediate]
    /// `silu(gate) * up`.
    pub mlp: D::Act, // [n_tokens, intermediate]
    /// `x A^T` of each adapted module.
    pub h: BlockLowRank<D>,
    /// Cosines of the rotary embedding.
    pub rope_cos: D::F32, // [max_length, head_dim / 2]
    /// Sines.
    pub rope_sin: D::F32, // [max_length, head_dim / 2]
}

/// The last token's way to its logits.
pub struct LastRow<D: Device> {
    /// Its number in the pass.
    pub row: D::Index, // [1]
    /// Its residual stream.
    pub x: D::Act, // [1, hidden]
    /// Normalised.
    pub normed: D::Act, // [1, hidden]
    /// Of the final norm.
    pub rstd: D::F32, // [1]
    /// Scores of the next token.
    pub logits: D::Act, // [1, vocab]
}

/// All of them.
pub struct GeneratorBuffers<D: Device> {
    /// One per block.
    pub cache: Vec<LayerCache<D>>,
    /// One pass.
    pub step: StepBuffers<D>,
    /// The output projection.
    pub last: LastRow<D>,
}

/// Plans for sequences of up to `max_length` tokens, with the updates of `options`.
pub fn plan(config: &DecoderConfig, max_length: usize, options: PlanOptions) -> MemoryPlan {
    let (hidden, intermediate, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    let n_tokens = max_length.min(TOKENS_PER_PASS);
    let [q, k, v, o, gate, up, down] = options.adapted.map(|adapted| if adapted { options.lora_rank } else { 0 });
    let tail = |ranks: &[usize]| side_by_side(ranks);
    let (queries, keys): (&[usize], &[usize]) = (&[heads, head_dim], &[kv_heads, head_dim]);
    let at = |name: &str| format!("step.{name}");

    let mut plan = MemoryPlan { chunk_rows: 1, ..MemoryPlan::empty() };
    for layer in 0..config.num_hidden_layers {
        plan.add(Kind::Act, format!("cache.{layer}.k"), &[max_length, kv_heads, head_dim]);
        plan.add(Kind::Act, format!("cache.{layer}.v"), &[max_length, kv_heads, head_dim]);
    }
    for name in ["token_ids", "position"] {
        plan.add(Kind::Index, at(name), &[n_tokens]);
    }
    for name in ["x", "x_mid"] {
        plan.add(Kind::Act, at(name), &[n_tokens, hidden]);
    }
    plan.add_beside(n_tokens, &[(at("normed"), &[hidden])], tail(&[q, k, v]).max(tail(&[gate, up])));
    plan.add_beside(n_tokens, &[(at("q"), queries), (at("k"), keys), (at("v"), keys)], 0);
    plan.add_beside(n_tokens, &[(at("attn"), queries)], tail(&[o]));
    plan.add_beside(n_tokens, &[(at("gate"), &[intermediate]), (at("up"), &[intermediate])], 0);
    plan.add_beside(n_tokens, &[(at("mlp"), &[intermediate])], tail(&[down]));
    plan.add_low_rank(n_tokens, &at("lora"), options);
    plan.add(Kind::F32, at("rstd"), &[n_tokens]);
    plan.add_head_scratch(config, n_tokens);
    for name in ["rope.cos", "rope.sin"] {
        plan.add(Kind::F32, name.into(), &[max_length, head_dim / 2]);
    }
    plan.add(Kind::Index, "last.row".into(), &[1]);
    plan.add(Kind::Act, "last.x".into(), &[1, hidden]);
    plan.add(Kind::Act, "last.normed".into(), &[1, hidden]);
    plan.add(Kind::F32, "last.rstd".into(), &[1]);
    plan.add(Kind::Act, "last.logits".into(), &[1, vocab]);
    plan
}

impl<D: Device> GeneratorBuffers<D> {
    /// Allocates the plan: each of its buffers once, and nothing else.
    pub fn new(device: &D, plan: &MemoryPlan, num_hidden_layers: usize) -> Self {
        let mut from = Allocator::new(device, plan);
        let [q, k, v] = from.acts(["step.q", "step.k", "step.v"]);
        let [gate, up] = from.acts(["step.gate", "step.up"]);
        let buffers = Self {
            cache: (0..num_hidden_layers)
                .map(|layer| LayerCache {
                    k: from.act(&format!("cache.{layer}.k")),
                    v: from.act(&format!("cache.{layer}.v")),
                })
                .collect(),
            step: StepBuffers {
                token_ids: from.index("step.token_ids"),
                position: from.index("step.position"),
                x: from.act("step.x"),
                x_mid: from.act("step.x_mid"),
                normed: from.act("step.normed"),
                rstd: from.f32("step.rstd"),
                q,
                k,
                v,
                heads: HeadScratch::if_planned(&mut from),
                attn: from.act("step.attn"),
                gate,
                up,
                mlp: from.act("step.mlp"),
                h: BlockLowRank::new(&mut from, "step.lora"),
                rope_cos: from.f32("rope.cos"),
                rope_sin: from.f32("rope.sin"),
            },
            last: LastRow {
                row: from.index("last.row"),
                x: from.act("last.x"),
                normed: from.act("last.normed"),
                rstd: from.f32("last.rstd"),
                logits: from.act("last.logits"),
            },
        };
        from.finish();
        buffers
    }
}
