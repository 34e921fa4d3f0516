//! Names within a bundle, and within a job's output.

/// What is to be done.
pub const JOB_FILE: &str = "job.json";
/// The records, a JSON object a line: `{"set": "train", "record": {...}}`.
pub const DATASET_FILE: &str = "dataset.jsonl";
/// The binary that does it.
pub const PROGRAM: &str = "tunesmith";
/// Folder of the adapter, as PEFT reads it.
pub const ADAPTER_DIR: &str = "adapter";
/// A line for each event of the training.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Written last, whole: with it, the job is done.
pub const RESULT_FILE: &str = "result.json";
/// Why the last attempt ended without a result.
pub const FAILURE_FILE: &str = "failure.json";
/// How far the job is, written anew every few seconds.
pub const HEARTBEAT_FILE: &str = "heartbeat.json";
/// Folder of the state that another attempt goes on from.
pub const CHECKPOINT_DIR: &str = "checkpoint";
