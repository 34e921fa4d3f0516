//! What tests of engines hand in.

use std::collections::BTreeMap;
use std::time::Duration;

use trainer_cuda::config::TrainConfig;
use trainer_cuda::encode::EncodeConfig;

use super::{Resources, Submission};
use crate::compute::ComputeConfig;
use crate::config::{ComputeOptions, LoraFallback};
use crate::job::{BaseSource, Bundle, DatasetSource, FORMAT, Job, JobKey, JobMethod};

/// Of tenant `acme`.
pub(super) fn job() -> Job {
    Job {
        format: FORMAT,
        tenant_id: "acme".to_owned(),
        name: "sft_routing".to_owned(),
        method: JobMethod::Sft,
        training: TrainConfig::default(),
        encoding: EncodeConfig::default(),
        lora_fallback: LoraFallback::Error,
        compute: ComputeConfig::new(&ComputeOptions::default(), None),
        memory_limit: None,
        checkpoint_steps: 5,
        timeout_s: 3600,
        base_model: BaseSource { from: "base".to_owned(), sha256: String::new(), name: "base".to_owned() },
        dataset: DatasetSource { tokens_sha256: String::new(), n_train: 1, n_held_out: 0 },
        files: BTreeMap::new(),
        program_sha256: String::new(),
        world_size: 1,
    }
}

/// The second attempt at it, with the labels that a run gives.
pub(super) fn attempt<'a>(bundle: &'a Bundle, resources: &'a Resources) -> Submission<'a> {
    let labels = [("tenant", "acme"), ("job", bundle.key.as_str()), ("digest", &bundle.digest)];
    Submission {
        id: bundle.key.attempt(2),
        bundle,
        resources,
        timeout: Duration::from_secs(3600),
        queue_timeout: Duration::from_secs(1800),
        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

/// Its digest is told, and no file of it is there.
pub(super) fn bundle(digest: &str) -> Bundle {
    let job = job();
    let key = JobKey::new("acme", digest);
    Bundle { key, digest: digest.to_owned(), job, folder: "bundle".into(), files: Vec::new() }
}
