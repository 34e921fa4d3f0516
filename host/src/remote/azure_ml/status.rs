//! What Azure ML says of a job, in our words.

use crate::job::{Failure, FailureKind};
use crate::remote::JobState;

/// By the status; of a failure, what kind it is by `words`, which Azure's history has of it.
pub(super) fn state(status: &str, words: impl FnOnce() -> Option<String>) -> JobState {
    match status {
        "Completed" => JobState::Succeeded,
        "Canceled" => JobState::Cancelled,
        "Failed" => JobState::Failed(failure(words().as_deref())),
        "Running" | "Finalizing" | "CancelRequested" | "NotResponding" => JobState::Running,
        // NotStarted, Starting, Provisioning, Preparing, Queued, Paused, Scheduled, and what is still to be invented.
        other => JobState::Queued { reason: Some(other.to_owned()) },
    }
}

/// Of `ExecutionFailed: ... exit code 65 ...`, in whatever way Azure words it.
fn failure(words: Option<&str>) -> Failure {
    let Some(words) = words else {
        let message = "Azure ML says that it failed, and nothing more".to_owned();
        return Failure { kind: FailureKind::Unknown, exit_code: None, message };
    };
    let lower = words.to_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    let exit_code = exit_code(&lower);
    let kind = if lower.starts_with("internalservererror") || lower.starts_with("serviceerror") {
        FailureKind::Unknown
    } else if has(&["jobtimeout", "timed out", "exceeded the maximum"]) {
        FailureKind::Timeout
    } else if has(&["quota", "notenoughcores", "allocationfailed", "not enough capacity", "skunotavailable"]) {
        FailureKind::Unschedulable
    } else if has(&["preempt", "evict"]) {
        FailureKind::Preempted
    } else if has(&["node lost", "nodelost", "node failure", "unusable node", "nodefailure"]) {
        FailureKind::NodeLost
    } else if has(&["out of memory", "outofmemory", "oomkilled"]) {
        FailureKind::OutOfMemory
    } else if has(&["dataaccess", "data-capability", "data capability", "streamaccess"]) {
        FailureKind::Io
    } else if has(&["image build", "imagebuild", "pull image", "imagepull", "environment"]) {
        FailureKind::SetUp
    } else if let Some(code) = exit_code {
        FailureKind::of_exit_code(code)
    } else {
        FailureKind::Unknown
    };
    Failure { kind, exit_code, message: words.to_owned() }
}

/// The number behind `exit code`, with what stands between: `exit code: 65`, `exit code (65)`, `exit code of 65`.
fn exit_code(lower: &str) -> Option<i32> {
    let (_, rest) = lower.split_once("exit code").or_else(|| lower.split_once("exit status"))?;
    let start = rest.find(|c: char| c.is_ascii_digit()).filter(|&start| start <= 8)?;
    let is_negative = rest[..start].ends_with('-');
    let digits: String = rest[start..].chars().take_while(char::is_ascii_digit).collect();
    let code: i32 = digits.parse().ok()?;
    Some(if is_negative { -code } else { code })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_the_service_has_its_state() {
        let of = |status| state(status, || None);
        for status in ["NotStarted", "Starting", "Provisioning", "Preparing", "Queued", "Paused", "Scheduled"] {
            assert_eq!(of(status), JobState::Queued { reason: Some(status.to_owned()) });
        }
        for status in ["Running", "Finalizing", "CancelRequested", "NotResponding"] {
            assert_eq!(of(status), JobState::Running);
        }
        assert_eq!(of("Completed"), JobState::Succeeded);
        assert_eq!(of("Canceled"), JobState::Cancelled);
        assert!(matches!(of("Failed"), JobState::Failed(Failure { kind: FailureKind::Unknown, .. })));
    }

    #[test]
    fn a_reason_tells_what_can_be_done_about_it() {
        let of = |words: &str| {
            let failure = failure(Some(words));
            assert_eq!(failure.message, words);
            (failure.kind, failure.exit_code)
        };
        assert_eq!(
            of("Execution failed. User process exited with non-zero exit code: 65"),
            (FailureKind::BadInput, Some(65))
        );
        assert_eq!(of("User process exited with exit code -9"), (FailureKind::NodeLost, Some(-9)));
        assert_eq!(of("JobTimeout: The job exceeded its time"), (FailureKind::Timeout, None));
        assert_eq!(of("NotEnoughCores: quota of the family is used up"), (FailureKind::Unschedulable, None));
        assert_eq!(of("The node was preempted"), (FailureKind::Preempted, None));
        assert_eq!(of("DataAccessError(NotFound): no such blob"), (FailureKind::Io, None));
        assert_eq!(of("Image build failed"), (FailureKind::SetUp, None));
        assert_eq!(of("InternalServerError: ResourceNotFound while mounting"), (FailureKind::Unknown, None));
        assert_eq!(of("Something new"), (FailureKind::Unknown, None));
    }
}
