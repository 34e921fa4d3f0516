//! Everything that can go wrong in a run, told apart by what the operator can do about it.

use std::path::{Path, PathBuf};

use trainer_cuda::TrainerError;

use crate::approval::ApprovalError;
use crate::authoring::AuthoringError;
use crate::config::ConfigError;
use crate::dataset::DatasetError;
use crate::gpus::GpuError;
use crate::job::{FailureKind, JobError};
use crate::memory::OutOfMemory;
use crate::people::{Forbidden, PeopleError};
use crate::phoenix::PhoenixError;
use crate::plugins::PluginError;
use crate::remote::RemoteError;
use crate::review::ReviewError;
use crate::runs::RunsError;
use crate::server::ServerError;
use crate::synthetic::SyntheticError;
use crate::telemetry::TelemetryError;
use crate::tenants::TenantError;

/// The host's error.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The configuration, the environment or a flag.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What a tenant may not have.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// A plugin.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// What the author of a plugin gave.
    #[error(transparent)]
    Authoring(#[from] AuthoringError),
    /// The telemetry store, or a file to import.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A Phoenix server.
    #[error(transparent)]
    Phoenix(#[from] PhoenixError),
    /// A server that telemetry is sent to.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The approval store.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
    /// The file of people.
    #[error(transparent)]
    People(#[from] PeopleError),
    /// Somebody's role is not enough.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// What a reviewer gave on a terminal.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// A bundle, or what a job left.
    #[error(transparent)]
    Job(#[from] JobError),
    /// An engine that trains elsewhere.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The record of a run.
    #[error(transparent)]
    Runs(#[from] RunsError),
    /// What generates examples.
    #[error(transparent)]
    Synthetic(SyntheticError),
    /// The examples.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The model or its training.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
    /// Ctrl-C, or whoever started the process, ended the run.
    #[error("interrupted: nothing of this run was kept")]
    Interrupted,
    /// As [`HostError::Interrupted`], with a checkpoint.
    #[error(
        "interrupted: the training so far is in `{}`; the same command with `--resume` goes on from there",
        folder.display()
    )]
    InterruptedTraining {
        /// The run's unfinished folder.
        folder: PathBuf,
    },
    /// The GPU failed, with a checkpoint.
    #[error(
        "{error}; the training up to its last checkpoint is in `{}`; the same command with `--resume` goes on from there",
        folder.display()
    )]
    LostTraining {
        /// What failed.
        error: TrainerError,
        /// The run's unfinished folder.
        folder: PathBuf,
    },
    /// `--resume`, and nothing to go on with.
    #[error("no run `{run}` can be resumed in `{}`: {what}; start one without `--resume`", output_dir.display())]
    NothingToResume {
        /// `{method}_{agent}`
        run: String,
        /// Where runs are.
        output_dir: PathBuf,
        /// What is there instead.
        what: String,
    },
    /// A tenant's policy chose what the configured kind of model can't be trained by.
    #[error(
        "the policy chose {method} ({reason}), which is not of this `model_type`; name a `method`, or another policy"
    )]
    MethodOfOtherModel {
        /// `sft`, `dpo` or `triplet`.
        method: &'static str,
        /// The policy's reason.
        reason: String,
    },
    /// The buffers of the training do not fit.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// No GPU will do.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// An output could not be written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried: `create`, `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file of ours that is not what we write.
    #[error("`{}` is not what a run writes ({source}): name a run's folder", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A folder is to be made where something is.
    #[error("`{}` is there already; name another folder with `--out`, or remove it", path.display())]
    OutputExists {
        /// What is there.
        path: PathBuf,
    },
    /// The store does not hold exactly one project, and none was named.
    #[error("no project is named, and `{}` holds {}; name one with `--project`", store.display(), list(.known))]
    WhichProject {
        /// The store.
        store: PathBuf,
        /// Its projects.
        known: Vec<String>,
    },
    /// Not one example to train on. The first two sentences are those that users of the Python system know.
    #[error("Cannot train with empty dataset. No training examples available after formatting. {remedy}")]
    NoExamples {
        /// Where the spans went, and what to do.
        remedy: String,
    },
    /// The policy, or the threshold of the method that was asked for, wants more data.
    #[error("{reason}")]
    Insufficient {
        /// What is short, and what to do.
        reason: String,
    },
}

impl From<SyntheticError> for HostError {
    fn from(error: SyntheticError) -> Self {
        match error {
            SyntheticError::Interrupted => Self::Interrupted,
            error => Self::Synthetic(error),
        }
    }
}

impl HostError {
    /// For `map_err` on an output's path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// 1 where the input or the machine is at fault, 2 where Tunesmith is.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Plugin(error) if error.is_ours() => 2,
            // The split promised that this can't be.
            Self::Dataset(DatasetError::Leak { .. }) => 2,
            // What runs a job reads its code.
            Self::Job(JobError::Failed { failure }) => failure.kind.exit_code(),
            Self::Job(held @ JobError::Held { .. }) => held.failure_kind().exit_code(),
            _ => 1,
        }
    }

    /// What kind of failure a job tells of.
    pub(crate) fn job_failure_kind(&self) -> FailureKind {
        match self {
            Self::Job(error) => error.failure_kind(),
            Self::OutOfMemory(_) => FailureKind::OutOfMemory,
            Self::Io { .. } => FailureKind::Io,
            Self::Interrupted => FailureKind::Preempted,
            Self::Config(_) | Self::Dataset(_) | Self::NoExamples { .. } => FailureKind::BadInput,
            Self::Trainer(error) => match error {
                TrainerError::Io { .. } => FailureKind::Io,
                TrainerError::ModelNotFound { .. }
                | TrainerError::NotInHubCache { .. }
                | TrainerError::Corrupt { .. }
                | TrainerError::Missing { .. }
                | TrainerError::Unsupported { .. }
                | TrainerError::UnsupportedArchitecture { .. }
                | TrainerError::WrongKind { .. } => FailureKind::BaseModel,
                TrainerError::Config(_)
                | TrainerError::NoLoraTarget { .. }
                | TrainerError::EmptyDataset
                | TrainerError::Encode { .. } => FailureKind::BadInput,
                TrainerError::OutOfMemory { .. } => FailureKind::OutOfMemory,
                TrainerError::RankEnvironment { .. }
                | TrainerError::Rendezvous { .. }
                | TrainerError::RankLost { .. }
                | TrainerError::Collective { .. } => FailureKind::Rendezvous,
                TrainerError::NoGpu { .. } | TrainerError::Cuda { .. } => FailureKind::Gpu,
                _ => FailureKind::Trainer,
            },
            _ => FailureKind::Trainer,
        }
    }

    /// The message with its causes and, where it lacks one, a remedy; in one line unless a message has several.
    pub fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let what = error.to_string();
            if !text.contains(&what) {
                text.push_str(": ");
                text.push_str(&what);
            }
            cause = error.source();
        }
        if let Some(remedy) = self.remedy() {
            text.push_str("; ");
            text.push_str(remedy);
        }
        text
    }

    /// What to do about a trainer's error that does not say so itself: the flags are the host's.
    fn remedy(&self) -> Option<&'static str> {
        let Self::Trainer(error) = self else { return None };
        match error {
            TrainerError::Missing { .. } => Some("fetch or copy the model again"),
            TrainerError::UnsupportedArchitecture { .. }
            | TrainerError::Unsupported { .. }
            | TrainerError::WrongKind { .. } => Some("name another model with `--base-model`"),
            TrainerError::NoLoraTarget { .. } => Some("name some of these with `--target-modules`, or leave it out"),
            _ => None,
        }
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => format!("`{}`", names.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let source = || std::io::Error::other("disk full");
        let error = HostError::Io { action: "write", path: "a/run.json".into(), source: source() };
        assert_eq!(error.describe(), "cannot write `a/run.json`: disk full");
        // The trainer's text has its cause in it already.
        let error = HostError::Trainer(TrainerError::Io { action: "read", path: "m".into(), source: source() });
        assert_eq!(error.describe(), "cannot read `m`: disk full");
    }

    #[test]
    fn a_trainers_error_has_its_remedy_from_the_host() {
        let error = HostError::Trainer(TrainerError::Missing { path: "m".into(), what: "`tokenizer.json`".into() });
        assert_eq!(error.describe(), "`m` lacks `tokenizer.json`; fetch or copy the model again");
    }

    #[test]
    fn only_our_own_defects_exit_with_2() {
        let runtime = PluginError::Runtime { what: "no memory".into() };
        assert_eq!(HostError::from(runtime).exit_code(), 2);
        assert_eq!(HostError::from(DatasetError::Leak { what: "input", value: "x".into() }).exit_code(), 2);
        assert_eq!(HostError::from(DatasetError::Empty).exit_code(), 1);
    }
}
