//! Adapters as Hugging Face PEFT writes and reads them, and whole models as transformers does.

use crate::config::{LoraConfig, ModelConfig};
use crate::decoder::modules::MODULE_NAMES;
use crate::formats::{BaseModel, sentence_files, shortest};
use crate::{Result, TrainerError};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

/// Before every key of an adapter: PEFT's wrapper, then the causal model's own.
const KEY_PREFIX: &str = "base_model.model.";

/// A tensor to write.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Name in the base model: `model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// `[rows, cols]`.
    pub shape: [usize; 2],
    /// Row-major.
    pub data: Vec<f32>, // [rows, cols]
}

/// Writes `adapter_config.json` and `adapter_model.safetensors`, in f32 as PEFT keeps LoRA weights; of an encoder also
/// sentence-transformers' module files.
///
/// # Errors
/// [`TrainerError::Io`].
pub fn write_adapter(folder: &Path, base: &BaseModel, lora: &LoraConfig, tensors: &[NamedTensor]) -> Result<()> {
    let (task_type, modules) = match &base.config {
        ModelConfig::Decoder(_) => ("CAUSAL_LM", &MODULE_NAMES[..]),
        ModelConfig::Encoder(config) => {
            sentence_files::write(folder, config)?;
            ("FEATURE_EXTRACTION", config.names.module_names())
        }
    };
    let config = json!({
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base.path().display().to_string(),
        "inference_mode": true,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": shortest(lora.dropout),
        "target_modules": lora.target_modules.select(modules)?,
        "use_rslora": lora.use_rslora,
        "use_dora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
    });
    write_json(&folder.join("adapter_config.json"), &config)?;
    let entries = tensors
        .iter()
        .map(|tensor| (format!("{KEY_PREFIX}{}", tensor.name), tensor.shape.to_vec(), tensor.data.as_slice()));
    write_tensors(&folder.join("adapter_model.safetensors"), entries, Dtype::F32)
}

/// Writes `config.json` and `model.safetensors`, in the precision that the base's configuration names (f32 where none);
/// of an encoder also sentence-transformers' module files, and the base's pooler, which no text embedding reads.
///
/// # Errors
/// [`TrainerError::Io`].
pub fn write_model(folder: &Path, base: &BaseModel, tensors: &[NamedTensor]) -> Result<()> {
    let config = base.hf_config();
    let dtype = match config.get("dtype").or_else(|| config.get("torch_dtype")).and_then(Value::as_str) {
        Some("bfloat16") => Dtype::BF16,
        Some("float16") => Dtype::F16,
        _ => Dtype::F32,
    };
    write_json(&folder.join("config.json"), &config)?;
    let mut untouched = Vec::new();
    if let ModelConfig::Encoder(config) = &base.config {
        sentence_files::write(folder, config)?;
        let pooler = ["pooler.dense.weight", "pooler.dense.bias"].map(String::from);
        untouched.extend(pooler.into_iter().filter_map(|name| base.tensor(&name).ok().map(|tensor| (name, tensor))));
    }
    let trained = tensors.iter().map(|tensor| {
        // A norm's weight and a bias are vectors in the model's file; a table of one row (token types) is not.
        let is_vector = tensor.shape[0] == 1 && !tensor.name.ends_with("embeddings.weight");
        let shape = if is_vector { vec![tensor.shape[1]] } else { tensor.shape.to_vec() };
        (tensor.name.clone(), shape, tensor.data.as_slice())
    });
    let untouched = untouched.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone(), tensor.data.as_slice()));
    write_tensors(&folder.join("model.safetensors"), trained.chain(untouched), dtype)
}

/// Reads an adapter's tensors by their names in the base model.
///
/// # Errors
/// [`TrainerError::Io`], [`TrainerError::Corrupt`].
pub fn read_adapter(folder: &Path) -> Result<Vec<NamedTensor>> {
    let path = folder.join("adapter_model.safetensors");
    let bytes =
        std::fs::read(&path).map_err(|source| TrainerError::Io { action: "read", path: path.clone(), source })?;
    let corrupt = |what: String| TrainerError::Corrupt { path: path.clone(), what };
    let file = SafeTensors::deserialize(&bytes).map_err(|error| corrupt(error.to_string()))?;
    let mut tensors = Vec::new();
    for (key, view) in file.iter() {
        let (&[rows, cols], Dtype::F32) = (view.shape(), view.dtype()) else {
            return Err(corrupt(format!("tensor `{key}` is {:?} {:?}, not an f32 matrix", view.dtype(), view.shape())));
        };
        let name = key.strip_prefix(KEY_PREFIX).unwrap_or(key).to_owned();
        let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        tensors.push(NamedTensor { name, shape: [rows, cols], data });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
}

fn write_tensors<'a>(
    path: &Path,
    entries: impl Iterator<Item = (String, Vec<usize>, &'a [f32])>,
    dtype: Dtype,
) -> Result<()> {
    let encoded: Vec<_> = entries.map(|(name, shape, data)| (name, shape, encode(data, dtype))).collect();
    let views = encoded.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, shape.clone(), bytes).expect("the bytes are of this shape and type");
        (name.as_str(), view)
    });
    write_views(path, views)
}

/// Values as a file has them; other types than the three floats are f32.
pub(crate) fn encode(data: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::BF16 => data.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        Dtype::F16 => data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        _ => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// Writes tensors, each asked for its bytes when its turn comes.
pub(crate) fn write_views<N, V>(path: &Path, views: impl Iterator<Item = (N, V)>) -> Result<()>
where
    N: AsRef<str> + Ord + Display,
    V: View,
{
    // PEFT and transformers look for this entry before they load a file.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|error| {
        let source = match error {
            safetensors::SafeTensorError::IoError(source) => source,
            other => std::io::Error::other(other.to_string()),
        };
        TrainerError::Io { action: "write", path: path.to_owned(), source }
    })
}

/// Writes pretty-printed JSON with a final newline.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    std::fs::write(path, text).map_err(|source| TrainerError::Io { action: "write", path: path.to_owned(), source })
}
