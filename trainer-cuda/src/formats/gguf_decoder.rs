//! A GGUF of architecture `llama`, `qwen2` or `qwen3` seen as the Hugging Face model that it was made from.

use std::f64::consts::PI;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::gguf::Gguf;
use super::tokenizer::TextTokenizer;
use super::{
    Opened, Source, StoredTensor, TensorInfo, check_heads, corrupt, gguf_tokenizer, map_sha256, missing, shortest,
    unsupported,
};
use crate::config::{DecoderConfig, ModelConfig, RopeScaling};
use crate::error::{Result, TrainerError};

/// Names of a tensor: Hugging Face's, GGUF's.
type Names = (&'static str, &'static str);

/// Outside the blocks.
const OUTER: [Names; 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

// Inside `model.layers.N.` and `blk.N.`.
const INNER: [Names; 9] = [
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
const QKV_BIASES: [Names; 3] = [
    ("self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn.v_proj.bias", "attn_v.bias"),
];
const O_BIAS: [Names; 1] = [("self_attn.o_proj.bias", "attn_output.bias")];
const MLP_BIASES: [Names; 3] = [
    ("mlp.gate_proj.bias", "ffn_gate.bias"),
    ("mlp.up_proj.bias", "ffn_up.bias"),
    ("mlp.down_proj.bias", "ffn_down.bias"),
];
const HEAD_NORMS: [Names; 2] =
    [("self_attn.q_norm.weight", "attn_q_norm.weight"), ("self_attn.k_norm.weight", "attn_k_norm.weight")];

/// `general.architecture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    fn read(gguf: &Gguf) -> Result<Self> {
        match gguf.required("general.architecture", gguf.string("general.architecture")?)? {
            "llama" => Ok(Self::Llama),
            "qwen2" => Ok(Self::Qwen2),
            "qwen3" => Ok(Self::Qwen3),
            other => Err(TrainerError::UnsupportedArchitecture {
                path: gguf.path().to_owned(),
                architecture: other.to_owned(),
                supported: "llama, qwen2, qwen3",
            }),
        }
    }

    /// That of a decoder of any origin.
    pub(super) fn of(config: &DecoderConfig) -> Self {
        let known = [Self::Llama, Self::Qwen2, Self::Qwen3].into_iter();
        let mut same = known.filter(|architecture| architecture.hf_name() == config.architecture);
        same.next().unwrap_or_else(|| panic!("a decoder of the unknown architecture `{}`", config.architecture))
    }

    /// Its name in a GGUF, which is transformers' `model_type` too.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    fn hf_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The tensors that a block may have.
    fn inner(self) -> Vec<Names> {
        match self {
            Self::Llama => [&INNER[..], &QKV_BIASES, &O_BIAS, &MLP_BIASES].concat(),
            Self::Qwen2 => [&INNER[..], &QKV_BIASES].concat(),
            Self::Qwen3 => [&INNER[..], &QKV_BIASES, &O_BIAS, &HEAD_NORMS].concat(),
        }
    }

    fn knows(self, tensor: &str) -> bool {
        let inner = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(_, inner)| inner);
        OUTER.iter().any(|(_, gguf)| *gguf == tensor)
            || inner.is_some_and(|inner| self.inner().iter().any(|(_, gguf)| *gguf == inner))
            || (self == Self::Llama && tensor == ROPE_FREQS)
    }
}

/// The factors by which Llama 3's rope divides the frequencies; llama.cpp's converter stores them as a tensor.
const ROPE_FREQS: &str = "rope_freqs.weight";

pub(super) fn open(path: &Path) -> Result<Opened> {
    let gguf = Gguf::open(path)?;
    let architecture = Architecture::read(&gguf)?;
    check(&gguf, architecture)?;
    let tokenizer = gguf_tokenizer::read(&gguf)?;
    let config = config(&gguf, architecture, &tokenizer)?;
    Ok((ModelConfig::Decoder(config.clone()), tokenizer, Box::new(DecoderGguf { gguf, architecture, config })))
}

struct DecoderGguf {
    gguf: Gguf,
    architecture: Architecture,
    config: DecoderConfig,
}

impl Source for DecoderGguf {
    fn stored(&self, hf_name: &str) -> Result<StoredTensor<'_>> {
        let Some(name) = gguf_name(self.architecture, hf_name).filter(|name| self.gguf.shape(name).is_some()) else {
            return Err(missing(self.gguf.path(), format!("tensor `{hf_name}`")));
        };
        let tensor = self.gguf.stored(&name)?;
        let heads = match hf_name.rsplit('.').nth(1) {
            _ if self.architecture != Architecture::Llama => return Ok(tensor), // only Llama's rows are permuted
            Some("q_proj") => self.config.num_attention_heads,
            Some("k_proj") => self.config.num_key_value_heads,
            _ => return Ok(tensor),
        };
        let head_dim = self.config.head_dim;
        if tensor.shape().first() != Some(&(heads * head_dim)) {
            let shape = tensor.shape();
            let what = format!("tensor `{name}` has shape {shape:?}, not {heads} heads of {head_dim} rows");
            return Err(corrupt(self.gguf.path(), what));
        }
        Ok(half_split(&tensor, head_dim))
    }

    fn sha256(&self) -> Result<String> {
        Ok(map_sha256(self.gguf.map()))
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
            "model_type": self.architecture.name(),
            "attention_bias": config.o_bias,
            "mlp_bias": config.mlp_bias,
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
            Some(TensorInfo { name: hf_name(self.architecture, name)?, shape, dtype: Dtype::F32 })
        };
        self.gguf.tensor_names().filter_map(info).collect()
    }

    fn write_tokenizer_files(&self, tokenizer: &TextTokenizer, dir: &Path) -> Result<()> {
        tokenizer.write_files(dir, self.config.max_position_embeddings)
    }
}

/// Refuses what this reader would get wrong.
fn check(gguf: &Gguf, architecture: Architecture) -> Result<()> {
    if gguf.usize("split.count")?.is_some_and(|count| count > 1) {
        return Err(unsupported(gguf.path(), "the other parts of a split GGUF (merge them first)"));
    }
    // Experts, adapters: a tensor that no name maps to would be left out of the model in silence.
    let unmapped = gguf.tensor_names().filter(|name| !architecture.knows(name)).min();
    unmapped.map_or(Ok(()), |name| Err(unsupported(gguf.path(), format!("tensor `{name}`"))))
}

/// `model.layers.3.mlp.up_proj.weight` to `blk.3.ffn_up.weight`.
pub(super) fn gguf_name(architecture: Architecture, hf_name: &str) -> Option<String> {
    if let Some((_, name)) = OUTER.iter().find(|(hf, _)| *hf == hf_name) {
        return Some((*name).to_owned());
    }
    let (layer, inner) = hf_name.strip_prefix("model.layers.")?.split_once('.')?;
    let (_, name) = architecture.inner().into_iter().find(|(hf, _)| *hf == inner)?;
    Some(format!("blk.{layer}.{name}"))
}

/// The inverse of [`gguf_name`].
fn hf_name(architecture: Architecture, gguf_name: &str) -> Option<String> {
    if let Some((hf, _)) = OUTER.iter().find(|(_, gguf)| *gguf == gguf_name) {
        return Some((*hf).to_owned());
    }
    let (layer, inner) = gguf_name.strip_prefix("blk.")?.split_once('.')?;
    let (hf, _) = architecture.inner().into_iter().find(|(_, gguf)| *gguf == inner)?;
    Some(format!("model.layers.{layer}.{hf}"))
}

fn config(gguf: &Gguf, architecture: Architecture, tokenizer: &TextTokenizer) -> Result<DecoderConfig> {
    let key = |key: &str| format!("{}.{key}", architecture.name());
    let number = |name: &str| gguf.usize(&key(name)).and_then(|value| gguf.required(&key(name), value));
    let has_any = |names: &[Names]| {
        let ends = |tensor: &str| names.iter().any(|(_, name)| tensor.ends_with(&format!(".{name}")));
        gguf.tensor_names().any(ends)
    };
    let hidden_size = number("embedding_length")?;
    let num_attention_heads = number("attention.head_count")?;
    let num_key_value_heads = gguf.usize(&key("attention.head_count_kv"))?.unwrap_or(num_attention_heads);
    check_heads(num_attention_heads, num_key_value_heads, gguf.path())?;
    let head_dim = gguf.usize(&key("attention.key_length"))?.unwrap_or(hidden_size / num_attention_heads);
    let rotated = gguf.usize(&key("rope.dimension_count"))?.unwrap_or(head_dim);
    if rotated != head_dim || head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(unsupported(
            gguf.path(),
            format!("rotary embedding of {rotated} of a head's {head_dim} dimensions"),
        ));
    }
    let embedding =
        gguf.shape("token_embd.weight").ok_or_else(|| missing(gguf.path(), "tensor `token_embd.weight`"))?;
    let eps_key = key("attention.layer_norm_rms_epsilon");
    let rope_theta = gguf.float(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    // Where a block has one bias it must have all that the architecture gives it: the first that lacks is named.
    let attention_bias = architecture != Architecture::Qwen2 && has_any(&[&QKV_BIASES[..], &O_BIAS].concat());
    Ok(DecoderConfig {
        architecture: architecture.hf_name().to_owned(),
        hidden_size,
        intermediate_size: number("feed_forward_length")?,
        num_hidden_layers: number("block_count")?,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: embedding[0],
        max_position_embeddings: number("context_length")?,
        rms_norm_eps: gguf.required(&eps_key, gguf.float(&eps_key)?)? as f32,
        rope_theta,
        rope_scaling: rope_scaling(gguf, architecture, rope_theta, head_dim)?,
        tie_word_embeddings: gguf.shape("output.weight").is_none(),
        qkv_bias: attention_bias || architecture == Architecture::Qwen2,
        o_bias: attention_bias,
        mlp_bias: has_any(&MLP_BIASES),
        qk_norm: architecture == Architecture::Qwen3,
        bos_token_id: tokenizer.bos_id(),
        eos_token_id: tokenizer.eos_id(),
        pad_token_id: tokenizer.pad_id(),
    })
}

fn rope_scaling(gguf: &Gguf, architecture: Architecture, rope_theta: f64, head_dim: usize) -> Result<RopeScaling> {
    if gguf.shape(ROPE_FREQS).is_some() {
        let factors = gguf.tensor(ROPE_FREQS)?.data;
        return llama3_scaling(&factors, rope_theta, head_dim).ok_or_else(|| {
            unsupported(gguf.path(), format!("tensor `{ROPE_FREQS}` that is not Llama 3's rope scaling"))
        });
    }
    let key = |key: &str| format!("{}.rope.{key}", architecture.name());
    let factor = match gguf.float(&key("scaling.factor"))? {
        Some(factor) => Some(factor),
        None => gguf.float(&key("scale_linear"))?, // before llama.cpp's b1261
    };
    match (gguf.string(&key("scaling.type"))?, factor) {
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

/// Rows of q and k from llama.cpp's order to Hugging Face's.
fn half_split(tensor: &StoredTensor<'_>, head_dim: usize) -> StoredTensor<'static> {
    tensor.with_rows(|row| llama_cpp_row(row, head_dim))
}

/// Where llama.cpp has a row of Llama's q or k: there the two elements of a rotated pair are neighbours, in Hugging
/// Face's models they lie half a head apart (`permute` in llama.cpp's `convert_hf_to_gguf.py`).
pub(super) fn llama_cpp_row(row: usize, head_dim: usize) -> usize {
    let (head, at, half) = (row / head_dim, row % head_dim, head_dim / 2);
    head * head_dim + at % half * 2 + at / half
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::BlockType;

    #[test]
    fn the_rows_of_a_bias_are_split_as_those_of_its_matrix() {
        let rows = |shape: &[usize], values: &[f32]| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            StoredTensor::new(shape.to_vec(), BlockType::F32, bytes)
        };
        // Two heads of four rows; llama.cpp has the pairs (0, 2) and (1, 3) side by side.
        let bias = half_split(&rows(&[8], &[0., 2., 1., 3., 4., 6., 5., 7.]), 4);
        assert_eq!(bias.to_host().data, [0., 1., 2., 3., 4., 5., 6., 7.]);
        let matrix = half_split(&rows(&[4, 2], &[0., 0., 2., 2., 1., 1., 3., 3.]), 4);
        assert_eq!(matrix.to_host().data, [0., 0., 1., 1., 2., 2., 3., 3.]);
    }
}
