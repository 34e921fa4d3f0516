//! Where an attempt stands, by its job and its pods.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Node, Pod, PodStatus};

use super::{CANCELLED, CONTAINER, GIVEN_UP, manifest};
use crate::config::RemoteConfig;
use crate::job::{Failure, FailureKind};
use crate::remote::{JobState, Resources};

/// What was found.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// That is all.
    State(JobState),
    /// The trainer ended so, and may have left its own words.
    OfExitCode(Failure),
    /// The cluster tries to start it for ever.
    WillNotStart(Failure),
}

/// Reasons of a container that waits for what no waiting brings. `ErrImagePull` is not among them: it is a registry's first refusal, and
/// `ImagePullBackOff` the cluster's word for several.
const HOPELESS: [&str; 7] = [
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// Of `job` and its `pods`, the newest first.
pub(super) fn of(job: &Job, pods: &[Pod]) -> Found {
    if is(job, "Complete").is_some() {
        return Found::State(JobState::Succeeded);
    }
    if let Some(why) = annotation(job, GIVEN_UP) {
        return Found::State(JobState::Failed(failure(FailureKind::SetUp, why)));
    }
    let alive = pods.iter().any(|pod| matches!(phase(pod), "Pending" | "Running"));
    if annotation(job, CANCELLED).is_some() {
        // Its pods have their grace.
        return Found::State(if alive { JobState::Running } else { JobState::Cancelled });
    }
    if let Some(condition) = is(job, "Failed") {
        return of_failed(condition, pods);
    }
    if let Some(failure) = pods.iter().find_map(will_not_start) {
        return Found::WillNotStart(failure);
    }
    if pods.iter().any(|pod| phase(pod) == "Running") {
        return Found::State(JobState::Running);
    }
    Found::State(JobState::Queued { reason: pods.iter().find_map(waits_for) })
}

/// Whether nothing more will come of it by itself.
pub(super) fn has_ended(job: &Job) -> bool {
    is(job, "Complete").is_some() || is(job, "Failed").is_some()
}

/// An annotation of ours.
pub(super) fn annotation<'a>(job: &'a Job, name: &str) -> Option<&'a str> {
    job.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether it may still write. One whose grace is over, by our clock, is on a machine that is lost, and stays on the list for as long.
pub(super) fn may_write(pod: &Pod, now: Timestamp) -> bool {
    let has_grace = pod.metadata.deletion_timestamp.as_ref().is_none_or(|until| until.0 > now);
    has_grace && matches!(phase(pod), "Pending" | "Running")
}

/// The pod whose log is the job's: of rank 0, the newest.
pub(super) fn first_rank(pods: &[Pod]) -> Option<&Pod> {
    const INDEX: &str = "batch.kubernetes.io/job-completion-index";
    let index = |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|of| of.get(INDEX).cloned());
    pods.iter().find(|pod| index(pod).is_none_or(|index| index == "0"))
}

fn of_failed(condition: &JobCondition, pods: &[Pod]) -> Found {
    let message = condition.message.as_deref().unwrap_or_default();
    if condition.reason.as_deref() == Some("DeadlineExceeded") {
        return Found::State(JobState::Failed(failure(FailureKind::Timeout, message)));
    }
    // Of machines that trained together, the one that failed first: the others only lost it.
    let failed = pods.iter().filter(|pod| phase(pod) == "Failed").filter_map(|pod| Some((pod, pod.status.as_ref()?)));
    let failures = failed.map(|(pod, status)| of_pod(pod, status)).collect::<Vec<_>>();
    let only_lost =
        |found: &Found| matches!(found, Found::OfExitCode(failure) if failure.kind == FailureKind::Rendezvous);
    let first = failures.iter().position(|found| !only_lost(found)).unwrap_or(0);
    failures.into_iter().nth(first).unwrap_or_else(|| {
        // The pod went with its machine, or somebody removed it.
        let told = format!("its pod is gone: {message}");
        Found::State(JobState::Failed(failure(FailureKind::NodeLost, &told)))
    })
}

fn of_pod(pod: &Pod, status: &PodStatus) -> Found {
    let told = |what: &str| match status.message.as_deref() {
        Some(message) => format!("{what}: {message}"),
        None => what.to_owned(),
    };
    let reason = status.reason.as_deref().unwrap_or_default();
    let disrupted = status.conditions.iter().flatten().find(|is| is.type_ == "DisruptionTarget" && is.status == "True");
    let kind = match (reason, disrupted.and_then(|is| is.reason.as_deref())) {
        ("DeadlineExceeded", _) => Some(FailureKind::Timeout),
        ("Preempting" | "Preempted", _) | (_, Some("PreemptionByScheduler" | "PreemptionByKubeScheduler")) => {
            Some(FailureKind::Preempted)
        }
        (
            "Evicted"
            | "NodeLost"
            | "NodeAffinity"
            | "NodeShutdown"
            | "Shutdown"
            | "Terminated"
            | "UnexpectedAdmissionError",
            _,
        )
        | (_, Some(_)) => Some(FailureKind::NodeLost),
        _ => None,
    };
    if let Some(kind) = kind {
        let condition = disrupted.and_then(|is| is.message.as_deref()).unwrap_or_default();
        let words = if reason.is_empty() { condition.to_owned() } else { told(reason) };
        return Found::State(JobState::Failed(failure(kind, &words)));
    }
    let Some(ended) = container(status).and_then(|of| of.state.as_ref()?.terminated.as_ref()) else {
        return Found::State(JobState::Failed(failure(FailureKind::Unknown, &told("its pod failed"))));
    };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    of_container(name, ended)
}

fn of_container(pod: &str, ended: &ContainerStateTerminated) -> Found {
    let reason = ended.reason.as_deref().unwrap_or_default();
    let words = ended.message.as_deref().map(|message| format!(": {}", message.trim())).unwrap_or_default();
    let told = format!("{reason}, exit code {} of pod `{pod}`{words}", ended.exit_code);
    let of_engine = |kind| Failure { kind, exit_code: Some(ended.exit_code), message: told.clone() };
    match reason {
        "OOMKilled" => Found::State(JobState::Failed(of_engine(FailureKind::OutOfMemory))),
        "ContainerCannotRun" | "StartError" => Found::State(JobState::Failed(of_engine(FailureKind::SetUp))),
        _ => Found::OfExitCode(Failure::of_exit_code(ended.exit_code, told)),
    }
}

fn will_not_start(pod: &Pod) -> Option<Failure> {
    let waiting = container(pod.status.as_ref()?)?.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| HOPELESS.contains(reason))?;
    let words = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    Some(failure(FailureKind::SetUp, &format!("{reason}{words}")))
}

fn waits_for(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let scheduled = status.conditions.iter().flatten().find(|is| is.type_ == "PodScheduled" && is.status == "False");
    if let Some(condition) = scheduled {
        return condition.message.clone().or_else(|| condition.reason.clone());
    }
    let waiting = container(status)?.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone()?;
    Some(waiting.message.as_deref().map_or(reason.clone(), |message| format!("{reason}: {message}")))
}

fn container(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.iter().flatten().find(|of| of.name == CONTAINER)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn is<'a>(job: &'a Job, condition: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|is| is.type_ == condition && is.status == "True")
}

fn failure(kind: FailureKind, message: &str) -> Failure {
    Failure { kind, exit_code: None, message: message.to_owned() }
}

/// What is good to know of a cluster's nodes.
pub(super) struct Nodes {
    pub(super) gpus: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Which kinds of GPU there are, and how many nodes have what a job asks for. None is no refusal: clusters grow.
pub(super) fn nodes(nodes: &[Node], config: &RemoteConfig, resources: &Resources) -> Nodes {
    let options = &config.kubernetes;
    let gpu = manifest::gpu_resource(options);
    let label = |node: &Node, name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name).cloned());
    let gpus: BTreeSet<_> = nodes.iter().filter_map(|node| label(node, options.gpu_label.as_deref()?)).collect();
    let selector = manifest::node_selector(resources, options).unwrap_or_default();
    let has_room = |node: &&Node| {
        let of = |name: &str| {
            let quantity = node.status.as_ref()?.allocatable.as_ref()?.get(name)?;
            quantity.0.parse::<u32>().ok()
        };
        selector.iter().all(|(name, value)| label(node, name).as_ref() == Some(value))
            && (resources.gpu.is_none() || of(gpu).is_some_and(|n| n >= resources.gpu_count))
    };
    let fitting = nodes.iter().filter(has_room).count();
    let asked = match resources.gpu {
        Some(_) => format!("{} `{gpu}`", resources.gpu_count),
        None => "the labels asked for".to_owned(),
    };
    let notes = vec![format!("{} nodes, {fitting} of them with {asked}", nodes.len())];
    Nodes { gpus: gpus.into_iter().collect(), notes }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(job: Value, pods: Value) -> Found {
        let job: Job = serde_json::from_value(job).unwrap();
        of(&job, &serde_json::from_value::<Vec<Pod>>(pods).unwrap())
    }

    fn failed_job(reason: &str, message: &str) -> Value {
        json!({"status": {"conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": message}]}})
    }

    fn ended_pod(reason: &str, exit_code: i32) -> Value {
        let terminated = json!({"reason": reason, "exitCode": exit_code});
        json!({
            "metadata": {"name": "acme-1-x7k2p"},
            "status": {"phase": "Failed", "containerStatuses": [container("terminated", terminated)]},
        })
    }

    fn container(state: &str, of: Value) -> Value {
        json!({"name": "train", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {state: of}})
    }

    fn failed(found: Found) -> (FailureKind, String) {
        match found {
            Found::State(JobState::Failed(failure)) | Found::OfExitCode(failure) | Found::WillNotStart(failure) => {
                (failure.kind, failure.message)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_job_that_waits_says_what_for_in_the_clusters_words() {
        let message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.";
        let condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
        let pod = json!({"status": {"phase": "Pending", "conditions": [condition]}});
        let queued = |reason: Option<&str>| Found::State(JobState::Queued { reason: reason.map(str::to_owned) });
        assert_eq!(found(json!({}), json!([pod])), queued(Some(message)));
        assert_eq!(found(json!({}), json!([])), queued(None));
        let pulls = json!({"status": {"phase": "Pending", "containerStatuses": [
            container("waiting", json!({"reason": "ErrImagePull", "message": "connection refused"}))]}});
        assert_eq!(found(json!({}), json!([pulls])), queued(Some("ErrImagePull: connection refused")));
    }

    #[test]
    fn a_pod_may_write_until_it_has_ended_or_its_grace_is_over() {
        let now: Timestamp = "2026-11-26T10:00:00Z".parse().unwrap();
        let of = |phase: &str, deletion: Option<&str>| {
            let pod = json!({"metadata": {"deletionTimestamp": deletion}, "status": {"phase": phase}});
            may_write(&serde_json::from_value(pod).unwrap(), now)
        };
        assert!(of("Running", None) && of("Pending", None) && of("Running", Some("2026-11-26T10:01:00Z")));
        assert!(!of("Failed", None) && !of("Running", Some("2026-11-26T09:59:00Z")));
    }

    #[test]
    fn an_image_that_is_not_there_is_given_up() {
        let pod = json!({"status": {"phase": "Pending", "containerStatuses": [
            container("waiting", json!({"reason": "ImagePullBackOff", "message": "Back-off pulling image \"nope:1\""}))]}});
        let found = found(json!({}), json!([pod]));
        assert!(matches!(found, Found::WillNotStart(_)));
        assert_eq!(
            failed(found),
            (FailureKind::SetUp, "ImagePullBackOff: Back-off pulling image \"nope:1\"".to_owned())
        );
    }

    #[test]
    fn a_cancelled_job_runs_until_its_pods_have_ended() {
        let job = json!({"metadata": {"annotations": {"tunesmith/cancelled": "2026-11-26T10:00:00Z"}}});
        let pod = |phase: &str| json!([{"status": {"phase": phase}}]);
        assert_eq!(found(job.clone(), pod("Running")), Found::State(JobState::Running));
        assert_eq!(found(job.clone(), pod("Failed")), Found::State(JobState::Cancelled));
        assert_eq!(found(job, json!([])), Found::State(JobState::Cancelled));
        // It was done before it was asked to stop.
        let done = json!({
            "metadata": {"annotations": {"tunesmith/cancelled": "2026-11-26T10:00:00Z"}},
            "status": {"conditions": [{"type": "Complete", "status": "True"}]},
        });
        assert_eq!(found(done, json!([])), Found::State(JobState::Succeeded));
    }

    #[test]
    fn a_failure_is_told_by_what_the_cluster_knows_of_the_pod() {
        let of = |pod: Value| {
            failed(found(
                failed_job("BackoffLimitExceeded", "Job has reached the specified backoff limit"),
                json!([pod]),
            ))
        };
        assert_eq!(of(ended_pod("OOMKilled", 137)).0, FailureKind::OutOfMemory);
        assert_eq!(of(ended_pod("StartError", 128)).0, FailureKind::SetUp);
        assert_eq!(of(ended_pod("Error", 137)).0, FailureKind::NodeLost);
        assert_eq!(
            of(ended_pod("Error", 75)),
            (FailureKind::Preempted, "Error, exit code 75 of pod `acme-1-x7k2p`".to_owned())
        );
        let evicted = json!({"status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}});
        assert_eq!(of(evicted), (FailureKind::NodeLost, "Evicted: The node was low on resource: memory.".to_owned()));
        let preempted = json!({"status": {"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True",
            "reason": "PreemptionByScheduler", "message": "default-scheduler: preempting to accommodate a higher priority pod"}]}});
        assert_eq!(of(preempted).0, FailureKind::Preempted);
        let late =
            failed(found(failed_job("DeadlineExceeded", "Job was active longer than specified deadline"), json!([])));
        assert_eq!(late, (FailureKind::Timeout, "Job was active longer than specified deadline".to_owned()));
        let gone =
            failed(found(failed_job("BackoffLimitExceeded", "Job has reached the specified backoff limit"), json!([])));
        assert_eq!(
            gone,
            (FailureKind::NodeLost, "its pod is gone: Job has reached the specified backoff limit".to_owned())
        );
    }

    #[test]
    fn of_machines_that_trained_together_the_one_that_failed_first_is_told() {
        let found =
            found(failed_job("BackoffLimitExceeded", ""), json!([ended_pod("Error", 76), ended_pod("Error", 66)]));
        assert_eq!(failed(found).0, FailureKind::BaseModel);
    }
}
