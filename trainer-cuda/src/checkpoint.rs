//! The state of a run in one file: a run that was killed at any instant goes on from it to the same bytes.
//!
//! Everything that a step depends on is in it, or follows from the configuration and the step's number: the shuffle
//! and dropout draw from streams that the seed and the step name, so no generator has a state to keep.

use crate::config::TrainConfig;
use crate::device::{Device, Trainable};
use crate::{Result, TrainerError, atomic_file};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where and how often a run saves its state.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    /// One file, replaced whole each time.
    pub path: PathBuf,
    /// Optimiser steps between two of them.
    pub every_steps: usize,
    /// Digest of the base model: a checkpoint belongs to one.
    pub base_sha256: String,
}

/// What a checkpoint belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Of the file's layout.
    pub(crate) format: u32,
    pub(crate) method: String,
    /// Kind of device: another one rounds otherwise.
    pub(crate) device: String,
    pub(crate) config: TrainConfig,
    pub(crate) base_sha256: String,
    pub(crate) data_sha256: String,
}

/// The layout that this build writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// Where the loop stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Optimiser steps done.
    pub(crate) step: usize,
    /// Lowest held-out loss and its step.
    pub(crate) best: Option<(f64, usize)>,
    /// Evaluations since then.
    pub(crate) stale_evaluations: usize,
}

impl Position {
    /// Counts an evaluation after the step; true where no loss before was as low.
    pub(crate) fn note(&mut self, loss: f64) -> bool {
        let best = self.best.is_none_or(|(lowest, _)| loss < lowest);
        if best {
            (self.best, self.stale_evaluations) = (Some((loss, self.step)), 0);
        } else {
            self.stale_evaluations += 1;
        }
        best
    }
}

/// The weights with the lowest held-out loss, on the host, one list per trained tensor.
pub(crate) type BestWeights = Vec<Vec<f32>>;

#[derive(Serialize, Deserialize)]
struct Header {
    identity: Identity,
    position: Position,
}

/// Key of the header among the file's metadata.
const HEADER: &str = "tunesmith";

/// Replaces the checkpoint at `path`.
pub(crate) fn save<D: Device>(
    path: &Path,
    identity: &Identity,
    position: &Position,
    device: &D,
    trained: &[Trainable<D>],
    best: Option<&BestWeights>,
) -> Result<()> {
    let bytes = |values: Vec<f32>| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors: Vec<(String, usize, Vec<u8>)> = Vec::new();
    for tensor in trained {
        let len = device.weight_shape(&tensor.weight).iter().product();
        for (part, values) in [
            ("weight", device.read_weight(&tensor.weight)),
            ("exp_avg", device.read_f32(&tensor.exp_avg, len)),
            ("exp_avg_sq", device.read_f32(&tensor.exp_avg_sq, len)),
        ] {
            tensors.push((format!("{part}/{}", tensor.name), len, bytes(values)));
        }
    }
    // What a device reads after a failure is no state of the run.
    device.check()?;
    for (tensor, values) in trained.iter().zip(best.into_iter().flatten()) {
        tensors.push((format!("best/{}", tensor.name), values.len(), bytes(values.clone())));
    }
    let header = Header { identity: identity.clone(), position: position.clone() };
    let invalid =
        |what: String| TrainerError::Io { action: "write", path: path.to_owned(), source: std::io::Error::other(what) };
    let header = serde_json::to_string(&header).map_err(|error| invalid(error.to_string()))?;
    let views = tensors
        .iter()
        .map(|(name, len, bytes)| Ok((name, TensorView::new(Dtype::F32, vec![*len], bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .and_then(|views| safetensors::serialize(views, Some(HashMap::from([(HEADER.to_owned(), header)]))))
        .map_err(|error| invalid(error.to_string()))?;
    atomic_file::write(path, &views)
}

/// Restores the state at `path` into `trained`; `None` where there is no file.
pub(crate) fn restore<D: Device>(
    path: &Path,
    identity: &Identity,
    device: &D,
    trained: &mut [Trainable<D>],
) -> Result<Option<(Position, Option<BestWeights>)>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TrainerError::Io { action: "read", path: path.to_owned(), source }),
    };
    let corrupt = |what: String| TrainerError::Corrupt { path: path.to_owned(), what };
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| corrupt(error.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get(HEADER));
    let header: Value = header
        .and_then(|header| serde_json::from_str(header).ok())
        .ok_or_else(|| corrupt("it is no checkpoint of a training run".into()))?;
    if let Some(what) = difference(&header["identity"], identity) {
        return Err(TrainerError::OtherCheckpoint { path: path.to_owned(), what });
    }
    let header: Header = serde_json::from_value(header).map_err(|error| corrupt(error.to_string()))?;

    let file = SafeTensors::deserialize(&bytes).map_err(|error| corrupt(error.to_string()))?;
    let read = |part: &str, tensor: &Trainable<D>| -> Result<Vec<f32>> {
        let name = format!("{part}/{}", tensor.name);
        let view = file.tensor(&name).map_err(|_| corrupt(format!("it lacks `{name}`")))?;
        let expected: usize = device.weight_shape(&tensor.weight).iter().product();
        match (view.dtype(), view.data().as_chunks::<4>()) {
            (Dtype::F32, (values, [])) if values.len() == expected => {
                Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
            _ => Err(corrupt(format!("`{name}` does not hold {expected} f32 values"))),
        }
    };
    // Read whole before anything is overwritten: a broken file leaves the model as it was.
    let state = trained
        .iter()
        .map(|tensor| Ok([read("weight", tensor)?, read("exp_avg", tensor)?, read("exp_avg_sq", tensor)?]))
        .collect::<Result<Vec<_>>>()?;
    let best = match header.position.best {
        Some(_) if identity.config.early_stopping_patience.is_some() => {
            Some(trained.iter().map(|tensor| read("best", tensor)).collect::<Result<BestWeights>>()?)
        }
        _ => None,
    };
    for (tensor, [weight, exp_avg, exp_avg_sq]) in trained.iter_mut().zip(state) {
        device.write_weight(&mut tensor.weight, &weight);
        device.write_f32(&mut tensor.exp_avg, &exp_avg);
        device.write_f32(&mut tensor.exp_avg_sq, &exp_avg_sq);
    }
    Ok(Some((header.position, best)))
}

/// Says what of a checkpoint's identity is not this run's.
fn difference(saved: &Value, own: &Identity) -> Option<String> {
    // Through text, as the saved one: an f32 of 0.3 is written as 0.3, but would be the value 0.30000001192092896.
    let own = serde_json::to_string(own).and_then(|text| serde_json::from_str::<Value>(&text));
    let Ok(own) = own else { return Some("an identity that can't be compared".into()) };
    if saved["format"] != own["format"] {
        return Some(format!("layout {} where this build reads {}", saved["format"], own["format"]));
    }
    if saved["config"] != own["config"] {
        let mut keys = Vec::new();
        differing_keys("", &saved["config"], &own["config"], &mut keys);
        return Some(format!("another configuration: {}", keys.join(", ")));
    }
    if saved["device"] != own["device"] {
        return Some(format!("another device: `device` is {} there, {} here", saved["device"], own["device"]));
    }
    let other =
        [("method", "another method"), ("base_sha256", "another base model"), ("data_sha256", "other training data")];
    let differs = other.iter().find(|(key, _)| saved[key] != own[key])?;
    Some(differs.1.to_owned())
}

/// `lora.rank is 8 there, 16 here`
fn differing_keys(prefix: &str, saved: &Value, own: &Value, out: &mut Vec<String>) {
    let empty = serde_json::Map::new();
    let Some(own) = own.as_object() else {
        return out.push(format!("`{prefix}` is {saved} there, {own} here"));
    };
    for (key, value) in own {
        let theirs = saved.as_object().unwrap_or(&empty).get(key).unwrap_or(&Value::Null);
        if theirs != value {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            differing_keys(&path, theirs, value, out);
        }
    }
}
