use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trainer_cuda::method::Evaluation;
use trainer_cuda::trainer::Stopped;

/// `result.json`: what a job did, and the digest of every file that it left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The digest of the job that it is of.
    pub digest: String,
    /// Which attempt finished it.
    pub attempt: u32,
    /// What it did.
    pub produced: Produced,
    /// SHA-256 of each file of the output by its path: `adapter/adapter_model.safetensors`.
    pub files: BTreeMap<String, String>,
    /// The version that trained.
    pub version: String,
}

/// What a training gave beside its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Produced {
    /// False where every weight was trained.
    pub lora: bool,
    /// What trained.
    pub device: String,
    /// Why it was that, where `auto` chose.
    pub device_choice: Option<String>,
    /// Scores of the base and of the adapter on the held-out examples, where there are any.
    pub held_out: Option<(Evaluation, Evaluation)>,
    /// Loss of the last optimiser step.
    pub final_train_loss: f64,
    /// Optimiser steps done.
    pub steps: usize,
    /// How it ended.
    pub stopped: Stopped,
    /// The step whose weights are kept, where early stopping keeps the best.
    pub best_step: Option<usize>,
    /// The step of the checkpoint that it went on from.
    pub resumed_at: Option<usize>,
    /// Seconds of loading and of the base's scores.
    pub before_training_s: f64,
    /// Seconds of optimiser steps.
    pub training_s: f64,
    /// Tokens of the examples trained on, per second of training.
    pub tokens_per_second: f64,
    /// The most memory that the process held at once.
    pub peak_rss_bytes: u64,
}
