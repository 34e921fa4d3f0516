//! `config.json` of a Hugging Face model.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{check_heads, corrupt, missing, unsupported};
use crate::config::{DecoderConfig, RopeScaling};
use crate::error::{Result, TrainerError};

/// Models that are read, for the message about one that is not.
const SUPPORTED: &str = "LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, BertModel, XLMRobertaModel, \
                         JinaEmbeddingsV3Model";

/// What tells the architectures apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Qwen2,
    Qwen3,
}

/// Reads the constants; what is absent has the default of transformers' own class for the architecture, sizes excepted.
pub(super) fn parse(json: &Value, path: &Path) -> Result<DecoderConfig> {
    let architecture = json["architectures"][0].as_str().or(json["model_type"].as_str()).unwrap_or("unnamed");
    let family = match architecture {
        "LlamaForCausalLM" => Family::Llama,
        "Qwen2ForCausalLM" => Family::Qwen2,
        "Qwen3ForCausalLM" => Family::Qwen3,
        _ => {
            return Err(TrainerError::UnsupportedArchitecture {
                path: path.to_owned(),
                architecture: architecture.to_owned(),
                supported: SUPPORTED,
            });
        }
    };
    let raw = RawConfig::deserialize(json).map_err(|err| corrupt(path, err.to_string()))?;
    refuse_variants(&raw, path)?;

    let required = |value: Option<usize>, key: &str| value.ok_or_else(|| missing(path, format!("`{key}`")));
    let hidden_size = required(raw.hidden_size, "hidden_size")?;
    let num_hidden_layers = required(raw.num_hidden_layers, "num_hidden_layers")?;
    let num_attention_heads = required(raw.num_attention_heads, "num_attention_heads")?;
    let num_key_value_heads = match raw.num_key_value_heads {
        Some(heads) => heads,
        None if family != Family::Llama && json.get("num_key_value_heads").is_none() => 32,
        None => num_attention_heads,
    };
    check_heads(num_attention_heads, num_key_value_heads, path)?;
    let head_dim = raw.head_dim.unwrap_or(match family {
        Family::Qwen3 => 128,
        Family::Llama | Family::Qwen2 => hidden_size / num_attention_heads,
    });
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(corrupt(path, format!("rotary embedding needs an even `head_dim`, not {head_dim}")));
    }
    let max_position_embeddings = raw.max_position_embeddings.unwrap_or(match family {
        Family::Llama => 2048,
        Family::Qwen2 | Family::Qwen3 => 32_768,
    });
    if family != Family::Llama {
        refuse_sliding_window(&raw, json, num_hidden_layers, max_position_embeddings, path)?;
    }
    let attention_bias = family != Family::Qwen2 && raw.attention_bias.unwrap_or(false);
    let (rope_theta, rope_scaling) = rope(&raw, path)?;
    Ok(DecoderConfig {
        architecture: architecture.to_owned(),
        hidden_size,
        intermediate_size: required(raw.intermediate_size, "intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: required(raw.vocab_size, "vocab_size")?,
        max_position_embeddings,
        rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
        qkv_bias: attention_bias || family == Family::Qwen2,
        o_bias: attention_bias,
        mlp_bias: family == Family::Llama && raw.mlp_bias.unwrap_or(false),
        qk_norm: family == Family::Qwen3,
        bos_token_id: raw.bos_token_id.and_then(TokenId::first),
        eos_token_id: raw.eos_token_id.and_then(TokenId::first),
        pad_token_id: raw.pad_token_id.and_then(TokenId::first),
    })
}

#[derive(Deserialize)]
struct RawConfig {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f32>,
    tie_word_embeddings: Option<bool>,
    bos_token_id: Option<TokenId>,
    eos_token_id: Option<TokenId>,
    pad_token_id: Option<TokenId>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    partial_rotary_factor: Option<f64>,
    quantization_config: Option<Value>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,    // transformers 4
    rope_parameters: Option<Rope>, // transformers 5
}

/// Llama 3 lists several tokens that end a text; the first is the model's own.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenId {
    One(u32),
    Several(Vec<u32>),
}

impl TokenId {
    fn first(self) -> Option<u32> {
        match self {
            Self::One(id) => Some(id),
            Self::Several(ids) => ids.first().copied(),
        }
    }
}

#[derive(Deserialize)]
struct Rope {
    rope_type: Option<String>,
    r#type: Option<String>, // before transformers 4.43; some files have both
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f64>,
}

fn refuse_variants(raw: &RawConfig, path: &Path) -> Result<()> {
    let rope = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let partial = raw.partial_rotary_factor.or(rope.and_then(|rope| rope.partial_rotary_factor));
    let variant = match raw {
        RawConfig { hidden_act: Some(act), .. } if act != "silu" => format!("`hidden_act: {act}`"),
        RawConfig { quantization_config: Some(_), .. } => {
            "`quantization_config` (use the unquantised model)".to_owned()
        }
        _ => match partial {
            Some(factor) if factor != 1.0 => format!("`partial_rotary_factor: {factor}`"),
            _ => return Ok(()),
        },
    };
    Err(unsupported(path, variant))
}

/// Qwen's later layers may see only the last `sliding_window` tokens. A window no shorter than the longest sequence is
/// no window.
fn refuse_sliding_window(
    raw: &RawConfig,
    json: &Value,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    path: &Path,
) -> Result<()> {
    let slides = match &raw.layer_types {
        Some(types) => types.iter().any(|kind| kind == "sliding_attention"),
        None => raw.max_window_layers.unwrap_or(28) < num_hidden_layers,
    };
    let window = json.get("sliding_window").map_or(Some(4096), Value::as_u64); // `null` is no window
    match window {
        Some(window) if raw.use_sliding_window == Some(true) && slides && window < max_position_embeddings as u64 => {
            let what = format!("a sliding window of {window} tokens (of up to {max_position_embeddings} positions)");
            Err(unsupported(path, what))
        }
        _ => Ok(()),
    }
}

fn rope(raw: &RawConfig, path: &Path) -> Result<(f64, RopeScaling)> {
    let rope = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let theta = rope.and_then(|rope| rope.rope_theta).or(raw.rope_theta).unwrap_or(10_000.0);
    let Some(rope) = rope else { return Ok((theta, RopeScaling::None)) };
    let required = |value: Option<f64>, key: &str| value.ok_or_else(|| missing(path, format!("the rope's `{key}`")));
    let scaling = match rope.rope_type.as_deref().or(rope.r#type.as_deref()) {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: required(rope.factor, "factor")? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: required(rope.factor, "factor")?,
            low_freq_factor: required(rope.low_freq_factor, "low_freq_factor")?,
            high_freq_factor: required(rope.high_freq_factor, "high_freq_factor")?,
            original_max_position_embeddings: rope
                .original_max_position_embeddings
                .ok_or_else(|| missing(path, "the rope's `original_max_position_embeddings`"))?,
        },
        Some(kind) => return Err(unsupported(path, format!("rope scaling `{kind}`"))),
    };
    Ok((theta, scaling))
}
