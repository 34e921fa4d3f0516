//! What transformers calls the parts of an encoder: adapters on disk and LoRA's target modules use these names.

use crate::config::EncoderNames;
use crate::encoder::block::PerEncoderModule;

/// Paths of the parts of one block.
#[derive(Debug, Clone, Copy)]
pub struct BlockNames {
    /// The linear modules.
    pub linear: PerEncoderModule<&'static str>,
    /// The norm after attention.
    pub attn_norm: &'static str,
    /// The norm after the MLP.
    pub mlp_norm: &'static str,
}

impl EncoderNames {
    /// Path of a block.
    pub fn block(self, layer: usize) -> String {
        match self {
            Self::Bert => format!("encoder.layer.{layer}"),
            Self::Jina => format!("layers.{layer}"),
        }
    }

    /// Paths inside a block.
    pub fn in_block(self) -> BlockNames {
        match self {
            Self::Bert => BlockNames {
                linear: PerEncoderModule {
                    q: "attention.self.query",
                    k: "attention.self.key",
                    v: "attention.self.value",
                    o: "attention.output.dense",
                    fc1: "intermediate.dense",
                    fc2: "output.dense",
                },
                attn_norm: "attention.output.LayerNorm",
                mlp_norm: "output.LayerNorm",
            },
            Self::Jina => BlockNames {
                linear: PerEncoderModule {
                    q: "self_attn.q_proj",
                    k: "self_attn.k_proj",
                    v: "self_attn.v_proj",
                    o: "self_attn.o_proj",
                    fc1: "mlp.fc1",
                    fc2: "mlp.fc2",
                },
                attn_norm: "post_attention_layernorm",
                mlp_norm: "post_mlp_layernorm",
            },
        }
    }

    /// What LoRA's target modules may name; `dense` includes the pooler.
    pub fn module_names(self) -> &'static [&'static str] {
        match self {
            Self::Bert => &["query", "key", "value", "dense"],
            Self::Jina => &["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
        }
    }
}
