//! What Slurm tells of a job, and what it means.

use crate::job::{Failure, FailureKind};
use crate::remote::JobState;

/// A job as `scontrol show job -o` tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) exit_code: Option<i32>,
}

impl Told {
    /// `None` where it is no such line.
    pub(super) fn read(line: &str) -> Option<Self> {
        let field = |name: &str| {
            let fields = line.split_whitespace().filter_map(|word| word.split_once('='));
            fields.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next()
        };
        Some(Self {
            name: field("JobName")?,
            state: field("JobState")?,
            reason: field("Reason").filter(|reason| reason != "None").map(|reason| reason.replace('_', " ")),
            exit_code: field("ExitCode").as_deref().and_then(exit_code),
        })
    }

    /// Where that leaves it.
    pub(super) fn state(&self) -> JobState {
        // `CANCELLED by 1000`
        let state = self.state.split([' ', '+']).next().unwrap_or_default();
        let failed = |kind, why: &str| {
            let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            JobState::Failed(Failure { kind, exit_code: None, message: format!("Slurm: {state}{reason}{why}") })
        };
        match state {
            "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "RESV_DEL_HOLD" | "SUSPENDED" | "STOPPED" => {
                match self.reason.as_deref().and_then(hopeless) {
                    Some(kind) => failed(kind, ", which waiting doesn't change"),
                    None => JobState::Queued { reason: self.reason.clone() },
                }
            }
            "RUNNING" | "COMPLETING" | "SIGNALING" | "STAGE_OUT" | "RESIZING" => JobState::Running,
            "COMPLETED" => JobState::Succeeded,
            "CANCELLED" | "REVOKED" => match self.reason.as_deref().and_then(hopeless) {
                Some(kind) => failed(kind, ", and was cancelled for it"),
                None => JobState::Cancelled,
            },
            "TIMEOUT" | "DEADLINE" => failed(FailureKind::Timeout, ""),
            "NODE_FAIL" | "BOOT_FAIL" => failed(FailureKind::NodeLost, ""),
            "PREEMPTED" => failed(FailureKind::Preempted, ""),
            "OUT_OF_MEMORY" => failed(FailureKind::OutOfMemory, ""),
            "FAILED" => match self.exit_code.filter(|code| *code != 0) {
                Some(code) => JobState::Failed(Failure::of_exit_code(code, format!("Slurm: FAILED, exit code {code}"))),
                None => failed(FailureKind::Unknown, ""),
            },
            _ => failed(FailureKind::Unknown, ", a state that is not known here"),
        }
    }
}

/// `code:signal`, as shells tell it.
fn exit_code(text: &str) -> Option<i32> {
    let (code, signal) = text.split_once(':')?;
    let (code, signal): (i32, i32) = (code.parse().ok()?, signal.parse().ok()?);
    Some(if signal == 0 { code } else { 128 + signal })
}

/// Reasons to wait that no waiting ends: the request is beyond what its partition, account or quality of service ever allows.
/// `AssocMaxJobsLimit` or `ReqNodeNotAvail` are none of them: another job ends, a machine comes back.
fn hopeless(reason: &str) -> Option<FailureKind> {
    const REASONS: [&str; 14] = [
        "PartitionTimeLimit",
        "PartitionNodeLimit",
        "BadConstraints",
        "AccountNotAllowed",
        "QOSNotAllowed",
        "InvalidAccount",
        "InvalidQOS",
        "DependencyNeverSatisfied",
        "AssocMaxWallDurationPerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "QOSMinCpuNotSatisfied",
        "QOSMinGRES",
        "QOSMinMemory",
        "QOSMinNode",
    ];
    // A machine that could not start it: an operator has to look at that.
    if reason.contains("requeued held") {
        return Some(FailureKind::SetUp);
    }
    let of_account = reason.starts_with("Assoc") || reason.starts_with("QOS");
    let of_one_job = of_account && (reason.contains("PerJob") || reason.contains("PerNode"));
    (of_one_job || REASONS.contains(&reason)).then_some(FailureKind::Unschedulable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As 22.05.8 wrote it, shortened.
    const LINE: &str = "JobId=7 JobName=acme-0123456789abcdef0123-1 UserId=root(0) GroupId=root(0) Priority=4294901754 Nice=0 \
        Account=(null) QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=0 Restarts=0 BatchFlag=1 Reboot=0 \
        ExitCode=0:0 RunTime=00:00:02 Comment=00aa Command=/mnt/shared tunes/job.sh";

    fn state(fields: &[(&str, &str)]) -> JobState {
        let line = fields.iter().fold(LINE.to_owned(), |line, (from, to)| line.replace(from, to));
        Told::read(&line).unwrap().state()
    }

    fn failed(fields: &[(&str, &str)]) -> (FailureKind, Option<i32>, String) {
        match state(fields) {
            JobState::Failed(failure) => (failure.kind, failure.exit_code, failure.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_of_scontrol_tells_name_and_state() {
        assert_eq!(Told::read(LINE).unwrap().name, "acme-0123456789abcdef0123-1");
        assert_eq!(state(&[]), JobState::Running);
        assert_eq!(Told::read("slurm_load_jobs error: Invalid job id specified"), None);
    }

    #[test]
    fn reasons_that_pass_are_waited_for_and_others_are_told_at_once() {
        let queued = |reason: &str| state(&[("RUNNING", "PENDING"), ("Reason=None", &format!("Reason={reason}"))]);
        for (told, reason) in [
            ("Resources", "Resources"),
            ("ReqNodeNotAvail,_UnavailableNodes:n2", "ReqNodeNotAvail, UnavailableNodes:n2"),
        ] {
            assert_eq!(queued(told), JobState::Queued { reason: Some(reason.to_owned()) });
        }
        assert_eq!(state(&[("RUNNING", "PENDING")]), JobState::Queued { reason: None });
        for reason in ["PartitionTimeLimit", "AssocMaxCpuPerJobLimit", "QOSMaxGRESPerNode", "BadConstraints"] {
            let JobState::Failed(failure) = queued(reason) else { panic!("{reason}") };
            assert_eq!(failure.kind, FailureKind::Unschedulable);
            assert_eq!(failure.message, format!("Slurm: PENDING ({reason}), which waiting doesn't change"));
        }
        let cancelled = failed(&[("RUNNING", "CANCELLED"), ("Reason=None", "Reason=PartitionTimeLimit")]);
        assert_eq!(cancelled.0, FailureKind::Unschedulable);
        assert_eq!(state(&[("RUNNING", "CANCELLED")]), JobState::Cancelled);
    }

    #[test]
    fn an_end_is_told_by_state_exit_code_and_signal() {
        assert_eq!(state(&[("RUNNING", "COMPLETED")]), JobState::Succeeded);
        for (state, kind) in [
            ("TIMEOUT", FailureKind::Timeout),
            ("NODE_FAIL", FailureKind::NodeLost),
            ("PREEMPTED", FailureKind::Preempted),
            ("OUT_OF_MEMORY", FailureKind::OutOfMemory),
            ("MOONSTRUCK", FailureKind::Unknown),
        ] {
            assert_eq!(failed(&[("RUNNING", state)]).0, kind, "{state}");
        }
        let ended = |code: &str| failed(&[("RUNNING", "FAILED"), ("ExitCode=0:0", code)]);
        let told = "Slurm: FAILED, exit code 65".to_owned();
        assert_eq!(ended("ExitCode=65:0"), (FailureKind::BadInput, Some(65), told));
        assert_eq!(ended("ExitCode=0:9").0, FailureKind::NodeLost);
        assert_eq!(ended("ExitCode=75:0").0, FailureKind::Preempted);
    }
}
