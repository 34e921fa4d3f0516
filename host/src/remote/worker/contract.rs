//! What a worker is spoken to with: HTTP, JSON, and tar.gz for folders. `tunesmith serve --worker` and `deploy/modal_app.py` both
//! serve it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/worker` | 200 [`WorkerInfo`] |
//! | `PUT /v1/jobs/{id}` | 202 [`JobView`] where the attempt is taken on, 200 where it is there already |
//! | `GET /v1/jobs/{id}` | 200 [`JobView`] |
//! | `GET /v1/jobs/{id}/logs?offset=N` | 200 what it wrote from byte N on, at most 1 MiB; `X-Next-Offset` says from where to ask next |
//! | `POST /v1/jobs/{id}/cancel` | 202 [`JobView`]; one that has ended stays as it is |
//! | `GET /v1/jobs/{id}/artifact` | 200 tar.gz of `adapter/`, `metrics.jsonl` and `result.json`; `X-Artifact-Sha256` is its digest |
//! | `DELETE /v1/jobs/{id}` | 204; the job with all attempts at it and all that they left is gone |
//!
//! `{id}` is `{key}-{attempt}`. All attempts at a job share one folder there, by its key, so that one goes on from the checkpoint of
//! the one before.
//!
//! A `PUT` has the headers [`BUNDLE_DIGEST`], the SHA-256 of `job.json`, and [`RESOURCES`], a JSON object `{"gpu": "A10G",
//! "gpu_count": 1, "nodes": 1, "cpu": 4, "memory_mib": 16384}`: on what it runs is no part of a job. Its body is a tar.gz of the
//! bundle without the program, which a worker has of its own: files only, `job.json` first. An empty body is another attempt at a
//! bundle that is there already.
//!
//! Errors are `application/problem+json` (RFC 9457) with a `type` of `urn:tunesmith:problem:` and one of [`kind`]; 429 and 503 have
//! `Retry-After`. A client is known by `Authorization: Bearer TOKEN`, or at Modal by the headers `Modal-Key` and `Modal-Secret`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::job::{Failure, Heartbeat};

/// Of this contract.
pub(crate) const VERSION: u32 = 1;
/// Header of a `PUT`: 64 hexadecimal digits.
pub(crate) const BUNDLE_DIGEST: &str = "x-bundle-sha256";
/// Header of a `PUT`: [`Resources`](crate::remote::Resources) as JSON.
pub(crate) const RESOURCES: &str = "x-job-resources";
/// Header of a piece of a log.
pub(crate) const NEXT_OFFSET: &str = "x-next-offset";
/// Header of an artefact: of the bytes of the answer.
pub(crate) const ARTIFACT_DIGEST: &str = "x-artifact-sha256";
/// Bytes of a log in one answer.
pub(crate) const LONGEST_LOG: u64 = 1 << 20;
/// What the `type` of a problem begins with.
pub(crate) const URN: &str = "urn:tunesmith:problem:";

/// Kinds of problems that a client acts on.
pub(crate) mod kind {
    /// 404: no such attempt.
    pub(crate) const NO_JOB: &str = "no-such-job";
    /// 404: it left nothing, or nothing yet; `detail` names the file.
    pub(crate) const NO_ARTIFACT: &str = "no-artifact";
    /// 409: the name is taken by another bundle.
    pub(crate) const CONFLICT: &str = "other-bundle";
    /// 409: an attempt at it runs.
    pub(crate) const RUNNING: &str = "running";
    /// 422: an empty body, and no bundle there.
    pub(crate) const NO_BUNDLE: &str = "no-bundle";
    /// 422: not what a bundle has to be.
    pub(crate) const BAD_BUNDLE: &str = "bad-bundle";
    /// 422: the machine is not like that.
    pub(crate) const UNSCHEDULABLE: &str = "unschedulable";
    /// 413: longer than it may be.
    pub(crate) const TOO_LARGE: &str = "too-large";
    /// 429: another job runs.
    pub(crate) const BUSY: &str = "busy";
}

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerInfo {
    /// [`VERSION`]
    pub(crate) contract: u32,
    /// Of tunesmith.
    pub(crate) version: String,
    /// Kinds of GPU that it has: `NVIDIA A10G`. None known where machines are made for jobs.
    pub(crate) gpus: Vec<String>,
    /// Processor cores, 0 where machines are made for jobs.
    #[serde(default)]
    pub(crate) cpu: u32,
    /// MiB of memory, 0 where machines are made for jobs.
    #[serde(default)]
    pub(crate) memory_mib: u64,
    /// The attempt that runs, where one does.
    #[serde(default)]
    pub(crate) running: Option<String>,
}

/// Where an attempt stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobView {
    /// Its name.
    pub(crate) id: String,
    /// Its bundle's.
    pub(crate) digest: String,
    /// In short.
    pub(crate) state: Stage,
    /// Why it waits, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Of its process.
    #[serde(default)]
    pub(crate) exit_code: Option<i32>,
    /// Why it failed, where it did.
    #[serde(default)]
    pub(crate) failure: Option<Failure>,
    /// The last that it told of itself.
    #[serde(default)]
    pub(crate) heartbeat: Option<Heartbeat>,
    /// By the worker's clock.
    pub(crate) submitted_at: Timestamp,
    /// Seconds since then, by the same clock: what a client whose clock is another can use.
    pub(crate) age_s: u64,
}

/// In short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// For a machine.
    Queued,
    /// It goes on.
    Running,
    /// It left a result.
    Succeeded,
    /// It did not.
    Failed,
    /// Somebody asked for its end.
    Cancelled,
}

/// What a client reads of a problem.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ProblemView {
    /// [`URN`] and a [`kind`].
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// What is wrong, and what to do.
    pub(crate) detail: String,
}

impl ProblemView {
    /// One of [`kind`], or another.
    pub(crate) fn kind(&self) -> &str {
        self.kind.strip_prefix(URN).unwrap_or(&self.kind)
    }
}
