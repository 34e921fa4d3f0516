//! A GGUF of architecture `llama` seen as a Hugging Face `LlamaForCausalLM`.

use std::f64::consts::PI;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::gguf::Gguf;
use super::tokenizer::TextTokenizer;
use super::{
    HostTensor, Opened, Source, TensorInfo, check_heads, corrupt, gguf_tokenizer, missing, sha256_hex, unsupported,
};
use crate::config::{DecoderConfig, ModelConfig, RopeScaling};
use crate::error::{Result, TrainerError};

/// Hugging Face and GGUF names outside the blocks.
const OUTER: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Hugging Face and GGUF names inside `model.layers.N.` and `blk.N.`.
const INNER: [(&str, &str); 9] = [
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
];

/// The factors by which Llama 3's rope divides the frequencies; llama.cpp's converter stores them as a tensor.
const ROPE_FREQS: &str = "rope_freqs.weight";

pub(super) fn open(path: &Path) -> Result<Opened> {
    let gguf = Gguf::open(path)?;
    let tokenizer = check(&gguf).and_then(|()| gguf_tokenizer::read(&gguf))?;
    let config = config(&gguf, &tokenizer)?;
    Ok((ModelConfig::Decoder(config.clone()), tokenizer, Box::new(LlamaGguf { gguf, config })))
}

struct LlamaGguf {
    gguf: Gguf,
    config: DecoderConfig,
}

impl Source for LlamaGguf {
    fn tensor(&self, hf_name: &str) -> Result<HostTensor> {
        let Some(name) = gguf_name(hf_name).filter(|name| self.gguf.shape(name).is_some()) else {
            return Err(missing(self.gguf.path(), format!("tensor `{hf_name}`")));
        };
        let tensor = self.gguf.tensor(&name)?;
        let heads = match hf_name.rsplit('.').nth(1) {
            Some("q_proj") => self.config.num_attention_heads,
            Some("k_proj") => self.config.num_key_value_heads,
            _ => return Ok(tensor),
        };
        let head_dim = self.config.head_dim;
        if tensor.shape.len() != 2 || tensor.shape[0] != heads * head_dim {
            let what = format!("tensor `{name}` has shape {:?}, not {heads} heads of {head_dim} rows", tensor.shape);
            return Err(corrupt(self.gguf.path(), what));
        }
        Ok(half_split(tensor, head_dim))
    }

    fn sha256(&self) -> Result<String> {
        Ok(sha256_hex(self.gguf.file_bytes()))
    }

    fn hf_config(&self) -> Value {
        let config = &self.config;
        let scaling = match config.rope_scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
        };
        json!({
            "architectures": [config.architecture],
            "model_type": "llama",
            "attention_bias": false,
            "mlp_bias": false,
            "hidden_act": "silu",
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings,
            "rms_norm_eps": shortest(config.rms_norm_eps),
            "rope_theta": config.rope_theta,
            "rope_scaling": scaling,
            "tie_word_embeddings": config.tie_word_embeddings,
            "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_id,
            "pad_token_id": config.pad_token_id,
            "torch_dtype": "float32",
        })
    }

    fn tensors(&self) -> Vec<TensorInfo> {
        let info = |name: &str| {
            let shape = self.gguf.shape(name)?.to_vec();
            Some(TensorInfo { name: hf_name(name)?, shape, dtype: Dtype::F32 })
        };
        self.gguf.tensor_names().filter_map(info).collect()
    }

    fn write_tokenizer_files(&self, tokenizer: &TextTokenizer, dir: &Path) -> Result<()> {
        tokenizer.write_files(dir, self.config.max_position_embeddings)
    }
}

/// Refuses what this reader would get wrong.
fn check(gguf: &Gguf) -> Result<()> {
    let architecture = gguf.required("general.architecture", gguf.string("general.architecture")?)?;
    if architecture != "llama" {
        return Err(TrainerError::UnsupportedArchitecture {
            path: gguf.path().to_owned(),
            architecture: architecture.to_owned(),
            supported: "llama",
        });
    }
    if gguf.usize("split.count")?.is_some_and(|count| count > 1) {
        return Err(unsupported(gguf.path(), "the other parts of a split GGUF (merge them first)"));
    }
    // Biases, experts, adapters: a tensor that no name maps to would be left out of the model in silence.
    let unmapped = gguf.tensor_names().filter(|name| *name != ROPE_FREQS && !is_mapped(name)).min();
    unmapped.map_or(Ok(()), |name| Err(unsupported(gguf.path(), format!("tensor `{name}`"))))
}

fn is_mapped(name: &str) -> bool {
    let inner = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(_, inner)| inner);
    OUTER.iter().any(|(_, gguf)| *gguf == name)
        || inner.is_some_and(|inner| INNER.iter().any(|(_, gguf)| *gguf == inner))
}

/// `model.layers.3.mlp.up_proj.weight` to `blk.3.ffn_up.weight`.
fn gguf_name(hf_name: &str) -> Option<String> {
    if let Some((_, name)) = OUTER.iter().find(|(hf, _)| *hf == hf_name) {
        return Some((*name).to_owned());
    }
    let (layer, inner) = hf_name.strip_prefix("model.layers.")?.split_once('.')?;
    let (_, name) = INNER.iter().find(|(hf, _)| *hf == inner)?;
    Some(format!("blk.{layer}.{name}"))
}

/// The inverse of [`gguf_name`].
fn hf_name(gguf_name: &str) -> Option<String> {
    if let Some((hf, _)) = OUTER.iter().find(|(_, gguf)| *gguf == gguf_name) {
        return Some((*hf).to_owned());
    }
    let (layer, inner) = gguf_name.strip_prefix("blk.")?.split_once('.')?;
    let (hf, _) = INNER.iter().find(|(_, gguf)| *gguf == inner)?;
    Some(format!("model.layers.{layer}.{hf}"))
}

fn config(gguf: &Gguf, tokenizer: &TextTokenizer) -> Result<DecoderConfig> {
    let number = |key: &str| gguf.usize(key).and_then(|value| gguf.required(key, value));
    let hidden_size = number("llama.embedding_length")?;
    let num_attention_heads = number("llama.attention.head_count")?;
    let num_key_value_heads = gguf.usize("llama.attention.head_count_kv")?.unwrap_or(num_attention_heads);
    check_heads(num_attention_heads, num_key_value_heads, gguf.path())?;
    let head_dim = gguf.usize("llama.attention.key_length")?.unwrap_or(hidden_size / num_attention_heads);
    let rotated = gguf.usize("llama.rope.dimension_count")?.unwrap_or(head_dim);
    if rotated != head_dim || head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(unsupported(
            gguf.path(),
            format!("rotary embedding of {rotated} of a head's {head_dim} dimensions"),
        ));
    }
    let embedding =
        gguf.shape("token_embd.weight").ok_or_else(|| missing(gguf.path(), "tensor `token_embd.weight`"))?;
    let eps_key = "llama.attention.layer_norm_rms_epsilon";
    let rope_theta = gguf.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
    Ok(DecoderConfig {
        architecture: "LlamaForCausalLM".to_owned(),
        hidden_size,
        intermediate_size: number("llama.feed_forward_length")?,
        num_hidden_layers: number("llama.block_count")?,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: embedding[0],
        max_position_embeddings: number("llama.context_length")?,
        rms_norm_eps: gguf.required(eps_key, gguf.float(eps_key)?)? as f32,
        rope_theta,
        rope_scaling: rope_scaling(gguf, rope_theta, head_dim)?,
        tie_word_embeddings: gguf.shape("output.weight").is_none(),
        bos_token_id: tokenizer.bos_id(),
        eos_token_id: tokenizer.eos_id(),
        pad_token_id: tokenizer.pad_id(),
    })
}

fn rope_scaling(gguf: &Gguf, rope_theta: f64, head_dim: usize) -> Result<RopeScaling> {
    if gguf.shape(ROPE_FREQS).is_some() {
        let factors = gguf.tensor(ROPE_FREQS)?.data;
        return llama3_scaling(&factors, rope_theta, head_dim).ok_or_else(|| {
            unsupported(gguf.path(), format!("tensor `{ROPE_FREQS}` that is not Llama 3's rope scaling"))
        });
    }
    let factor = match gguf.float("llama.rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => gguf.float("llama.rope.scale_linear")?, // before llama.cpp's b1261
    };
    match (gguf.string("llama.rope.scaling.type")?, factor) {
        (Some("none"), _) | (None | Some("linear"), None | Some(1.0)) => Ok(RopeScaling::None),
        (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (Some(kind), _) => Err(unsupported(gguf.path(), format!("rope scaling `{kind}`"))),
    }
}

/// Finds the parameters that give `factors`: a GGUF holds Llama 3's scaling only as its result. All Llama 3 models
/// have `low_freq_factor` 1, `high_freq_factor` 4 and a power of two (8192) as their pre-training length.
fn llama3_scaling(factors: &[f32], rope_theta: f64, head_dim: usize) -> Option<RopeScaling> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    (5..=20).map(|power| 1usize << power).find_map(|original_max_position_embeddings| {
        let length = original_max_position_embeddings as f64;
        let expected = (0..head_dim / 2).map(|i| {
            let wavelength = 2.0 * PI * rope_theta.powf(2.0 * i as f64 / head_dim as f64);
            let smooth = ((length / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
            1.0 / ((1.0 - smooth) / factor + smooth)
        });
        // The converter computes in f32, through a cancellation of up to `length / wavelength` = 4.
        let equal = |(expected, found): (f64, &f32)| (expected / f64::from(*found) - 1.0).abs() < 1e-5;
        (factors.len() == head_dim / 2 && expected.zip(factors).all(equal)).then_some(RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings,
        })
    })
}

/// Rows of q and k from llama.cpp's order, where the two elements of a rotated pair are neighbours, to Hugging
/// Face's, where they lie half a head apart (the inverse of `permute` in llama.cpp's `convert_hf_to_gguf.py`).
fn half_split(tensor: HostTensor, head_dim: usize) -> HostTensor {
    let cols = tensor.shape[1];
    let half = head_dim / 2;
    let mut data = Vec::with_capacity(tensor.data.len());
    for row in 0..tensor.shape[0] {
        let (head, at) = (row / head_dim, row % head_dim);
        let source = head * head_dim + at % half * 2 + at / half;
        data.extend_from_slice(&tensor.data[source * cols..][..cols]);
    }
    HostTensor { shape: tensor.shape, data }
}

/// The shortest decimal that reads back as this f32: 1e-5, not 9.999999747378752e-6.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}
