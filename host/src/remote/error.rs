use std::path::PathBuf;
use std::time::Duration;

use crate::artefacts::ArtefactError;
use crate::job::{Failure, JobId, JobKey};

/// What can go wrong between this host and an engine, and with a job there. The engine's own words are part of it.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It may go better a little later: no connection, one that broke off, an overload, a failure of the server's.
    #[error("{engine}: {message}")]
    Transient {
        /// `ray at http://10.0.0.5:8265`
        engine: String,
        /// What happened.
        message: String,
        /// When to come again, where the server says.
        after: Option<Duration>,
    },
    /// It is at other work, and keeps no queue: nothing was handed in.
    #[error(
        "{engine} takes no job now: {message}; nothing was submitted, and the same command tries again, for as long as \
         `remote.queue_timeout`"
    )]
    Busy {
        /// The engine.
        engine: String,
        /// Its words.
        message: String,
        /// When to come again, where it says.
        after: Option<Duration>,
    },
    /// It does not let us in.
    #[error("{engine} refuses the credentials: {message}; {remedy}")]
    Credentials {
        /// The engine.
        engine: String,
        /// Its words.
        message: String,
        /// Where they are set.
        remedy: String,
    },
    /// It has no such machine, or no quota.
    #[error("{engine} can't run such a job: {message}; change `gpu`, `gpu_count`, `cpu`, `memory` or `remote.nodes`")]
    Unschedulable {
        /// The engine.
        engine: String,
        /// Its words.
        message: String,
    },
    /// It does not take what we sent.
    #[error("{engine} refuses the request: {message}")]
    Refused {
        /// The engine.
        engine: String,
        /// Its words.
        message: String,
    },
    /// The name is taken by something else.
    #[error(
        "{engine} has a job `{id}` already, of another bundle ({message}); it is not one of ours: remove it there, or change \
         the tenant's name"
    )]
    Conflict {
        /// The engine.
        engine: String,
        /// The name.
        id: JobId,
        /// What is there.
        message: String,
    },
    /// It does not know the job.
    #[error("{engine} knows no job `{id}`: it was removed there, or the engine was set up anew")]
    NotFound {
        /// The engine.
        engine: String,
        /// The name.
        id: JobId,
    },
    /// The job left nothing.
    #[error("job `{id}` left no `{what}` in {place}")]
    NoArtefact {
        /// The job.
        id: JobId,
        /// The file.
        what: String,
        /// Where it should be.
        place: String,
    },
    /// What the job left is not what it wrote.
    #[error("what job `{id}` left is damaged: {what}; `tunesmith jobs fetch {}` tries once more", id.key)]
    Damaged {
        /// The job.
        id: JobId,
        /// What is wrong.
        what: String,
    },
    /// The answer is none that the engine is known to give.
    #[error("{engine} gives an answer that is none of its own: {message}; is that the right address?")]
    Protocol {
        /// The engine.
        engine: String,
        /// What came.
        message: String,
    },
    /// A program that an engine is spoken to with.
    #[error("cannot run `{program}`: {message}; {remedy}")]
    Program {
        /// `sbatch`
        program: String,
        /// The system's answer.
        message: String,
        /// What to install or set.
        remedy: String,
    },
    /// The artefact store: its address, its credentials, a file of ours.
    #[error(transparent)]
    Artefacts(ArtefactError),
    /// A file or folder of ours.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The configuration.
    #[error("`{key}`: {message}")]
    Config {
        /// The key.
        key: &'static str,
        /// What would make sense.
        message: String,
    },
    /// It would cost more than it may.
    #[error(
        "this could cost {estimate:.2} USD ({how}), and `remote.max_cost_usd` is {ceiling:.2}; raise that, or lower `timeout`, \
         `gpu_count`, `remote.nodes` or `remote.max_attempts`"
    )]
    Cost {
        /// USD.
        estimate: f64,
        /// How that is reckoned.
        how: String,
        /// USD.
        ceiling: f64,
    },
    /// It ended without a result, and another attempt is not made.
    #[error("job `{id}` failed ({}): {}{told}", failure.kind.name(), failure.message)]
    Failed {
        /// The last attempt.
        id: JobId,
        /// Why.
        failure: Failure,
        /// What was tried, and what to do.
        told: String,
    },
    /// Somebody cancelled it.
    #[error(
        "job `{id}` was cancelled; the command that submitted it submits it anew, and it goes on from its last checkpoint where it has one"
    )]
    Cancelled {
        /// The attempt.
        id: JobId,
    },
    /// Ctrl-C here, while it goes on there.
    #[error(
        "job `{key}` goes on at {engine}: the same command, or `tunesmith jobs wait {key}`, takes it up again; \
         `tunesmith jobs cancel {key}` ends it"
    )]
    Detached {
        /// The job.
        key: JobKey,
        /// Where.
        engine: String,
    },
    /// Another process is at it.
    #[error("job `{key}` is attended by another process of this host; wait for it, or end that one")]
    Held {
        /// The job.
        key: JobKey,
    },
    /// It is not over.
    #[error("job `{key}` is not over; `tunesmith jobs cancel {key}` ends it")]
    Open {
        /// The job.
        key: JobKey,
    },
    /// No record of it here.
    #[error("no job `{key}` is known in `{}`; `tunesmith jobs list` tells which are", folder.display())]
    Unknown {
        /// What was asked for.
        key: String,
        /// Where records are.
        folder: PathBuf,
    },
}

impl RemoteError {
    /// Whether the same call may go better a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }

    /// For `map_err` on a file of ours.
    pub fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
