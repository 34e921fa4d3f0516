use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trainer_cuda::config::TrainConfig;
use trainer_cuda::encode::EncodeConfig;

use crate::compute::ComputeConfig;
use crate::config::LoraFallback;

/// The layout that this build writes and reads.
pub const FORMAT: u32 = 1;

/// `job.json`: a training, whole. Two jobs with the same bytes are the same job; when, where and how often it is tried is no part of
/// it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Of this file's layout: [`FORMAT`].
    pub format: u32,
    /// Whose it is.
    pub tenant_id: String,
    /// `sft_routing`: what the adapter's folder will be called.
    pub name: String,
    /// What is trained.
    pub method: JobMethod,
    /// How the optimiser runs, the seed included.
    pub training: TrainConfig,
    /// How records become tokens.
    pub encoding: EncodeConfig,
    /// Where no module is a LoRA target.
    pub lora_fallback: LoraFallback,
    /// What may compute.
    pub compute: ComputeConfig,
    /// Bytes that the memory plan may come to; none means what the machine has.
    pub memory_limit: Option<u64>,
    /// Optimiser steps between checkpoints.
    pub checkpoint_steps: usize,
    /// Seconds that an attempt may take; it stops itself then, with its state saved.
    pub timeout_s: u64,
    /// The base model.
    pub base_model: BaseSource,
    /// The records.
    pub dataset: DatasetSource,
    /// SHA-256 of each file of the bundle that the training depends on, by path: `dataset.jsonl`, `base/config.json`.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of the binary that is to do it; a worker has its own.
    pub program_sha256: String,
    /// Processes that train together.
    pub world_size: u32,
}

/// The methods, by the names that files have for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobMethod {
    /// Supervised fine-tuning.
    Sft,
    /// Preference pairs.
    Dpo,
    /// Triplets.
    Triplet,
}

/// Where a job finds its base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseSource {
    /// A path within the bundle (`base`, `base/model.gguf`), a path of the machine's own (`/models/SmolLM2-135M`), or the address of a
    /// folder (`s3://models/SmolLM2-135M`).
    pub from: String,
    /// The digest that it must have: of its weights, as runs tell it.
    pub sha256: String,
    /// What the adapter's configuration says of its base: the name that the host knows it by.
    pub name: String,
}

/// What a job trains on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSource {
    /// SHA-256 over the tokens and labels of all of them: a tokenizer that cuts otherwise is noticed before it trains.
    pub tokens_sha256: String,
    /// Records that train.
    pub n_train: usize,
    /// Records that judge.
    pub n_held_out: usize,
}
