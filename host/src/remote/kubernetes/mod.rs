//! Kubernetes: an attempt is a `batch/v1` Job of its name, with one pod for each machine.
//!
//! ```toml
//! backend = "remote"
//! backend_provider = "kubernetes"
//! [remote]
//! artefacts = "s3://adapters/tunesmith"                    # or file:///mnt/shared/tunesmith with `claim`
//! [remote.kubernetes]
//! image = "registry.example.com/tunesmith:0.1.0"           # deploy/kubernetes/Dockerfile
//! namespace = "training"                                   # deploy/kubernetes/rbac.yaml has what we must be allowed there
//! env_from_secret = "artefact-store"                       # or a `service_account` of the cloud's
//! ```
//!
//! - A pod is never started twice by the cluster (`backoffLimit: 0`): another attempt is another job, and goes on from the checkpoint.
//! - An attempt is cancelled by `parallelism: 0`, in one request with the annotation that says so: its pods are asked to stop and get
//!   their grace, and the job stays as a record until `cleanup`. So a cancelled attempt is told from one that somebody deleted.
//! - An image that can't be had, or a pod that can't be made, is tried by the cluster for ever. `status` ends such an attempt the same
//!   way, and says that it failed.
//! - Machines that train together are an indexed job with a headless service (Kubernetes 1.21 and later); ranks of one machine are
//!   started by a shell of the image.

mod connect;
mod error;
mod manifest;
mod state;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::AsyncReadExt;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::{
    Capabilities, JobFiles, JobHandle, JobState, JobStatus, LogChunk, RemoteError, Resources, Submission,
    TrainingBackend,
};
use crate::artefacts::ArtefactStore;
use crate::config::RemoteConfig;
use crate::http::block_on;
use crate::job::JobId;

/// Annotation with the digest of the bundle.
const DIGEST: &str = "tunesmith/digest";
/// Annotation with the time at which we cancelled it.
const CANCELLED: &str = "tunesmith/cancelled";
/// Annotation with why it can't start.
const GIVEN_UP: &str = "tunesmith/given-up";
/// The container of a pod.
const CONTAINER: &str = "train";

/// A namespace of a cluster.
pub(super) struct Kubernetes {
    client: Client,
    /// `kubernetes at https://10.0.0.1:6443, namespace training`
    name: String,
    namespace: String,
    artefacts: ArtefactStore,
    config: RemoteConfig,
    /// Whether it has answered us before.
    let_in: AtomicBool,
}

impl Kubernetes {
    /// The cluster of the kubeconfig; nothing is asked yet.
    ///
    /// # Errors
    /// [`RemoteError::Config`] where an option is missing, or the kubeconfig can't be read.
    pub(super) fn new(config: &RemoteConfig) -> Result<Self, RemoteError> {
        let artefacts = config.artefacts.as_deref().ok_or_else(|| RemoteError::Config {
            key: "remote.artefacts",
            message:
                "is needed for Kubernetes: `s3://bucket/prefix`, `az://container/prefix`, or `file:///folder` with \
                      `remote.kubernetes.claim`"
                    .to_owned(),
        })?;
        manifest::check(config)?;
        let artefacts = ArtefactStore::open(artefacts, config.secrets_of_environment)?;
        let connection = connect::connect(config)?;
        let name = format!("kubernetes at {}, namespace {}", connection.server, connection.namespace);
        let (client, namespace) = (connection.client, connection.namespace);
        Ok(Self { client, name, namespace, artefacts, config: config.clone(), let_in: AtomicBool::new(false) })
    }

    fn files(&self, id: &JobId) -> JobFiles {
        JobFiles::new(&self.artefacts, &id.key)
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn failed(&self) -> impl Fn(kube::Error) -> RemoteError + '_ {
        |error| self.classified(&error)
    }

    fn classified(&self, error: &kube::Error) -> RemoteError {
        match error::classify(&self.name, error) {
            // A server that has just started refuses everybody until it has read the roles.
            RemoteError::Credentials { engine, message, remedy } if self.let_in.load(Ordering::Relaxed) => {
                RemoteError::Transient { engine, message: format!("{message}; {remedy}"), after: None }
            }
            error => error,
        }
    }

    fn job(&self, id: &JobId) -> Result<Option<Job>, RemoteError> {
        let job = block_on(self.jobs().get_opt(&id.to_string())).map_err(self.failed())?;
        self.let_in.store(true, Ordering::Relaxed);
        Ok(job)
    }

    fn pods_of(&self, id: &JobId) -> Result<Vec<Pod>, RemoteError> {
        let of_job = ListParams::default().labels(&format!("job-name={id}"));
        let mut pods = block_on(self.pods().list(&of_job)).map_err(self.failed())?.items;
        // The newest first: an older one was replaced.
        pods.sort_by_key(|pod| std::cmp::Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)));
        Ok(pods)
    }

    /// What the cluster says of a job without pods: a quota, an admission that refuses them.
    fn why_no_pods(&self, id: &JobId) -> Option<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let of_job = ListParams::default()
            .fields(&format!("involvedObject.kind=Job,involvedObject.name={id},reason=FailedCreate"));
        // Only to say more: who may not read events is told less.
        block_on(events.list(&of_job)).ok()?.items.pop()?.message
    }

    /// Ends the attempt's pods, with their grace, and leaves `annotation` on the job.
    fn stop(&self, id: &JobId, annotation: &str, value: &str) -> Result<(), RemoteError> {
        let patch = json!({"metadata": {"annotations": {annotation: value}}, "spec": {"parallelism": 0}});
        let patched = block_on(self.jobs().patch(&id.to_string(), &PatchParams::default(), &Patch::Merge(&patch)));
        patched.map(drop).or_else(error::gone).map_err(self.failed())
    }

    /// The attempt that is there, if it is of a bundle whose digest begins so: a name has the first digits of it.
    fn same(&self, id: &JobId, job: &Job, digest: &str) -> Result<JobHandle, RemoteError> {
        match state::annotation(job, DIGEST) {
            Some(there) if there.starts_with(digest) => Ok(handle(id, job)),
            there => Err(RemoteError::Conflict {
                engine: self.name.clone(),
                id: id.clone(),
                message: there.map_or("it has no digest".to_owned(), |there| format!("its digest is {there}")),
            }),
        }
    }

    /// Attempts share a folder: one whose job was removed may still be saving its state.
    fn check_no_other_writes(&self, id: &JobId) -> Result<(), RemoteError> {
        let of_key = ListParams::default().labels(&format!("tunesmith/job={}", id.key));
        let pods = block_on(self.pods().list(&of_key)).map_err(self.failed())?.items;
        match pods.iter().find(|pod| state::may_write(pod, Timestamp::now())) {
            None => Ok(()),
            Some(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let message = format!("pod `{name}` of an attempt before `{id}` has not ended yet");
                Err(RemoteError::Transient { engine: self.name.clone(), message, after: None })
            }
        }
    }

    /// A service that nobody owns would outlive its job.
    fn own_service(&self, id: &JobId, job: &Job) -> Result<(), RemoteError> {
        let owner = json!({
            "apiVersion": "batch/v1", "kind": "Job", "name": id.to_string(), "uid": job.metadata.uid,
        });
        let patch = json!({"metadata": {"ownerReferences": [owner]}});
        let patched = block_on(self.services().patch(&id.to_string(), &PatchParams::default(), &Patch::Merge(&patch)));
        patched.map(drop).map_err(self.failed())
    }
}

impl TrainingBackend for Kubernetes {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn probe(&self, resources: &Resources) -> Result<Capabilities, RemoteError> {
        let version = block_on(self.client.apiserver_version()).map_err(self.failed())?;
        // Whether we are let in: it answers the version to everybody.
        block_on(self.jobs().list(&ListParams::default().limit(1))).map_err(self.failed())?;
        let mut capabilities = Capabilities { version: Some(version.git_version), ..Capabilities::default() };
        let nodes: Api<Node> = Api::all(self.client.clone());
        match block_on(nodes.list(&ListParams::default())) {
            Ok(nodes) => {
                let described = state::nodes(&nodes.items, &self.config, resources);
                (capabilities.gpus, capabilities.notes) = (described.gpus, described.notes);
            }
            // Nodes are the whole cluster's: few may list them, and none needs to.
            Err(kube::Error::Api(status)) if status.code == 403 => {
                capabilities.notes.push("its nodes are not ours to list".to_owned());
            }
            Err(error) => return Err(self.classified(&error)),
        }
        Ok(capabilities)
    }

    fn submit(&self, attempt: &Submission<'_>) -> Result<JobHandle, RemoteError> {
        let id = &attempt.id;
        if let Some(job) = self.job(id)? {
            return self.same(id, &job, &attempt.bundle.digest);
        }
        self.check_no_other_writes(id)?;
        let files = self.files(id);
        files.upload(attempt.bundle)?;
        files.forget_failure()?;
        let several = attempt.resources.nodes > 1;
        if several {
            let service = manifest::service(attempt);
            let created = block_on(self.services().create(&PostParams::default(), &service));
            created.map(drop).or_else(error::exists).map_err(self.failed())?;
        }
        let job = manifest::job(attempt, &self.config, &self.artefacts, &files);
        let created = match block_on(self.jobs().create(&PostParams::default(), &job)) {
            Ok(job) => job,
            // Another process of ours was first, or an answer was lost.
            Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
                let there = self.job(id)?.ok_or_else(|| self.classified(&kube::Error::Api(status)))?;
                return self.same(id, &there, &attempt.bundle.digest);
            }
            Err(error) => return Err(self.classified(&error)),
        };
        if several {
            // A server that knows no indexed jobs drops the word, and starts pods that are all of rank 0.
            if created.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) != Some("Indexed") {
                self.remove(&id.to_string(), several)?;
                return Err(RemoteError::Unschedulable {
                    engine: self.name.clone(),
                    message: "several machines take an indexed job, which Kubernetes has from 1.21 on".to_owned(),
                });
            }
            self.own_service(id, &created)?;
        }
        Ok(handle(id, &created))
    }

    fn find(&self, id: &JobId) -> Result<Option<JobHandle>, RemoteError> {
        let digits = id.key.as_str().rsplit('-').next().unwrap_or_default();
        self.job(id)?.map(|job| self.same(id, &job, digits)).transpose()
    }

    fn status(&self, handle: &JobHandle) -> Result<JobStatus, RemoteError> {
        let id = &handle.id;
        let job = self.job(id)?.ok_or_else(|| self.not_found(id))?;
        let pods = self.pods_of(id)?;
        let state = match state::of(&job, &pods) {
            state::Found::State(JobState::Queued { reason: None }) if pods.is_empty() => {
                JobState::Queued { reason: self.why_no_pods(id) }
            }
            state::Found::State(state) => state,
            state::Found::OfExitCode(failure) => JobState::Failed(self.files(id).failure(failure)?),
            state::Found::WillNotStart(failure) => {
                self.stop(id, GIVEN_UP, &failure.message)?;
                JobState::Failed(failure)
            }
        };
        Ok(JobStatus { state, heartbeat: self.files(id).heartbeat(id)? })
    }

    fn logs(&self, handle: &JobHandle, from: u64) -> Result<LogChunk, RemoteError> {
        let nothing = LogChunk { bytes: Vec::new(), next: from };
        let pods = self.pods_of(&handle.id)?;
        let Some(name) = state::first_rank(&pods).and_then(|pod| pod.metadata.name.as_deref()) else {
            return Ok(nothing);
        };
        let params = LogParams { container: Some(CONTAINER.to_owned()), ..LogParams::default() };
        let read = block_on(async {
            let mut stream = Box::pin(self.pods().log_stream(name, &params).await?);
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.map_err(kube::Error::ReadEvents)?;
            Ok(bytes)
        });
        // The interface counts lines and seconds, not bytes: it is all read, and what is known is left out.
        match read {
            Ok(bytes) => {
                let known = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
                let new = bytes[known..].to_vec();
                Ok(LogChunk { next: from + new.len() as u64, bytes: new })
            }
            // Not started yet, or gone by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404) => Ok(nothing),
            Err(error) => Err(self.classified(&error)),
        }
    }

    fn cancel(&self, handle: &JobHandle) -> Result<(), RemoteError> {
        match self.job(&handle.id)? {
            Some(job) if !state::has_ended(&job) && state::annotation(&job, CANCELLED).is_none() => {
                self.stop(&handle.id, CANCELLED, &Timestamp::now().to_string())
            }
            _ => Ok(()),
        }
    }

    fn fetch(&self, handle: &JobHandle, into: &Path) -> Result<(), RemoteError> {
        self.files(&handle.id).fetch(&handle.id, into)
    }

    fn cleanup(&self, id: &JobId) -> Result<(), RemoteError> {
        let key = &id.key;
        // Attempts before this one are there as records of how they ended.
        let of_job = ListParams::default().labels(&format!("tunesmith/job={key}"));
        for job in block_on(self.jobs().list(&of_job)).map_err(self.failed())? {
            let is_several = job.spec.as_ref().and_then(|spec| spec.completions).is_some_and(|machines| machines > 1);
            self.remove(job.metadata.name.as_deref().unwrap_or_default(), is_several)?;
        }
        self.files(id).remove()
    }
}

impl Kubernetes {
    /// Removes an attempt with its pods and, where it has one, its service.
    fn remove(&self, name: &str, is_several: bool) -> Result<(), RemoteError> {
        let params = DeleteParams::background();
        block_on(self.jobs().delete(name, &params)).map(drop).or_else(error::gone).map_err(self.failed())?;
        if is_several {
            let deleted = block_on(self.services().delete(name, &params));
            deleted.map(drop).or_else(error::gone).map_err(self.failed())?;
        }
        Ok(())
    }

    fn not_found(&self, id: &JobId) -> RemoteError {
        RemoteError::NotFound { engine: self.name.clone(), id: id.clone() }
    }
}

fn handle(id: &JobId, job: &Job) -> JobHandle {
    let submitted_at = job.metadata.creation_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
    JobHandle { id: id.clone(), native: job.metadata.uid.clone().unwrap_or_else(|| id.to_string()), submitted_at }
}
