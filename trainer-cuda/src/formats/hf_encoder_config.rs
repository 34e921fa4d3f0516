//! `config.json` of a text embedding model.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::sentence_files::SentenceModules;
use super::{check_heads, corrupt, missing, unsupported};
use crate::config::{EncoderConfig, EncoderNames, Positions};
use crate::error::Result;

/// The architectures whose encoder is read: under its own name in transformers, and what it is saved in.
const BERT: &[&str] = &["BertModel", "BertForMaskedLM", "bert"];
const XLM_ROBERTA: &[&str] = &["XLMRobertaModel", "XLMRobertaForMaskedLM", "xlm-roberta"];
const JINA: &[&str] = &["JinaEmbeddingsV3Model", "JinaEmbeddingsV3ForMaskedLM", "jina_embeddings_v3", JINA_REMOTE];
/// jina-embeddings-v3 as published with its own code: task adapters around every matrix.
const JINA_REMOTE: &str = "XLMRobertaLoRA";

/// True where the architecture is a text embedding model's.
pub(super) fn is_encoder(json: &Value) -> bool {
    [BERT, XLM_ROBERTA, JINA].iter().any(|names| names.contains(&architecture(json)))
}

/// Reads the constants; what is absent has the default of the architecture's configuration in transformers, sizes excepted.
pub(super) fn parse(
    json: &Value,
    path: &Path,
    sentence: &SentenceModules,
    tokenizer_max_length: Option<usize>,
) -> Result<EncoderConfig> {
    let raw = RawConfig::deserialize(json).map_err(|err| corrupt(path, err.to_string()))?;
    let found = architecture(json);
    let remote = found == JINA_REMOTE;
    let (architecture, names) = match found {
        name if BERT.contains(&name) => (BERT[0], EncoderNames::Bert),
        name if XLM_ROBERTA.contains(&name) => (XLM_ROBERTA[0], EncoderNames::Bert),
        _ => (JINA[0], EncoderNames::Jina),
    };
    refuse_variants(&raw, if remote { "rotary" } else { "absolute" }, path)?;
    if remote {
        tracing::warn!(
            model = %path.display(),
            "the task adapters of this model are ignored; adapters trained on it are for transformers' `JinaEmbeddingsV3Model`"
        );
    }

    let required = |value: Option<usize>, key: &str| value.ok_or_else(|| missing(path, format!("`{key}`")));
    let hidden_size = required(raw.hidden_size, "hidden_size")?;
    let num_attention_heads = required(raw.num_attention_heads, "num_attention_heads")?;
    check_heads(num_attention_heads, num_attention_heads, path)?;
    let rotary = names == EncoderNames::Jina;
    if !hidden_size.is_multiple_of(num_attention_heads * if rotary { 2 } else { 1 }) {
        return Err(corrupt(
            path,
            format!("{num_attention_heads} attention heads cannot share a width of {hidden_size}"),
        ));
    }
    let rows = raw.max_position_embeddings.unwrap_or(if rotary { 8194 } else { 512 });
    // RobertaEmbeddings numbers tokens from the row after the padding's.
    let offset = if architecture == XLM_ROBERTA[0] { raw.pad_token_id.unwrap_or(1) + 1 } else { 0 };
    let positions = match names {
        EncoderNames::Bert => Positions::Learned { offset, rows },
        EncoderNames::Jina => Positions::Rotary { theta: theta(&raw, path)? },
    };
    let longest = rows.saturating_sub(offset);
    let stated = sentence.max_seq_length.or(tokenizer_max_length);
    Ok(EncoderConfig {
        architecture: architecture.to_owned(),
        names,
        hidden_size,
        intermediate_size: required(raw.intermediate_size, "intermediate_size")?,
        num_hidden_layers: required(raw.num_hidden_layers, "num_hidden_layers")?,
        num_attention_heads,
        vocab_size: required(raw.vocab_size, "vocab_size")?,
        type_vocab_size: raw.type_vocab_size.unwrap_or(if rotary { 1 } else { 2 }),
        layer_norm_eps: raw.layer_norm_eps.unwrap_or(if rotary { 1e-5 } else { 1e-12 }),
        positions,
        max_length: stated.map_or(longest, |stated| stated.min(longest)),
        pooling: sentence.pooling,
        normalize: sentence.normalize,
    })
}

/// The configuration under which transformers reads what is written of the model: the encoder alone, and
/// jina-embeddings-v3 by its own class.
pub(super) fn native(json: &Value, config: &EncoderConfig) -> Value {
    let mut native = json.clone();
    native["architectures"] = json!([config.architecture]);
    if let (JINA_REMOTE, Positions::Rotary { theta }, Some(entries)) =
        (architecture(json), config.positions, native.as_object_mut())
    {
        entries.retain(|key, _| !REMOTE_KEYS.contains(&key.as_str()));
        entries.insert("model_type".into(), "jina_embeddings_v3".into());
        entries.insert("rope_parameters".into(), json!({ "rope_type": "default", "rope_theta": theta }));
    }
    native
}

/// What only the published code of jina-embeddings-v3 reads.
const REMOTE_KEYS: &[&str] = &[
    "auto_map",
    "emb_pooler",
    "load_trained_adapters",
    "lora_adaptations",
    "lora_alpha",
    "lora_dropout_p",
    "lora_main_params_trainable",
    "lora_rank",
    "matryoshka_dimensions",
    "position_embedding_type",
    "rotary_emb_base",
    "task_instructions",
    "truncate_dim",
    "use_flash_attn",
    "use_reentrant",
];

fn architecture(json: &Value) -> &str {
    json["architectures"][0].as_str().or(json["model_type"].as_str()).unwrap_or("unnamed")
}

#[derive(Deserialize)]
struct RawConfig {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    vocab_size: Option<usize>,
    type_vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    layer_norm_eps: Option<f32>,
    pad_token_id: Option<usize>,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
    quantization_config: Option<Value>,
    rotary_emb_base: Option<f64>,     // the published code of jina-embeddings-v3
    rope_theta: Option<f64>,          // transformers 4
    rope_parameters: Option<RawRope>, // transformers 5
}

#[derive(Deserialize)]
struct RawRope {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

fn refuse_variants(raw: &RawConfig, positions: &str, path: &Path) -> Result<()> {
    let variant = match raw {
        RawConfig { hidden_act: Some(act), .. } if act != "gelu" => format!("`hidden_act: {act}`"),
        RawConfig { position_embedding_type: Some(kind), .. } if kind != positions => {
            format!("`position_embedding_type: {kind}`")
        }
        RawConfig { is_decoder: Some(true), .. } => "`is_decoder: true`".to_owned(),
        RawConfig { quantization_config: Some(_), .. } => {
            "`quantization_config` (use the unquantised model)".to_owned()
        }
        _ => return Ok(()),
    };
    Err(unsupported(path, variant))
}

fn theta(raw: &RawConfig, path: &Path) -> Result<f64> {
    let rope = raw.rope_parameters.as_ref();
    match rope.and_then(|rope| rope.rope_type.as_deref()) {
        None | Some("default") => {}
        Some(kind) => return Err(unsupported(path, format!("rope scaling `{kind}`"))),
    }
    Ok(rope.and_then(|rope| rope.rope_theta).or(raw.rope_theta).or(raw.rotary_emb_base).unwrap_or(20_000.0))
}
