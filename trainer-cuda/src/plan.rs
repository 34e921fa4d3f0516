//! The memory plan: every buffer of a run as arithmetic, before anything is allocated.

use crate::batch::Budget;
use crate::config::DecoderConfig;

/// What a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Activations: f32 on the CPU, bf16 on a GPU.
    Act,
    /// Statistics and tables, f32.
    F32,
    /// Token ids and row numbers, u32.
    Index,
}

/// One buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBuffer {
    /// `layers.3.gate`
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// Element kind.
    pub kind: Kind,
}

impl PlannedBuffer {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True where the buffer holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All buffers of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// In the order of allocation.
    pub buffers: Vec<PlannedBuffer>,
    /// Rows of logits held at a time; 0 for an encoder.
    pub chunk_rows: usize,
}

/// Logits held at a time: 8 Mi values (32 MiB in f32) keep the last-level cache from thrashing, and a chunk of
/// 170 rows of a 49,152-word vocabulary still fills the GEMM.
const LOGITS_CHUNK_VALUES: usize = 8 << 20;

impl MemoryPlan {
    /// Plans for batches up to `budget`. `adapted[i]` is true where module `i` of a block has a rank-`lora_rank` update.
    ///
    /// A layer keeps 5.8 hidden widths a token for its backward pass (SmolLM2-135M); the normalised inputs and
    /// the MLP's product are computed again there, which saves 4 more for under 1% of the time.
    pub fn new(config: &DecoderConfig, budget: Budget, adapted: [bool; 7], lora_rank: usize) -> Self {
        let Budget { n_tokens, n_rows, n_edges, max_position } = budget;
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let chunk_rows = (LOGITS_CHUNK_VALUES / config.vocab_size).clamp(1, n_rows.max(1));

        let mut plan = MemoryPlan { buffers: Vec::new(), chunk_rows };
        for (name, len) in [("token_ids", n_tokens), ("position", n_tokens), ("subtree_end", n_tokens)] {
            plan.add(Kind::Index, format!("batch.{name}"), &[len]);
        }
        for (name, len) in [("rows", n_rows), ("edge_start", n_rows + 1), ("edge_target", n_edges), ("argmax", n_rows)]
        {
            plan.add(Kind::Index, format!("batch.{name}"), &[len]);
        }
        for name in ["logprob", "d_logprob"] {
            plan.add(Kind::F32, format!("batch.{name}"), &[n_edges]);
        }
        for name in ["rope.cos", "rope.sin"] {
            plan.add(Kind::F32, name.into(), &[max_position, head_dim / 2]);
        }
        for layer in 0..config.num_hidden_layers {
            let mut add = |kind, name: &str, shape: &[usize]| plan.add(kind, format!("layers.{layer}.{name}"), shape);
            add(Kind::Act, "x", &[n_tokens, hidden]);
            add(Kind::F32, "rstd_attn", &[n_tokens]);
            add(Kind::Act, "q", &[n_tokens, heads, head_dim]);
            add(Kind::Act, "k", &[n_tokens, kv_heads, head_dim]);
            add(Kind::Act, "v", &[n_tokens, kv_heads, head_dim]);
            add(Kind::Act, "attn", &[n_tokens, heads, head_dim]);
            add(Kind::F32, "lse", &[n_tokens, heads]);
            add(Kind::Act, "x_mid", &[n_tokens, hidden]);
            add(Kind::F32, "rstd_mlp", &[n_tokens]);
            add(Kind::Act, "gate", &[n_tokens, intermediate]);
            add(Kind::Act, "up", &[n_tokens, intermediate]);
            for (name, _) in crate::linear::MODULE_NAMES.iter().zip(adapted).filter(|(_, adapted)| *adapted) {
                add(Kind::Act, &format!("lora.{name}"), &[n_tokens, lora_rank]);
            }
        }
        plan.add(Kind::Act, "x_final".into(), &[n_tokens, hidden]);
        for (name, width) in [
            ("normed", hidden),
            ("proj", hidden),
            ("mlp", intermediate),
            ("dx", hidden),
            ("d_normed", hidden),
            ("d_attn", heads * head_dim),
            ("dq", heads * head_dim),
            ("dk", kv_heads * head_dim),
            ("dv", kv_heads * head_dim),
            ("d_mlp", intermediate),
            ("d_gate", intermediate),
            ("d_up", intermediate),
            ("d_h", if adapted.contains(&true) { lora_rank } else { 0 }),
        ] {
            plan.add(Kind::Act, format!("scratch.{name}"), &[n_tokens, width]);
        }
        plan.add(Kind::F32, "scratch.delta".into(), &[n_tokens, heads]);
        plan.add_head_scratch(config, n_tokens);
        for name in ["x", "normed", "d_normed", "dx"] {
            plan.add(Kind::Act, format!("head.{name}"), &[n_rows, hidden]);
        }
        plan.add(Kind::F32, "head.rstd".into(), &[n_rows]);
        plan.add(Kind::Act, "head.logits".into(), &[chunk_rows, config.vocab_size]);
        plan
    }

    /// What normalised heads take, in models that have them.
    pub(crate) fn add_head_scratch(&mut self, config: &DecoderConfig, n_tokens: usize) {
        let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        if config.qk_norm {
            self.add(Kind::Act, "scratch.q".into(), &[n_tokens, heads, head_dim]);
            self.add(Kind::Act, "scratch.k".into(), &[n_tokens, kv_heads, head_dim]);
            self.add(Kind::F32, "scratch.rstd_q".into(), &[n_tokens, heads]);
            self.add(Kind::F32, "scratch.rstd_k".into(), &[n_tokens, kv_heads]);
        }
    }

    pub(crate) fn add(&mut self, kind: Kind, name: String, shape: &[usize]) {
        self.buffers.push(PlannedBuffer { name, shape: shape.to_vec(), kind });
    }

    /// Bytes of all buffers, where an activation takes `act_bytes`.
    pub fn total_bytes(&self, act_bytes: usize) -> usize {
        let size = |kind| if kind == Kind::Act { act_bytes } else { 4 };
        self.buffers.iter().map(|buffer| buffer.len() * size(buffer.kind)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_grows_by_the_token_alone() {
        let config = crate::config::tests::llama();
        let bytes = |n_tokens| {
            let budget = Budget { n_tokens, n_rows: 10, n_edges: 10, max_position: 64 };
            MemoryPlan::new(&config, budget, [true; 7], 8).total_bytes(4)
        };
        let per_token = bytes(101) - bytes(100);
        assert_eq!(bytes(1100) - bytes(100), 1000 * per_token);
        // By hand: 3 indices; per layer x, q, attn, x_mid of 48, k and v of 24, gate and up of 96, two rstd, four lse
        // and seven ranks; scratch: seven of 48, dk and dv, four of 96, one rank, four of delta.
        let per_layer = 4 * 48 + 2 * 24 + 2 * 96 + 2 + 4 + 7 * 8;
        let scratch = 7 * 48 + 2 * 24 + 4 * 96 + 8 + 4;
        assert_eq!(per_token, 4 * (3 + 2 * per_layer + scratch));
    }
}
