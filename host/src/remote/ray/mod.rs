//! Ray, by the Jobs API that its dashboard serves: plain HTTP, nothing of Ray is needed here.
//!
//! The program travels as a package of Ray's; the bundle and what the job leaves go through the artefact store, which the nodes reach
//! with credentials of their own (Ray shows every job's variables to whoever asks, so none of ours go there). The jobs of a
//! cluster whose head is started anew are forgotten: such an attempt counts as lost, and the next goes on from its checkpoint.
//!
//! ```toml
//! backend = "remote"
//! backend_provider = "ray"
//! gpu = "A100"                                  # a node with `accelerator_type:A100`
//! [remote]
//! artefacts = "s3://bucket/tunesmith"           # anything that the nodes reach
//! [remote.ray]
//! url = "http://10.0.0.5:8265"
//! token_file = "ray-token"                      # or RAY_AUTH_TOKEN
//! ```

mod api;
mod package;
mod state;

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::api::{Api, Details};
use super::{
    Capabilities, JobFiles, JobHandle, JobState, JobStatus, LogChunk, RemoteError, Resources, Submission,
    TrainingBackend,
};
use crate::artefacts::ArtefactStore;
use crate::config::RemoteConfig;
use crate::job::{JOB_FILE, JobId, PROGRAM};

/// Seconds that a job has after a stop to save its state; Ray's own are 3.
const STOP_WAIT_S: &str = "60";

/// A Ray cluster.
pub(super) struct Ray {
    api: Api,
    store: ArtefactStore,
    /// `accelerator_type:{gpu}`
    gpu_resource: String,
}

impl Ray {
    /// The cluster of a dashboard.
    ///
    /// # Errors
    /// [`RemoteError::Config`] where its address or that of the artefact store is missing or is none, [`RemoteError::Credentials`] where
    /// its token can't be read.
    pub(super) fn new(config: &RemoteConfig) -> Result<Self, RemoteError> {
        let url = config.artefacts.as_ref().ok_or_else(|| RemoteError::Config {
            key: "remote.artefacts",
            message:
                "is not set: Ray keeps nothing of a job, so name a store that this host and the nodes reach, such as \
                      `s3://bucket/prefix` or `file:///shared/tunesmith`"
                    .to_owned(),
        })?;
        let store = ArtefactStore::open(url, config.secrets_of_environment)?;
        let gpu_resource = config.ray.gpu_resource.clone().unwrap_or_else(|| "accelerator_type:{gpu}".to_owned());
        Ok(Self { api: Api::new(config)?, store, gpu_resource })
    }

    fn files(&self, id: &JobId) -> JobFiles {
        JobFiles::new(&self.store, &id.key)
    }

    fn forgotten(&self, id: &JobId) -> RemoteError {
        RemoteError::NotFound { engine: self.describe(), id: id.clone() }
    }

    /// A node's kind of GPU, as a resource that it has.
    fn kind(&self, resources: &Resources) -> Option<String> {
        let gpu = resources.gpu.as_ref()?;
        Some(self.gpu_resource.replace("{gpu}", gpu)).filter(|resource| !resource.is_empty())
    }

    fn request(&self, attempt: &Submission<'_>, package: &str) -> Value {
        let Resources { gpu, gpu_count, nodes, cpu, memory_mib } = attempt.resources;
        let gpus = gpu.as_ref().map_or(0, |_| *gpu_count);
        let memory = memory_mib << 20;
        let kind = self.kind(attempt.resources);
        let files = self.files(&attempt.id);
        let (number, bundle, out) = (attempt.id.attempt, files.bundle(), files.out());
        // The working directory is shared by the jobs of a node that have the same program.
        let train = [
            &format!("./{PROGRAM}"),
            "train",
            "--job",
            &format!("{}/{JOB_FILE}", bundle.url()),
            "--out",
            &format!("out-{}", attempt.id),
            "--attempt",
            &number.to_string(),
            "--artefacts",
            out.url(),
        ];
        let train = train.map(super::slurm::quoted).join(" ");
        let mut job = json!({
            "submission_id": attempt.id.to_string(),
            "metadata": attempt.labels,
            "runtime_env": {
                "working_dir": format!("gcs://{package}"),
                "env_vars": {"RAY_DEDUP_LOGS": "0", "RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT_S},
            },
        });
        if attempt.resources.world_size() == 1 {
            job["entrypoint"] = format!("exec {train}").into();
            job["entrypoint_num_cpus"] = (*cpu).into();
            job["entrypoint_num_gpus"] = gpus.into();
            job["entrypoint_memory"] = memory.into();
            if let Some(kind) = kind {
                job["entrypoint_resources"] = json!({kind: 0.001});
            }
        } else {
            let kind = kind.map(|kind| format!(" --resource {}", super::slurm::quoted(&kind))).unwrap_or_default();
            job["entrypoint"] = format!(
                "exec python {} --nodes {nodes} --ranks {} --cpus {cpu} --gpus {gpus} --memory {memory}{kind} --wait {} -- {train}",
                package::GANG_FILE,
                attempt.resources.ranks_per_node(),
                attempt.queue_timeout.as_secs(),
            )
            .into();
        }
        job
    }

    /// The handle of what is there by that name.
    fn there(&self, attempt: &Submission<'_>, details: &Details) -> Result<JobHandle, RemoteError> {
        let digest = details.metadata.as_ref().and_then(|metadata| metadata.get("digest"));
        if digest == Some(&attempt.bundle.digest) {
            return Ok(handle(&attempt.id));
        }
        let message = match digest {
            Some(digest) => format!("its digest is {digest}"),
            None => "it has no digest".to_owned(),
        };
        Err(RemoteError::Conflict { engine: self.describe(), id: attempt.id.clone(), message })
    }

    /// Ends a job that has not begun. Ray itself would only begin it and stop it then, and ask for machines until it can: a job of
    /// its own ends the actor that would begin it.
    fn end_pending(&self, id: &JobId) -> Result<(), RemoteError> {
        let name = stopper(id);
        match self.api.job(&name)?.map(|details| details.state()) {
            Some(JobState::Queued { .. } | JobState::Running) => return Ok(()),
            Some(_) => self.api.delete(&name)?,
            None => {}
        }
        let entrypoint = format!("exec python -c {} {id}", super::slurm::quoted(package::STOP));
        self.api
            .submit(&json!({"submission_id": name, "entrypoint": entrypoint, "metadata": {"stops": id.to_string()}}))?;
        Ok(())
    }
}

impl TrainingBackend for Ray {
    fn describe(&self) -> String {
        self.api.name().to_owned()
    }

    fn probe(&self, _: &Resources) -> Result<Capabilities, RemoteError> {
        let version = self.api.version()?;
        // Its version is everybody's to know, its jobs are not.
        self.api.job("tunesmith-probe")?;
        let notes = self.api.resources();
        // As it spells `accelerator_type:A10G` there.
        let kind = |note: &String| Some(note.strip_prefix("acceleratorType:")?.split(':').next()?.to_owned());
        let gpus = notes.iter().filter_map(kind).collect();
        Ok(Capabilities { version: Some(version), gpus, notes })
    }

    fn submit(&self, attempt: &Submission<'_>) -> Result<JobHandle, RemoteError> {
        let name = attempt.id.to_string();
        if let Some(details) = self.api.job(&name)? {
            return self.there(attempt, &details);
        }
        let files = self.files(&attempt.id);
        files.upload(attempt.bundle)?;
        files.forget_failure()?;
        let package = package::name(attempt.bundle);
        if !self.api.has_package(&package)? {
            self.api.put_package(&package, package::write(attempt.bundle)?.path())?;
        }
        if !self.api.submit(&self.request(attempt, &package))? {
            // Somebody else was faster.
            let details = self.api.job(&name)?.ok_or_else(|| self.forgotten(&attempt.id))?;
            return self.there(attempt, &details);
        }
        Ok(handle(&attempt.id))
    }

    fn find(&self, id: &JobId) -> Result<Option<JobHandle>, RemoteError> {
        Ok(self.api.job(&id.to_string())?.map(|_| handle(id)))
    }

    fn status(&self, handle: &JobHandle) -> Result<JobStatus, RemoteError> {
        let id = &handle.id;
        let files = self.files(id);
        let state = match self.api.job(&id.to_string())? {
            Some(details) => match details.state() {
                // What it says of its own end says more, where it had the time.
                JobState::Failed(failure) if failure.exit_code.is_some() => JobState::Failed(files.failure(failure)?),
                JobState::Failed(failure) => match self.api.job(&stopper(id))? {
                    Some(_) => JobState::Cancelled,
                    None => JobState::Failed(failure),
                },
                state => state,
            },
            // The head is another one: what the job left tells whether it had ended by then.
            None if files.has_result()? => JobState::Succeeded,
            None => return Err(self.forgotten(id)),
        };
        Ok(JobStatus { state, heartbeat: files.heartbeat(id)? })
    }

    fn logs(&self, handle: &JobHandle, from: u64) -> Result<LogChunk, RemoteError> {
        let log = self.api.logs(&handle.id.to_string())?.unwrap_or_default().into_bytes();
        // It comes whole, however little of it is new.
        let start = usize::try_from(from).unwrap_or(usize::MAX).min(log.len());
        Ok(LogChunk { next: from.max(log.len() as u64), bytes: log[start..].to_vec() })
    }

    fn cancel(&self, handle: &JobHandle) -> Result<(), RemoteError> {
        let name = handle.id.to_string();
        self.api.stop(&name)?;
        match self.api.job(&name)?.map(|details| details.state()) {
            Some(JobState::Queued { .. }) => self.end_pending(&handle.id),
            _ => Ok(()),
        }
    }

    fn fetch(&self, handle: &JobHandle, into: &Path) -> Result<(), RemoteError> {
        self.files(&handle.id).fetch(&handle.id, into)
    }

    fn cleanup(&self, id: &JobId) -> Result<(), RemoteError> {
        for attempt in 1..=id.attempt {
            let id = id.key.attempt(attempt);
            self.api.delete(&id.to_string())?;
            self.api.delete(&stopper(&id))?;
        }
        self.files(id).remove()
    }
}

fn handle(id: &JobId) -> JobHandle {
    JobHandle { id: id.clone(), native: id.to_string(), submitted_at: Timestamp::now() }
}

/// The job that ends another.
fn stopper(id: &JobId) -> String {
    format!("{id}-stop")
}
