use std::path::PathBuf;

use super::{Failure, FailureKind};
use crate::artefacts::ArtefactError;

/// What can be wrong with a bundle or with a job's output.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A file that can't be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// `job.json` is none.
    #[error("`{}` is no job of this version: {what}; make the bundle with the tunesmith that is to run it", path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file of the bundle has other bytes.
    #[error("`{}` is damaged: its SHA-256 is {is}, and job.json says {want}; submit the job again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its digest.
        is: String,
        /// What it should be.
        want: String,
    },
    /// A line of `dataset.jsonl` is no record.
    #[error("`{}`, line {line}: no training record; submit the job again", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// The base model is another one.
    #[error(
        "the model at `{}` has SHA-256 {is}, and the job was made for {want}; name the same model with \
         `remote_base_model`, or leave that out so that it travels with the job", path.display()
    )]
    OtherBase {
        /// The model.
        path: PathBuf,
        /// Its digest.
        is: String,
        /// What it should be.
        want: String,
    },
    /// The tokenizer is another one.
    #[error(
        "the tokenizer of `{}` makes other tokens of the records than where they were formatted; its files differ from those \
         there", path.display()
    )]
    OtherTokens {
        /// The model.
        path: PathBuf,
    },
    /// A file that the job reads is not where it should be.
    #[error("there is no `{url}`; submit the job again")]
    NoInput {
        /// Its address.
        url: String,
    },
    /// The folder of the base model is empty.
    #[error(
        "there is no model at `{url}`; name its folder with `remote_base_model`, or leave that out so that it travels with the job"
    )]
    NoBase {
        /// Its address.
        url: String,
    },
    /// The artefact store.
    #[error(transparent)]
    Artefacts(ArtefactError),
    /// The training ended without a result.
    #[error("{}", failure.message)]
    Failed {
        /// Why.
        failure: Failure,
    },
    /// Another process works there.
    #[error("another process works in `{}`; wait for its end", out.display())]
    Held {
        /// The job's output.
        out: PathBuf,
    },
    /// A later attempt works there.
    #[error("attempt {theirs} of this job works in `{}` already; this is {ours}", out.display())]
    Superseded {
        /// The job's output.
        out: PathBuf,
        /// The attempt that was seen.
        theirs: u32,
        /// This one.
        ours: u32,
    },
    /// Not as many processes as the job is of.
    #[error(
        "the job is of {want} processes, and the environment says {is}; start as many, each with RANK, WORLD_SIZE={want},          LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
    )]
    World {
        /// Of the job.
        want: u32,
        /// Of the environment.
        is: u32,
    },
    /// It took longer than it may.
    #[error("the job has taken the {timeout_s} s that it may; raise `timeout`, or train less")]
    Timeout {
        /// Seconds.
        timeout_s: u64,
    },
    /// It was asked to stop.
    #[error("the job was asked to stop; its state is saved, and another attempt goes on from it")]
    Stopped,
}

impl JobError {
    /// As a job tells of it.
    pub(crate) fn failure_kind(&self) -> FailureKind {
        match self {
            Self::Failed { failure } => failure.kind,
            Self::Io { .. } | Self::Artefacts(_) => FailureKind::Io,
            Self::Held { .. } => FailureKind::SetUp,
            Self::Spec { .. }
            | Self::Damaged { .. }
            | Self::Record { .. }
            | Self::NoInput { .. }
            | Self::Superseded { .. } => FailureKind::BadInput,
            Self::World { .. } => FailureKind::Rendezvous,
            Self::OtherBase { .. } | Self::OtherTokens { .. } | Self::NoBase { .. } => FailureKind::BaseModel,
            Self::Timeout { .. } => FailureKind::Timeout,
            Self::Stopped => FailureKind::Preempted,
        }
    }

    /// For `map_err` on a file.
    pub fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
