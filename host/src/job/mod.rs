//! A training that can run anywhere: what a machine is handed, and what it hands back.
//!
//! ```text
//!  bundle/  job.json  dataset.jsonl  tunesmith  [base/...]         content-addressed: the same bytes are the same job
//!     |
//!  tunesmith train --job bundle/job.json --out out --attempt 1     on a machine of an engine, or on this one
//!     |
//!  out/     adapter/  metrics.jsonl  result.json                   `result.json` is written last: with it, the job is done
//!           heartbeat.json  checkpoint/  failure.json              while it goes on, and where it failed
//! ```

mod bundle;
mod error;
mod failure;
mod files;
mod heartbeat;
mod id;
mod inputs;
mod mirror;
mod result;
mod run;
mod spec;

pub use bundle::{Bundle, BundleDraft, BundleFile, sha256_of};
pub use error::JobError;
pub use failure::{Failure, FailureKind};
pub use files::{
    ADAPTER_DIR, CHECKPOINT_DIR, DATASET_FILE, FAILURE_FILE, HEARTBEAT_FILE, JOB_FILE, METRICS_FILE, PROGRAM,
    RESULT_FILE,
};
pub use heartbeat::Heartbeat;
pub use id::{JobId, JobKey};
pub use result::{JobResult, Produced};
pub use run::Attempt;
pub use spec::{BaseSource, DatasetSource, FORMAT, Job, JobMethod};
