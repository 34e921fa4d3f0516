//! An adapter as it lies in a PEFT folder: read whole, and checked against the model that it is for.

use super::{BaseModel, HostTensor, corrupt, map_file, read_file};
use crate::config::{DecoderConfig, EncoderConfig, LoraConfig, ModelConfig, TargetModules};
use crate::decoder::modules::MODULE_PATHS;
use crate::device::{Device, Trainable};
use crate::error::{Result, TrainerError};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Before every key: PEFT's wrapper, then the causal model's own.
const KEY_PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// A LoRA adapter in host memory.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Rank, scaling, and as target modules those that the file has tensors for: what PEFT's configuration says may
    /// be a pattern, or a list of full paths.
    pub lora: LoraConfig,
    /// By module path.
    pub updates: BTreeMap<String, Update>,
    path: PathBuf,
}

/// The update `scaling * B A` of one linear layer.
#[derive(Debug, Clone)]
pub struct Update {
    /// The factor that reads the layer's input.
    pub a: HostTensor, // [rank, in]
    /// The factor that writes its output.
    pub b: HostTensor, // [out, rank]
}

impl Adapter {
    /// Reads `adapter_config.json` and `adapter_model.safetensors` (f32, f16 or bf16).
    ///
    /// # Errors
    /// [`TrainerError::AdapterNotFound`] where `folder` lacks one of them, [`TrainerError::UnsupportedAdapter`] for an
    /// adapter that is more than `W + scaling * B A` on whole layers, [`TrainerError::Corrupt`].
    pub fn open(folder: &Path) -> Result<Self> {
        if ![CONFIG, WEIGHTS].iter().all(|name| folder.join(name).is_file()) {
            return Err(TrainerError::AdapterNotFound { path: folder.to_owned() });
        }
        let mut lora = read_config(&folder.join(CONFIG))?;
        let updates = read_updates(&folder.join(WEIGHTS), lora.rank)?;
        let names: BTreeSet<&str> = updates.keys().map(|module| last_part(module)).collect();
        lora.target_modules = TargetModules::List(names.into_iter().map(str::to_owned).collect());
        Ok(Self { lora, updates, path: folder.to_owned() })
    }

    /// The folder that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that every update is of a layer of `base`, in its size.
    ///
    /// # Errors
    /// [`TrainerError::AdapterMismatch`].
    pub fn check_fits(&self, base: &BaseModel) -> Result<()> {
        let refuse = |what: String| {
            let (adapter, base) = (self.path.clone(), base.path().to_owned());
            Err(TrainerError::AdapterMismatch { adapter, base, what })
        };
        for (module, Update { a, b }) in &self.updates {
            let shape = match &base.config {
                ModelConfig::Decoder(config) => shape_in_decoder(config, module),
                ModelConfig::Encoder(config) => shape_in_encoder(config, module),
            };
            let Some((out_features, in_features)) = shape else {
                return refuse(format!("it adapts `{module}`, which that model does not have"));
            };
            let (rows, cols) = (b.shape[0], a.shape[1]);
            if (rows, cols) != (out_features, in_features) {
                return refuse(format!(
                    "it adapts `{module}` as a matrix of {rows} by {cols}, and that model's has {out_features} by \
                     {in_features}"
                ));
            }
        }
        Ok(())
    }

    /// Puts the factors in the places that a loader made for them. A module that the adapter leaves out keeps `B = 0`:
    /// it stays the base's. [`Adapter::check_fits`] comes before.
    pub(crate) fn write_to<D: Device>(&self, device: &D, places: &mut [Trainable<D>]) {
        for (module, update) in &self.updates {
            for (suffix, factor) in [(A, &update.a), (B, &update.b)] {
                let name = format!("{module}{suffix}");
                let place = places.iter_mut().find(|place| place.name == name);
                // The module is in the model, and the target modules are this adapter's own.
                let place = place.unwrap_or_else(|| panic!("`{name}` has no place in the model"));
                device.write_weight(&mut place.weight, &factor.data);
            }
        }
    }
}

/// `(out, in)` of a linear layer by its full path: `model.layers.3.mlp.up_proj`.
fn shape_in_decoder(config: &DecoderConfig, module: &str) -> Option<(usize, usize)> {
    let (layer, path) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let paths = &MODULE_PATHS;
    let known = [paths.q, paths.k, paths.v, paths.o, paths.gate, paths.up, paths.down];
    (layer < config.num_hidden_layers && known.contains(&path)).then(|| config.module_shape(path))
}

/// `(out, in)` of a linear layer by its full path: `encoder.layer.3.attention.self.query`.
fn shape_in_encoder(config: &EncoderConfig, module: &str) -> Option<(usize, usize)> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    if module == "pooler.dense" && config.names.module_names().contains(&"dense") {
        return Some((hidden, hidden)); // in no embedding, but PEFT saves it
    }
    let linear = config.names.in_block().linear;
    let block_of = |layer: usize| module.strip_prefix(&config.names.block(layer))?.strip_prefix('.');
    match (0..config.num_hidden_layers).find_map(block_of)? {
        path if path == linear.fc1 => Some((intermediate, hidden)),
        path if path == linear.fc2 => Some((hidden, intermediate)),
        path => [linear.q, linear.k, linear.v, linear.o].contains(&path).then_some((hidden, hidden)),
    }
}

fn last_part(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// What of PEFT's `LoraConfig` changes the result; the rest is about training.
#[derive(Deserialize)]
struct RawConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    lora_bias: bool,
    bias: Option<String>,
    modules_to_save: Option<Value>,
    rank_pattern: Option<Value>,
    alpha_pattern: Option<Value>,
}

fn read_config(path: &Path) -> Result<LoraConfig> {
    let raw: RawConfig = serde_json::from_slice(&read_file(path)?).map_err(|err| corrupt(path, err.to_string()))?;
    let is_set = |value: &Option<Value>| match value {
        None | Some(Value::Null) => false,
        Some(Value::Object(entries)) => !entries.is_empty(),
        Some(Value::Array(entries)) => !entries.is_empty(),
        Some(_) => true,
    };
    let what = match &raw {
        _ if raw.peft_type != "LORA" => format!("`peft_type: {}`", raw.peft_type),
        _ if raw.use_dora => "`use_dora: true`".to_owned(),
        _ if raw.fan_in_fan_out => "`fan_in_fan_out: true`".to_owned(),
        _ if raw.lora_bias => "`lora_bias: true`".to_owned(),
        RawConfig { bias: Some(bias), .. } if bias != "none" => format!("`bias: {bias}`"),
        _ if is_set(&raw.modules_to_save) => "`modules_to_save`".to_owned(),
        _ if is_set(&raw.rank_pattern) => "`rank_pattern`".to_owned(),
        _ if is_set(&raw.alpha_pattern) => "`alpha_pattern`".to_owned(),
        _ if raw.r == 0 => return Err(corrupt(path, "`r` is 0")),
        _ => {
            let RawConfig { r: rank, lora_alpha: alpha, use_rslora, .. } = raw;
            return Ok(LoraConfig { rank, alpha, use_rslora, ..LoraConfig::default() });
        }
    };
    Err(TrainerError::UnsupportedAdapter { path: path.to_owned(), what })
}

fn read_updates(path: &Path, rank: usize) -> Result<BTreeMap<String, Update>> {
    let map = map_file(path)?;
    let file = SafeTensors::deserialize(&map).map_err(|err| corrupt(path, err.to_string()))?;
    let mut updates = BTreeMap::new();
    let mut tensors: Vec<_> = file.iter().collect();
    tensors.sort_by_key(|(key, _)| *key); // the first mistake is told, whatever the order in the file
    for (key, view) in tensors {
        let Some((suffix, other)) = [(A, B), (B, A)].into_iter().find(|(suffix, _)| key.ends_with(suffix)) else {
            return Err(corrupt(path, format!("tensor `{key}` is not of a low-rank update")));
        };
        let module = key.strip_suffix(suffix).unwrap_or(key);
        let other_key = format!("{module}{other}");
        let other = file.tensor(&other_key);
        let other = other.map_err(|_| corrupt(path, format!("it has `{key}` without `{other_key}`")))?;
        if suffix == B {
            continue; // read with its `A`
        }
        let module = module.strip_prefix(KEY_PREFIX).unwrap_or(module);
        let update = Update { a: matrix(path, key, &view)?, b: matrix(path, &other_key, &other)? };
        if update.a.shape[0] != rank || update.b.shape[1] != rank {
            let (a, b) = (&update.a.shape, &update.b.shape);
            return Err(corrupt(path, format!("`{module}` has factors of {a:?} and {b:?}, not of rank {rank}")));
        }
        updates.insert(module.to_owned(), update);
    }
    match updates.is_empty() {
        true => Err(corrupt(path, "it has no tensors")),
        false => Ok(updates),
    }
}

fn matrix(path: &Path, key: &str, view: &TensorView<'_>) -> Result<HostTensor> {
    let &[_, _] = view.shape() else {
        return Err(corrupt(path, format!("tensor `{key}` of shape {:?} is not a matrix", view.shape())));
    };
    let data = match view.dtype() {
        Dtype::F32 => values(view, f32::from_le_bytes),
        Dtype::F16 => values(view, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => values(view, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        dtype => {
            let what = format!("type `{dtype:?}` of tensor `{key}`");
            return Err(TrainerError::UnsupportedAdapter { path: path.to_owned(), what });
        }
    };
    Ok(HostTensor { shape: view.shape().to_vec(), data })
}

fn values<const N: usize>(view: &TensorView<'_>, value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (values, _) = view.data().as_chunks::<N>();
    values.iter().map(|bytes| value(*bytes)).collect()
}
