use std::path::{Path, PathBuf};

use crate::job::{ADAPTER_DIR, CHECKPOINT_DIR, METRICS_FILE};
use crate::run_dir::RunDir;

/// Where a training writes.
#[derive(Debug)]
pub(super) struct Workplace {
    /// Folder of the adapter.
    pub(super) adapter: PathBuf,
    /// `metrics.jsonl`
    pub(super) metrics: PathBuf,
    /// The trainer's state.
    pub(super) state: PathBuf,
    /// The log-probabilities of DPO's reference, which a resumed training finds again.
    pub(super) reference: PathBuf,
}

impl Workplace {
    /// A run's folder, which has the adapter beside everything else.
    pub(super) fn of_run(run_dir: &RunDir) -> Self {
        Self {
            adapter: run_dir.path().to_owned(),
            metrics: run_dir.path().join(METRICS_FILE),
            state: run_dir.state_file(),
            reference: run_dir.scratch_file(REFERENCE),
        }
    }

    /// A job's output, which has the adapter in a folder of its own.
    pub(super) fn of_job(out: &Path) -> Self {
        let checkpoint = out.join(CHECKPOINT_DIR);
        Self {
            adapter: out.join(ADAPTER_DIR),
            metrics: out.join(METRICS_FILE),
            state: checkpoint.join(STATE_FILE),
            reference: checkpoint.join(REFERENCE),
        }
    }
}

const STATE_FILE: &str = "state.safetensors";
const REFERENCE: &str = "reference.json";
