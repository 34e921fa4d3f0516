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

/// What of a run, beside the model and its batches, sizes the buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// `adapted[i]`: module `i` of a block, in the order of [`MODULE_NAMES`](crate::linear::MODULE_NAMES), has a
    /// low-rank update.
    pub adapted: [bool; 7],
    /// Rank of the updates.
    pub lora_rank: usize,
    /// Whether training drops inputs of the updates.
    pub dropout: bool,
    /// Whether the backward pass computes a block's activations again: all blocks share one set.
    pub recompute: bool,
}

/// All buffers of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// In the order of allocation.
    pub buffers: Vec<PlannedBuffer>,
    /// Rows of logits held at a time; 0 for an encoder.
    pub chunk_rows: usize,
    /// Names of the sets of block activations, a set for each block or one that all share: `layers.3`.
    pub activation_sets: Vec<String>,
}

/// Logits held at a time: 8 Mi values (32 MiB in f32) keep the last-level cache from thrashing, and a chunk of
/// 170 rows of a 49,152-word vocabulary still fills the GEMM.
const LOGITS_CHUNK_VALUES: usize = 8 << 20;

impl MemoryPlan {
    /// Plans for batches up to `budget`.
    ///
    /// A layer keeps 5.8 hidden widths a token for its backward pass (SmolLM2-135M); the normalised inputs and
    /// the MLP's product are computed again there, which saves 4 more for under 1% of the time.
    pub fn new(config: &DecoderConfig, budget: Budget, options: PlanOptions) -> Self {
        let PlanOptions { adapted, lora_rank, dropout, recompute } = options;
        let Budget { n_tokens, n_rows, n_edges, max_position } = budget;
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let chunk_rows = (LOGITS_CHUNK_VALUES / config.vocab_size).clamp(1, n_rows.max(1));

        let activation_sets = match recompute {
            true => vec!["layers.shared".to_owned()],
            false => (0..config.num_hidden_layers).map(|layer| format!("layers.{layer}")).collect(),
        };

        let mut plan = MemoryPlan { buffers: Vec::new(), chunk_rows, activation_sets: activation_sets.clone() };
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
            plan.add(Kind::Act, format!("layers.{layer}.x"), &[n_tokens, hidden]);
        }
        plan.add(Kind::Act, "x_final".into(), &[n_tokens, hidden]);
        for set in activation_sets {
            let mut add = |kind, name: &str, shape: &[usize]| plan.add(kind, format!("{set}.{name}"), shape);
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
        if dropout {
            let adapted = crate::linear::MODULE_PATHS.each().into_iter().zip(adapted).filter(|(_, adapted)| *adapted);
            let widest = adapted.map(|(path, _)| config.module_shape(path).1).max().unwrap_or(0);
            plan.add(Kind::Act, "scratch.dropped".into(), &[n_tokens, widest]);
            plan.add(Kind::Act, "scratch.d_dropped".into(), &[n_tokens, widest]);
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

    /// The buffer of that name.
    pub fn get(&self, name: &str) -> Option<&PlannedBuffer> {
        self.buffers.iter().find(|buffer| buffer.name == name)
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

    const LORA: PlanOptions = PlanOptions { adapted: [true; 7], lora_rank: 8, dropout: false, recompute: false };

    /// Bytes that a token more takes.
    fn per_token(config: &DecoderConfig, options: PlanOptions) -> usize {
        let bytes = |n_tokens| {
            let budget = Budget { n_tokens, n_rows: 10, n_edges: 10, max_position: 64 };
            MemoryPlan::new(config, budget, options).total_bytes(4)
        };
        let per_token = bytes(101) - bytes(100);
        assert_eq!(bytes(1100) - bytes(100), 1000 * per_token, "the plan grows by the token alone");
        per_token
    }

    #[test]
    fn a_token_takes_what_its_buffers_take() {
        // By hand: 3 indices; per layer x, q, attn, x_mid of 48, k and v of 24, gate and up of 96, two rstd, four lse
        // and seven ranks; scratch: seven of 48, dk and dv, four of 96, one rank, four of delta.
        let per_layer = 4 * 48 + 2 * 24 + 2 * 96 + 2 + 4 + 7 * 8;
        let scratch = 7 * 48 + 2 * 24 + 4 * 96 + 8 + 4;
        let llama = crate::config::tests::llama();
        assert_eq!(per_token(&llama, LORA), 4 * (3 + 2 * per_layer + scratch));
        // Two buffers of the widest adapted input, that of the down projection.
        let dropout = PlanOptions { dropout: true, ..LORA };
        assert_eq!(per_token(&llama, dropout) - per_token(&llama, LORA), 4 * 2 * 96);
        // Normalised heads: four of 12, two of 12, and a statistic for each.
        let qwen3 = DecoderConfig { qk_norm: true, ..llama.clone() };
        assert_eq!(per_token(&qwen3, LORA) - per_token(&llama, LORA), 4 * (6 * 12 + 6));
    }

    #[test]
    fn recomputation_keeps_the_inputs_of_the_blocks_and_one_set_of_activations() {
        let deep = |layers| DecoderConfig { num_hidden_layers: layers, ..crate::config::tests::llama() };
        let recompute = PlanOptions { recompute: true, ..LORA };
        assert_eq!(per_token(&deep(1), recompute), per_token(&deep(1), LORA));
        assert_eq!(per_token(&deep(30), recompute) - per_token(&deep(1), recompute), 29 * 4 * 48);
    }

    #[test]
    fn logits_are_held_in_chunks() {
        let config = DecoderConfig { vocab_size: 1 << 17, ..crate::config::tests::llama() };
        let budget = Budget { n_tokens: 500, n_rows: 400, n_edges: 400, max_position: 64 };
        let plan = MemoryPlan::new(&config, budget, LORA);
        assert_eq!(plan.chunk_rows, 64);
        assert_eq!(plan.get("head.logits").expect("planned").shape, [64, 1 << 17]);
    }
}
