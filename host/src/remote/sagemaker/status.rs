//! What SageMaker says of a job, in our words.

use serde::Deserialize;

use crate::job::{Failure, FailureKind};
use crate::remote::JobState;

/// Of `DescribeTrainingJob`'s answer, what we look at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Description {
    pub training_job_arn: String,
    pub training_job_status: String,
    pub secondary_status: String,
    pub failure_reason: Option<String>,
    pub hyper_parameters: HyperParameters,
    pub secondary_status_transitions: Vec<Transition>,
    /// Seconds since 1970; none where it never ran.
    pub training_start_time: Option<f64>,
    pub creation_time: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct HyperParameters {
    pub digest: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Transition {
    pub status_message: String,
}

impl Description {
    pub(super) fn state(&self) -> JobState {
        let secondary = self.secondary_status.as_str();
        match self.training_job_status.as_str() {
            "Completed" => JobState::Succeeded,
            "Failed" => JobState::Failed(failure(self.failure_reason.as_deref().unwrap_or("without a reason"))),
            "Stopped" => match secondary {
                "MaxRuntimeExceeded" => failed(FailureKind::Timeout, "MaxRuntimeExceeded: it ran longer than it may"),
                "MaxWaitTimeExceeded" if self.training_start_time.is_none() => {
                    failed(FailureKind::Unschedulable, "MaxWaitTimeExceeded: no spot machine was free in time")
                }
                "MaxWaitTimeExceeded" => failed(
                    FailureKind::Preempted,
                    "MaxWaitTimeExceeded: its machine was taken back, and no other was free in time",
                ),
                "Interrupted" => failed(FailureKind::Preempted, "Interrupted: its machine was taken back"),
                _ => JobState::Cancelled,
            },
            _ => match secondary {
                "Training" | "Uploading" | "Updating" | "Stopping" => JobState::Running,
                _ => JobState::Queued { reason: self.reason() },
            },
        }
    }

    /// `Interrupted: ...`: the secondary status, and its last message where it has one.
    fn reason(&self) -> Option<String> {
        let message = self.secondary_status_transitions.last().map_or("", |last| last.status_message.as_str());
        match (self.secondary_status.as_str(), message) {
            ("", _) => None,
            (status, "") => Some(status.to_owned()),
            (status, message) => Some(format!("{status}: {message}")),
        }
    }
}

fn failed(kind: FailureKind, message: &str) -> JobState {
    JobState::Failed(Failure { kind, exit_code: None, message: message.to_owned() })
}

/// `AlgorithmError: what the container left in its file, exit code: 65`
fn failure(reason: &str) -> Failure {
    let exit_code =
        reason.rsplit_once("exit code: ").or_else(|| reason.rsplit_once("Exit code: ")).and_then(|(_, rest)| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        });
    let begins = |word: &str| reason.starts_with(word);
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let kind = if begins("CapacityError")
        || has(&["Insufficient capacity", "InsufficientCapacity", "ResourceLimitExceeded"])
    {
        FailureKind::Unschedulable
    } else if has(&["OutOfMemory", "out-of-memory", "Please use an instance type with more memory"]) {
        FailureKind::OutOfMemory
    } else if begins("AlgorithmError") {
        exit_code.map_or(FailureKind::Trainer, FailureKind::of_exit_code)
    } else if begins("ClientError")
        && has(&["Data download failed", "NoSuchBucket", "matched no files", "AccessDenied"])
    {
        FailureKind::Io
    } else if begins("ClientError") {
        FailureKind::SetUp
    } else {
        // InternalServerError, and whatever else is the service's own.
        FailureKind::Unknown
    };
    Failure { kind, exit_code, message: reason.to_owned() }
}

impl Description {
    /// Whether the job itself ended, so that its own words are worth more than the engine's.
    pub(super) fn is_trainers_failure(&self) -> bool {
        self.failure_reason.as_deref().is_some_and(|reason| reason.starts_with("AlgorithmError"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(primary: &str, secondary: &str, reason: Option<&str>) -> JobState {
        let description = Description {
            training_job_status: primary.to_owned(),
            secondary_status: secondary.to_owned(),
            failure_reason: reason.map(str::to_owned),
            ..Description::default()
        };
        description.state()
    }

    fn kind(state: &JobState) -> (FailureKind, Option<i32>) {
        match state {
            JobState::Failed(failure) => (failure.kind, failure.exit_code),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_status_of_the_service_has_its_state() {
        for secondary in ["Starting", "Pending", "LaunchingMLInstances", "PreparingTrainingStack", "Downloading"] {
            let reason = Some(secondary.to_owned());
            assert_eq!(state("InProgress", secondary, None), JobState::Queued { reason });
        }
        // A spot machine that was taken back: the service waits for another one.
        assert_eq!(
            state("InProgress", "Interrupted", None),
            JobState::Queued { reason: Some("Interrupted".to_owned()) }
        );
        for secondary in ["Training", "Uploading", "Updating"] {
            assert_eq!(state("InProgress", secondary, None), JobState::Running);
        }
        assert_eq!(state("Stopping", "Stopping", None), JobState::Running);
        assert_eq!(state("Completed", "Completed", None), JobState::Succeeded);
        assert_eq!(state("Stopped", "Stopped", None), JobState::Cancelled);
        assert_eq!(kind(&state("Stopped", "MaxRuntimeExceeded", None)).0, FailureKind::Timeout);
        assert_eq!(kind(&state("Stopped", "MaxWaitTimeExceeded", None)).0, FailureKind::Unschedulable);
        assert_eq!(kind(&state("Stopped", "Interrupted", None)).0, FailureKind::Preempted);
        let ran = Description {
            training_job_status: "Stopped".to_owned(),
            secondary_status: "MaxWaitTimeExceeded".to_owned(),
            training_start_time: Some(1.0),
            ..Description::default()
        };
        assert_eq!(kind(&ran.state()).0, FailureKind::Preempted);
    }

    #[test]
    fn a_reason_tells_what_can_be_done_about_it() {
        let of = |reason| kind(&state("Failed", "Failed", Some(reason)));
        assert_eq!(of("AlgorithmError: bad input: no record, exit code: 65"), (FailureKind::BadInput, Some(65)));
        assert_eq!(of("AlgorithmError: , exit code: 137"), (FailureKind::NodeLost, Some(137)));
        assert_eq!(of("AlgorithmError: , exit code: 1"), (FailureKind::Trainer, Some(1)));
        assert_eq!(
            of("ClientError: Please use an instance type with more memory, or reduce the size of training data"),
            (FailureKind::OutOfMemory, None)
        );
        assert_eq!(of("ClientError: Data download failed: S3 key: a matched no files"), (FailureKind::Io, None));
        assert_eq!(of("ClientError: Cannot pull image"), (FailureKind::SetUp, None));
        assert_eq!(
            of("CapacityError: Unable to provision requested ML compute capacity"),
            (FailureKind::Unschedulable, None)
        );
        assert_eq!(
            of("InternalServerError: We encountered an internal error. Please try again."),
            (FailureKind::Unknown, None)
        );
    }
}
