//! The memory plan of an encoder: every buffer as arithmetic, before anything is allocated.

use crate::config::{EncoderConfig, Positions};
use crate::encoder::block::PerEncoderModule;
use crate::encoder::text_batch::TextBudget;
use crate::plan::{DeviceSizes, Kind, MemoryPlan, side_by_side};

/// Last parts of the names of the buffers that hold `x A^T` of each adapted module.
pub(crate) const LOW_RANK_BUFFERS: [&str; 6] = ["q", "k", "v", "o", "fc1", "fc2"];

/// What of a run, beside the model and its batches, sizes an encoder's buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncoderPlanOptions {
    /// Modules that have a low-rank update.
    pub adapted: PerEncoderModule<bool>,
    /// Rank of the updates.
    pub lora_rank: usize,
    /// Whether training drops inputs of the updates.
    pub dropout: bool,
}

impl MemoryPlan {
    /// Plans an encoder for batches up to `budget`.
    ///
    /// A layer keeps 11 hidden widths a token for its backward pass (an MLP of four widths); the normalised state
    /// between attention and MLP and the GELU are computed again there, which saves 5 more.
    pub fn of_encoder(
        config: &EncoderConfig,
        budget: TextBudget,
        options: EncoderPlanOptions,
        device: DeviceSizes,
    ) -> Self {
        let TextBudget { n_tokens, n_segments, max_length, n_triplets } = budget;
        let EncoderPlanOptions { adapted, lora_rank, dropout } = options;
        let (hidden, intermediate, heads) = (config.hidden_size, config.intermediate_size, config.num_attention_heads);
        let rank = |adapted: bool| if adapted { lora_rank } else { 0 };
        let PerEncoderModule { q, k, v, o, fc1, fc2 } = adapted.map(rank);
        let tail = |ranks: &[usize]| side_by_side(ranks);
        let of_heads: &[usize] = &[heads, config.head_dim()];

        let mut plan = Self::empty();
        plan.add_step(device.log_rows);
        for name in ["token_ids", "token_type", "position"] {
            plan.add(Kind::Index, format!("batch.{name}"), &[n_tokens]);
        }
        plan.add(Kind::Mask, "batch.mask".into(), &[n_tokens]);
        plan.add(Kind::Index, "batch.offsets".into(), &[n_segments + 1]);
        plan.add(Kind::Index, "triplets.segments".into(), &[n_triplets, 3]);
        plan.add(Kind::Index, "triplets.n_triplets".into(), &[1]);
        plan.add(Kind::F32, "triplets.n_step".into(), &[1]);
        let rotated = if matches!(config.positions, Positions::Rotary { .. }) { max_length } else { 0 };
        for name in ["rope.cos", "rope.sin"] {
            plan.add(Kind::F32, name.into(), &[rotated, config.head_dim() / 2]);
        }
        plan.add_norm("embeddings", n_tokens, hidden);
        for layer in 0..config.num_hidden_layers {
            let at = |name: &str| format!("layers.{layer}.{name}");
            plan.add_beside(n_tokens, &[(at("x"), &[hidden])], tail(&[q, k, v]));
            plan.add_beside(n_tokens, &["q", "k", "v"].map(|name| (at(name), of_heads)), 0);
            plan.add_beside(n_tokens, &[(at("attn"), of_heads)], tail(&[o]));
            plan.add(Kind::F32, at("lse"), &[n_tokens, heads]);
            plan.add_norm(&at("attn_norm"), n_tokens, hidden);
            plan.add(Kind::Act, at("fc1"), &[n_tokens, intermediate]);
            plan.add_norm(&at("mlp_norm"), n_tokens, hidden);
            plan.add_encoder_low_rank(n_tokens, &at("lora"), options);
        }
        plan.add(Kind::Act, "x_final".into(), &[n_tokens, hidden]);
        plan.add_beside(n_tokens, &[("scratch.x_mid".into(), &[hidden])], tail(&[fc1]));
        plan.add(Kind::Act, "scratch.dx".into(), &[n_tokens, hidden]);
        plan.add_beside(n_tokens, &[("scratch.d_mlp_sum".into(), &[hidden])], tail(&[fc2]));
        plan.add_beside(n_tokens, &[("scratch.d_attn_sum".into(), &[hidden])], tail(&[o]));
        plan.add(Kind::Act, "scratch.d_attn".into(), &[n_tokens, heads, config.head_dim()]);
        let d_qkv = ["scratch.dq", "scratch.dk", "scratch.dv"].map(|name| (name.to_owned(), of_heads));
        plan.add_beside(n_tokens, &d_qkv, tail(&[q, k, v]));
        plan.add_beside(n_tokens, &[("scratch.mlp".into(), &[intermediate])], tail(&[fc2]));
        plan.add(Kind::Act, "scratch.d_mlp".into(), &[n_tokens, intermediate]);
        plan.add_beside(n_tokens, &[("scratch.d_fc1".into(), &[intermediate])], tail(&[fc1]));
        plan.add_encoder_low_rank(n_tokens, "scratch.d_h", options);
        if dropout {
            let widest = if adapted.fc2 { intermediate } else { hidden };
            for name in ["scratch.dropped", "scratch.d_dropped"] {
                plan.add(Kind::Act, name.into(), &[n_tokens, widest]);
            }
            plan.add(Kind::Index, "dropout.seeds".into(), &[LOW_RANK_BUFFERS.len() * config.num_hidden_layers, 2]);
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

    /// `x A^T` of each adapted module of a block, those of one input side by side.
    fn add_encoder_low_rank(&mut self, n_tokens: usize, prefix: &str, options: EncoderPlanOptions) {
        let rank = [options.lora_rank];
        let named: Vec<_> = LOW_RANK_BUFFERS.into_iter().zip(options.adapted.each()).collect();
        for group in [0..3, 3..4, 4..5, 5..6] {
            let adapted = named[group].iter().filter(|(_, adapted)| **adapted);
            let parts: Vec<_> = adapted.map(|(name, _)| (format!("{prefix}.{name}"), &rank[..])).collect();
            if !parts.is_empty() {
                self.add_beside(n_tokens, &parts, 0);
            }
        }
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
        let options = EncoderPlanOptions { adapted: all, lora_rank: 8, dropout: false };
        let bytes = |n_tokens, n_segments| {
            let budget = TextBudget { n_tokens, n_segments, max_length: 64, n_triplets: 4 };
            let sizes = DeviceSizes { log_rows: 1, logits_values: 0 };
            MemoryPlan::of_encoder(&config, budget, options, sizes).cpu_bytes()
        };
        // By hand: 3 indices and the mask's two; the embeddings' norm of 48 and two statistics; per layer x, q, k, v, attn
        // and two norms of 48, fc1 of 96, four statistics, four lse and six ranks; x_final; scratch: eight of 48, three of
        // 96, six ranks, four of delta.
        let per_layer = 7 * 48 + 96 + 4 + 4 + 6 * 8;
        let per_token = 5 + 48 + 2 + 2 * per_layer + 48 + 8 * 48 + 3 * 96 + 6 * 8 + 4;
        assert_eq!(bytes(1100, 10) - bytes(100, 10), 1000 * 4 * per_token);
        // A text: its offset, pooled and scaled with their gradients, its norm.
        assert_eq!(bytes(100, 11) - bytes(100, 10), 4 * (1 + 4 * 48 + 1));
    }
}
