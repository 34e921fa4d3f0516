//! Models of known shapes, without their makers' weights: what a step costs does not depend on those.

#![allow(dead_code)] // each user takes its part

use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Sizes of a decoder, and its family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// `llama`, or `qwen2` with its biases.
    pub(crate) family: &'static str,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) vocab_size: usize,
    pub(crate) tied: bool,
}

/// HuggingFaceTB/SmolLM2-135M.
pub(crate) const SMOLLM2_135M: Shape = Shape {
    name: "SmolLM2-135M",
    family: "llama",
    hidden_size: 576,
    intermediate_size: 1536,
    layers: 30,
    heads: 9,
    kv_heads: 3,
    vocab_size: 49_152,
    tied: true,
};

/// Qwen/Qwen2.5-3B.
pub(crate) const QWEN2_5_3B: Shape = Shape {
    name: "Qwen2.5-3B",
    family: "qwen2",
    hidden_size: 2048,
    intermediate_size: 11_008,
    layers: 36,
    heads: 16,
    kv_heads: 2,
    vocab_size: 151_936,
    tied: true,
};

/// meta-llama/Llama-3.1-8B.
pub(crate) const LLAMA_3_1_8B: Shape = Shape {
    name: "Llama-3.1-8B",
    family: "llama",
    hidden_size: 4096,
    intermediate_size: 14_336,
    layers: 32,
    heads: 32,
    kv_heads: 8,
    vocab_size: 128_256,
    tied: false,
};

/// One that an emulated GPU runs in a second.
pub(crate) const TINY: Shape = Shape {
    name: "tiny",
    family: "llama",
    hidden_size: 64,
    intermediate_size: 128,
    layers: 2,
    heads: 2,
    kv_heads: 1,
    vocab_size: 512,
    tied: true,
};

/// What the weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weights {
    /// Zeros in a file with a hole: no time, no disk.
    Zero,
    /// Uniform in ±0.04, as spread as initial weights with Hugging Face's `initializer_range` of 0.02: a GPU that
    /// multiplies zeros draws less power, and its clock is higher.
    Random,
}

impl Shape {
    fn head_dim(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// Name and shape of every tensor.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, intermediate, head_dim) = (self.hidden_size, self.intermediate_size, self.head_dim());
        let (q, kv) = (self.heads * head_dim, self.kv_heads * head_dim);
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            };
            add("input_layernorm.weight", &[hidden]);
            add("post_attention_layernorm.weight", &[hidden]);
            for (name, width) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
                add(&format!("self_attn.{name}.weight"), &[width, hidden]);
                if self.family == "qwen2" {
                    add(&format!("self_attn.{name}.bias"), &[width]);
                }
            }
            add("self_attn.o_proj.weight", &[hidden, q]);
            add("mlp.gate_proj.weight", &[intermediate, hidden]);
            add("mlp.up_proj.weight", &[intermediate, hidden]);
            add("mlp.down_proj.weight", &[hidden, intermediate]);
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        tensors
    }

    fn config(&self) -> Value {
        let architecture = if self.family == "qwen2" { "Qwen2ForCausalLM" } else { "LlamaForCausalLM" };
        json!({
            "architectures": [architecture],
            "model_type": self.family,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim(),
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "eos_token_id": 2,
            "dtype": "bfloat16",
        })
    }

    /// Writes the model's folder: configuration, weights in bf16, and the tokenizer of another folder.
    pub(crate) fn write(&self, folder: &Path, tokenizer: &Path, weights: Weights) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("config.json"), self.config().to_string())?;
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(tokenizer.join(name), folder.join(name))?;
        }
        let (mut header, mut end) = (Map::new(), 0);
        for (name, shape) in self.tensors() {
            let start = end;
            end += 2 * shape.iter().product::<usize>();
            header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
        }
        let header = Value::Object(header).to_string();
        let file = File::create(folder.join("model.safetensors"))?;
        let mut writer = BufWriter::with_capacity(1 << 20, &file);
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(header.as_bytes())?;
        if weights == Weights::Random {
            // 8 MiB of random values, over and over: as good for a multiplier, and written as fast as the disk takes it.
            let values = random_bytes(8 << 20);
            for _ in 0..end / values.len() {
                writer.write_all(&values)?;
            }
            writer.write_all(&values[..end % values.len()])?;
        }
        writer.flush()?;
        drop(writer);
        file.set_len((8 + header.len() + end) as u64)
    }
}

/// bf16 values, uniform in ±0.04.
fn random_bytes(n_bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        // SplitMix64 (Steele et al. 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 40
    };
    let value = |bits: u64| half::bf16::from_f32(0.08 * (bits as f32 / (1 << 24) as f32 - 0.5));
    (0..n_bytes / 2).flat_map(|_| value(next()).to_le_bytes()).collect()
}
