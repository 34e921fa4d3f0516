use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::RemoteError;
use crate::job::{Bundle, Failure, Heartbeat, JobId};

/// An engine that runs jobs. Scheduling, queueing and machines are its own: an implementation translates, and keeps no state.
///
/// No call is repeated by an implementation: [`Persistent`](super::Persistent) does that for all of them, and asks with `find` whether
/// a `submit` whose answer was lost has come through. So every call may be repeated, and an error tells whether that may help
/// ([`RemoteError::is_transient`]).
pub trait TrainingBackend {
    /// What it is, for people: `ray at http://10.0.0.5:8265`.
    fn describe(&self) -> String;

    /// Asks whether it is there, lets us in, and could run such a job.
    ///
    /// # Errors
    /// [`RemoteError::Credentials`], [`RemoteError::Unschedulable`] where it has no such machine and says so, those of the way there.
    fn probe(&self, resources: &Resources) -> Result<Capabilities, RemoteError>;

    /// Hands in an attempt. One that is there already with the same digest is the same attempt, and its handle is returned.
    ///
    /// # Errors
    /// [`RemoteError::Conflict`] where the name is taken by something else; [`RemoteError::Transient`] where it may have come through
    /// all the same.
    fn submit(&self, attempt: &Submission<'_>) -> Result<JobHandle, RemoteError>;

    /// The attempt of that name, where the engine knows one, whatever became of it.
    ///
    /// # Errors
    /// Those of the way there.
    fn find(&self, id: &JobId) -> Result<Option<JobHandle>, RemoteError>;

    /// Where it stands.
    ///
    /// # Errors
    /// [`RemoteError::NotFound`] where the engine has forgotten it.
    fn status(&self, handle: &JobHandle) -> Result<JobStatus, RemoteError>;

    /// What it wrote on its standard output and error from byte `from` on: as much as there is now. For people: figures come
    /// from `metrics.jsonl`.
    ///
    /// # Errors
    /// Those of the way there.
    fn logs(&self, handle: &JobHandle, from: u64) -> Result<LogChunk, RemoteError>;

    /// Asks for its end; one that has ended already is no error. It may go on for a while: `status` tells.
    ///
    /// # Errors
    /// Those of the way there.
    fn cancel(&self, handle: &JobHandle) -> Result<(), RemoteError>;

    /// Copies the job's output into the empty folder `into`: `result.json`, `metrics.jsonl` and `adapter/`. Whether it is what the
    /// job wrote is looked at by the caller.
    ///
    /// # Errors
    /// [`RemoteError::NoArtefact`] where there is none; those of the way there, and of `into`.
    fn fetch(&self, handle: &JobHandle, into: &Path) -> Result<(), RemoteError>;

    /// Removes what the job left with the engine and in the artefact store, the job itself where engines remove jobs. What is
    /// not there is removed already. By its name: an attempt whose submission failed has left its bundle all the same.
    ///
    /// # Errors
    /// Those of the way there.
    fn cleanup(&self, id: &JobId) -> Result<(), RemoteError>;
}

/// What an attempt is to have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// The kind of GPU by the engine's or the price table's name: `A10G`; none trains on the processor.
    pub gpu: Option<String>,
    /// GPUs of each machine.
    pub gpu_count: u32,
    /// Machines.
    pub nodes: u32,
    /// Processor cores of each machine.
    pub cpu: u32,
    /// MiB of each machine.
    pub memory_mib: u64,
}

impl Resources {
    /// Processes that train together: one for each GPU, or one for each machine.
    pub fn world_size(&self) -> u32 {
        self.nodes * self.ranks_per_node()
    }

    /// Of them, those of one machine.
    pub fn ranks_per_node(&self) -> u32 {
        if self.gpu.is_some() { self.gpu_count.max(1) } else { 1 }
    }
}

/// One attempt at a job.
#[derive(Debug, Clone)]
pub struct Submission<'a> {
    /// Its name.
    pub id: JobId,
    /// What is to be done.
    pub bundle: &'a Bundle,
    /// On what.
    pub resources: &'a Resources,
    /// How long it may take on a machine. The job stops itself then; an engine's own limit is for jobs that don't, and should lie
    /// [`GRACE`] behind it.
    pub timeout: Duration,
    /// How long it may wait for a machine, where an engine can be told so.
    pub queue_timeout: Duration,
    /// For people who look at the engine: `tenant`, `job` (its key), `digest`.
    pub labels: BTreeMap<String, String>,
}

/// What a job may take beyond its time: to save its state and to hand it in.
pub const GRACE: Duration = Duration::from_secs(120);

/// An attempt that an engine knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobHandle {
    /// Its name.
    pub id: JobId,
    /// What the engine calls it: a number, an ARN, the name again.
    pub native: String,
    /// When it was handed in, by our clock.
    pub submitted_at: Timestamp,
}

/// Where an attempt stands.
#[derive(Debug, Clone, PartialEq)]
pub struct JobStatus {
    /// In short.
    pub state: JobState,
    /// The last that the job told of itself, where the engine or the artefact store can be asked.
    pub heartbeat: Option<Heartbeat>,
}

/// In short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// For a machine, or for its package to be unpacked there.
    Queued {
        /// The engine's reason, where it has one.
        reason: Option<String>,
    },
    /// It goes on.
    Running,
    /// The engine says that it ended well. Whether it left what it should is looked at by whoever fetches it.
    Succeeded,
    /// It did not.
    Failed(Failure),
    /// It was cancelled, by us or by somebody else.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will come.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed(_) | Self::Cancelled)
    }
}

/// A piece of a job's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogChunk {
    /// What it wrote.
    pub bytes: Vec<u8>,
    /// From where to ask next.
    pub next: u64,
}

/// What an engine said of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Its version, where it tells.
    pub version: Option<String>,
    /// Kinds of GPU that it has, where it tells.
    pub gpus: Vec<String>,
    /// What is good to know: `2 nodes, 1 idle`.
    pub notes: Vec<String>,
}
