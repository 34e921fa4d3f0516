//! The memory plan of an encoder: every buffer as arithmetic, before anything is allocated.

use crate::config::{EncoderConfig, Positions};
use crate::encoder::block::PerEncoderModule;
use crate::encoder::text_batch::TextBudget;
use crate::plan::{Kind, MemoryPlan};

/// Names of the buffers that hold `x A^T` of each adapted module.
pub(crate) const LORA_BUFFERS: PerEncoderModule<&str> =
    PerEncoderModule { q: "lora.q", k: "lora.k", v: "lora.v", o: "lora.o", fc1: "lora.fc1", fc2: "lora.fc2" };

impl MemoryPlan {
    /// Plans an encoder for batches up to `budget`; a module that is `adapted` has a rank-`lora_rank` update.
    ///
    /// A layer keeps 11 hidden widths a token for its backward pass (an MLP of four widths); the normalised state
    /// between attention and MLP and the GELU are computed again there, which saves 5 more.
    pub fn of_encoder(
        config: &EncoderConfig,
        budget: TextBudget,
        adapted: PerEncoderModule<bool>,
        lora_rank: usize,
        dropout: bool,
    ) -> Self {
        let TextBudget { n_tokens, n_segments, max_length } = budget;
        let (hidden, intermediate, heads) = (config.hidden_size, config.intermediate_size, config.num_attention_heads);
        let mut plan = MemoryPlan { buffers: Vec::new(), chunk_rows: 0, activation_sets: Vec::new() };
        for name in ["token_ids", "token_type", "position", "segment_start", "segment_end"] {
            plan.add(Kind::Index, format!("batch.{name}"), &[n_tokens]);
        }
        plan.add(Kind::Index, "batch.offsets".into(), &[n_segments + 1]);
        let rotated = if matches!(config.positions, Positions::Rotary { .. }) { max_length } else { 0 };
        for name in ["rope.cos", "rope.sin"] {
            plan.add(Kind::F32, name.into(), &[rotated, config.head_dim() / 2]);
        }
        plan.add_norm("embeddings", n_tokens, hidden);
        for layer in 0..config.num_hidden_layers {
            let at = |name: &str| format!("layers.{layer}.{name}");
            for name in ["x", "q", "k", "v", "attn"] {
                plan.add(Kind::Act, at(name), &[n_tokens, hidden]);
            }
            plan.add(Kind::F32, at("lse"), &[n_tokens, heads]);
            plan.add_norm(&at("attn_norm"), n_tokens, hidden);
            plan.add(Kind::Act, at("fc1"), &[n_tokens, intermediate]);
            plan.add_norm(&at("mlp_norm"), n_tokens, hidden);
            let buffers = LORA_BUFFERS.each().into_iter().zip(adapted.each());
            for (name, _) in buffers.filter(|(_, adapted)| **adapted) {
                plan.add(Kind::Act, at(name), &[n_tokens, lora_rank]);
            }
        }
        plan.add(Kind::Act, "x_final".into(), &[n_tokens, hidden]);
        for name in ["x_mid", "proj", "dx", "d_sum", "d_attn", "dq", "dk", "dv"] {
            plan.add(Kind::Act, format!("scratch.{name}"), &[n_tokens, hidden]);
        }
        for name in ["mlp", "d_mlp", "d_fc1"] {
            plan.add(Kind::Act, format!("scratch.{name}"), &[n_tokens, intermediate]);
        }
        let rank = if adapted.each().contains(&&true) { lora_rank } else { 0 };
        plan.add(Kind::Act, "scratch.d_h".into(), &[n_tokens, rank]);
        if dropout {
            let widest = if adapted.fc2 { intermediate } else { hidden };
            for name in ["scratch.dropped", "scratch.d_dropped"] {
                plan.add(Kind::Act, name.into(), &[n_tokens, widest]);
            }
        }
        plan.add(Kind::F32, "scratch.delta".into(), &[n_tokens, heads]);
        for name in ["pooled", "d_pooled"] {
            plan.add(Kind::Act, format!("pool.{name}"), &[n_segments, hidden]);
        }
        let n_scaled = if config.normalize { n_segments } else { 0 };
        for name in ["scaled", "d_scaled"] {
            plan.add(Kind::Act, format!("pool.{name}"), &[n_scaled, hidden]);
        }
        plan.add(Kind::F32, "pool.norm".into(), &[n_scaled]);
        plan
    }

    fn add_norm(&mut self, name: &str, n_tokens: usize, hidden: usize) {
        self.add(Kind::Act, format!("{name}.x"), &[n_tokens, hidden]);
        self.add(Kind::F32, format!("{name}.mean"), &[n_tokens]);
        self.add(Kind::F32, format!("{name}.rstd"), &[n_tokens]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EncoderNames, Pooling};

    #[test]
    fn the_plan_grows_by_the_token_alone() {
        let config = EncoderConfig {
            architecture: "BertModel".into(),
            names: EncoderNames::Bert,
            hidden_size: 48,
            intermediate_size: 96,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            vocab_size: 500,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            positions: Positions::Learned { offset: 0, rows: 64 },
            max_length: 64,
            pooling: Pooling::Mean,
            normalize: true,
        };
        let all = PerEncoderModule { q: true, k: true, v: true, o: true, fc1: true, fc2: true };
        let bytes = |n_tokens, n_segments| {
            MemoryPlan::of_encoder(&config, TextBudget { n_tokens, n_segments, max_length: 64 }, all, 8, false)
                .total_bytes(4)
        };
        // By hand: 5 indices; the embeddings' norm of 48 and two statistics; per layer x, q, k, v, attn and two norms of
        // 48, fc1 of 96, four statistics, four lse and six ranks; x_final; scratch: eight of 48, three of 96, one rank,
        // four of delta.
        let per_layer = 7 * 48 + 96 + 4 + 4 + 6 * 8;
        let per_token = 5 + 48 + 2 + 2 * per_layer + 48 + 8 * 48 + 3 * 96 + 8 + 4;
        assert_eq!(bytes(1100, 10) - bytes(100, 10), 1000 * 4 * per_token);
        // A text: its offset, pooled and scaled with their gradients, its norm.
        assert_eq!(bytes(100, 11) - bytes(100, 10), 4 * (1 + 4 * 48 + 1));
    }
}
