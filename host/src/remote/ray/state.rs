//! What Ray tells of a job, and what it means.

use super::api::Details;
use super::package::NO_PLACE;
use crate::job::{Failure, FailureKind};
use crate::remote::JobState;

impl Details {
    /// Where that leaves it.
    pub(super) fn state(&self) -> JobState {
        match self.status.as_str() {
            "PENDING" => JobState::Queued { reason: self.message.clone() },
            "RUNNING" => JobState::Running,
            "SUCCEEDED" => JobState::Succeeded,
            "STOPPED" => JobState::Cancelled,
            _ => JobState::Failed(self.failure()),
        }
    }

    fn failure(&self) -> Failure {
        let message = self.message.as_deref().unwrap_or_default();
        let (told, log) = message.split_once(", last available logs").unwrap_or((message, ""));
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {}", line.trim()));
        let words =
            format!("Ray: {}{}", told.split_whitespace().collect::<Vec<_>>().join(" "), last.unwrap_or_default());
        match self.driver_exit_code {
            Some(NO_PLACE) => Failure { kind: FailureKind::Unschedulable, exit_code: None, message: words },
            Some(code) => Failure::of_exit_code(code, words),
            None => Failure { kind: self.kind(message), exit_code: None, message: words },
        }
    }

    /// Of a job that ended by no exit code: by Ray's kind of error, or by its words where it is older than those.
    fn kind(&self, message: &str) -> FailureKind {
        let says = |words: &str| message.contains(words);
        match self.error_type.as_deref() {
            Some("RUNTIME_ENV_SETUP_FAILURE") => FailureKind::SetUp,
            Some("JOB_SUPERVISOR_ACTOR_START_TIMEOUT" | "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE") => {
                FailureKind::Unschedulable
            }
            _ if says("runtime_env setup failed") => FailureKind::SetUp,
            _ if says("failed to start within") || says("could not be scheduled") => FailureKind::Unschedulable,
            _ if says("memory pressure") || says("OutOfMemory") => FailureKind::OutOfMemory,
            Some("JOB_SUPERVISOR_ACTOR_DIED") => FailureKind::NodeLost,
            _ if says("actor died") || says("node") || says("failed to get job supervisor") => FailureKind::NodeLost,
            _ => FailureKind::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(details: &str) -> (FailureKind, Option<i32>, String) {
        let details: Details = serde_json::from_str(details).unwrap();
        match details.state() {
            JobState::Failed(failure) => (failure.kind, failure.exit_code, failure.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_exit_code_is_told_with_the_last_line_of_the_log() {
        // As 2.60 wrote it, shortened.
        let bad = r#"{"type": "SUBMISSION", "job_id": null, "submission_id": "bad", "driver_info": null, "status": "FAILED",
            "message": "Job entrypoint command failed with exit code 65, last available logs (truncated to 20,000 chars):\nRunning entrypoint for job bad\ncannot read nope.json: No such file or directory (os error 2)\n",
            "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR", "start_time": 1795338310566, "driver_exit_code": 65}"#;
        let told = "Ray: Job entrypoint command failed with exit code 65: cannot read nope.json: No such file or directory (os error 2)";
        assert_eq!(ended(bad), (FailureKind::BadInput, Some(65), told.to_owned()));
        assert_eq!(ended(r#"{"status": "FAILED", "driver_exit_code": -9}"#).0, FailureKind::NodeLost);
        let gang =
            ended(r#"{"status": "FAILED", "driver_exit_code": 69, "message": "x, last available logs:\nno place"}"#);
        assert_eq!(gang, (FailureKind::Unschedulable, None, "Ray: x: no place".to_owned()));
    }

    #[test]
    fn an_end_without_an_exit_code_is_told_by_rays_words() {
        let kind = |message: &str| ended(&format!(r#"{{"status": "FAILED", "message": "{message}"}}"#)).0;
        assert_eq!(kind("runtime_env setup failed: Failed to set up runtime environment."), FailureKind::SetUp);
        assert_eq!(kind("Job supervisor actor failed to start within 900.0 seconds."), FailureKind::Unschedulable);
        assert_eq!(kind("Job supervisor actor died: The actor died because its node has died."), FailureKind::NodeLost);
        assert_eq!(kind("killed due to memory pressure (OOM)"), FailureKind::OutOfMemory);
        assert_eq!(kind("Unexpected error occurred: moonshine"), FailureKind::Unknown);
    }

    #[test]
    fn the_others_are_told_as_they_are() {
        let state =
            |status: &str| serde_json::from_str::<Details>(&format!(r#"{{"status": "{status}"}}"#)).unwrap().state();
        assert_eq!(state("PENDING"), JobState::Queued { reason: None });
        assert_eq!(state("RUNNING"), JobState::Running);
        assert_eq!(state("SUCCEEDED"), JobState::Succeeded);
        assert_eq!(state("STOPPED"), JobState::Cancelled);
    }
}
