//! A worker: `tunesmith serve --worker` of another machine, or `deploy/modal_app.py` at Modal. `contract.rs` is what it is
//! spoken to with.
//!
//! ```toml
//! backend = "remote"
//! backend_provider = "modal"
//! gpu = "A10G"                                    # "none": on the processor
//! [remote.modal]
//! url = "http://10.0.0.7:4318"                    # or that which `modal deploy` tells
//! token_file = "worker.token"                     # of a worker of our own; key_file for Modal
//! ```

pub(crate) mod contract;
mod link;
pub(crate) mod pack;

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::{
    Capabilities, JobHandle, JobState, JobStatus, LogChunk, RemoteError, Resources, Submission, TrainingBackend,
};
use crate::config::RemoteConfig;
use crate::job::{ADAPTER_DIR, Failure, FailureKind, JobId, METRICS_FILE, RESULT_FILE};
use contract::{ARTIFACT_DIGEST, BUNDLE_DIGEST, JobView, NEXT_OFFSET, RESOURCES, Stage, WorkerInfo, kind};
use link::{Answer, Link};

/// What an adapter may come to, unpacked: more than the weights of what trains here.
const ARTEFACT: pack::Limits = pack::Limits { bytes: 64 << 30, entries: 10_000 };
/// A line that carries a bundle or an adapter is at least this fast, in bytes a second.
const SLOWEST: u64 = 1 << 20;

/// A worker, as a client sees it.
#[derive(Debug)]
pub(crate) struct Worker {
    link: Link,
}

impl Worker {
    /// The worker of `[remote.modal]`.
    ///
    /// # Errors
    /// [`RemoteError::Config`], [`RemoteError::Credentials`] where they can't be read.
    pub(crate) fn new(config: &RemoteConfig) -> Result<Self, RemoteError> {
        Ok(Self { link: Link::new(&config.modal, config.secrets_of_environment)? })
    }

    fn job(&self, method: Method, id: &JobId, rest: &str) -> link::Request<'_> {
        self.link.request(method, format!("v1/jobs/{id}{rest}"))
    }

    /// What was answered of `id`, which must be of it.
    fn view(&self, id: &JobId, answer: Answer) -> Result<JobView, RemoteError> {
        let view: JobView = self.link.json(answer)?;
        match view.id == id.to_string() {
            true => Ok(view),
            false => Err(self.link.nonsense(format!("it tells of job `{}` where `{id}` was asked for", view.id))),
        }
    }

    /// What a refusal of a request about `id` means.
    fn refused(&self, id: &JobId, answer: Answer) -> RemoteError {
        let engine = self.link.name().to_owned();
        let Some(problem) = answer.problem() else { return self.link.refusal(answer) };
        match problem.kind() {
            kind::NO_JOB => RemoteError::NotFound { engine, id: id.clone() },
            kind::NO_ARTIFACT => RemoteError::NoArtefact { id: id.clone(), what: problem.detail, place: engine },
            kind::CONFLICT => RemoteError::Conflict { engine, id: id.clone(), message: problem.detail },
            kind::UNSCHEDULABLE => RemoteError::Unschedulable { engine, message: problem.detail },
            kind::BUSY => RemoteError::Busy { engine, message: problem.detail, after: answer.retry_after() },
            _ => self.link.refusal(answer),
        }
    }

    /// Sends the attempt; without the bundle where it was sent for an attempt before.
    fn put(&self, attempt: &Submission<'_>, whole: bool) -> Result<Answer, RemoteError> {
        let Submission { id, bundle, resources, .. } = attempt;
        let resources = serde_json::to_string(resources).unwrap_or_default(); // numbers and a name
        let request = self.job(Method::PUT, id, "");
        let request = request.header(BUNDLE_DIGEST, &bundle.digest).header(RESOURCES, &resources);
        if !whole {
            return request.send();
        }
        let place = bundle.folder.parent().unwrap_or(&bundle.folder);
        let failed = || RemoteError::io("pack into a file in", place);
        let file = tempfile::tempfile_in(place).map_err(failed())?;
        let file = pack::pack(&bundle.folder, &pack::travels(bundle), file).map_err(failed())?;
        let length = file.metadata().map_err(failed())?.len();
        let request = request.header(CONTENT_TYPE.as_str(), "application/gzip");
        request.body(file, length, Duration::from_secs(length / SLOWEST)).send()
    }
}

impl TrainingBackend for Worker {
    fn describe(&self) -> String {
        self.link.name().to_owned()
    }

    fn probe(&self, resources: &Resources) -> Result<Capabilities, RemoteError> {
        let resources = serde_json::to_string(resources).unwrap_or_default();
        let answer = self.link.request(Method::GET, "v1/worker".to_owned()).header(RESOURCES, &resources).send()?;
        if !answer.is_success() {
            let engine = self.link.name().to_owned();
            return Err(match answer.problem() {
                Some(problem) if problem.kind() == kind::UNSCHEDULABLE => {
                    RemoteError::Unschedulable { engine, message: problem.detail }
                }
                _ => self.link.refusal(answer),
            });
        }
        let info: WorkerInfo = self.link.json(answer)?;
        if info.contract != contract::VERSION {
            let message = format!(
                "it speaks version {} of the contract, and this tunesmith {}: give both one version of tunesmith",
                info.contract,
                contract::VERSION
            );
            return Err(RemoteError::Refused { engine: self.link.name().to_owned(), message });
        }
        let mut notes = Vec::new();
        if info.version != env!("CARGO_PKG_VERSION") {
            notes.push(format!("it trains with tunesmith {}, this is {}", info.version, env!("CARGO_PKG_VERSION")));
        }
        if let Some(running) = info.running {
            notes.push(format!("it is at job `{running}`"));
        }
        Ok(Capabilities { version: Some(info.version), gpus: info.gpus, notes })
    }

    fn submit(&self, attempt: &Submission<'_>) -> Result<JobHandle, RemoteError> {
        let id = &attempt.id;
        // A worker that is at another job, or has the bundle of an attempt before, says so before gigabytes are sent.
        let mut answer = self.put(attempt, false)?;
        if answer.problem().is_some_and(|problem| problem.kind() == kind::NO_BUNDLE) {
            answer = self.put(attempt, true)?;
        }
        if !answer.is_success() {
            return Err(self.refused(id, answer));
        }
        // Taken on, to all appearances: whoever asks with `find` learns whether it was.
        let lost = |error| match error {
            RemoteError::Protocol { engine, message } => RemoteError::Transient { engine, message, after: None },
            error => error,
        };
        self.view(id, answer).map_err(lost)?;
        Ok(handle(id, Timestamp::now()))
    }

    fn find(&self, id: &JobId) -> Result<Option<JobHandle>, RemoteError> {
        let answer = self.job(Method::GET, id, "").send()?;
        if !answer.is_success() {
            return match self.refused(id, answer) {
                RemoteError::NotFound { .. } => Ok(None),
                error => Err(error),
            };
        }
        let age = SignedDuration::from_secs(self.view(id, answer)?.age_s.min(i64::from(u32::MAX) as u64) as i64);
        Ok(Some(handle(id, Timestamp::now().checked_sub(age).unwrap_or_else(|_| Timestamp::now()))))
    }

    fn status(&self, handle: &JobHandle) -> Result<JobStatus, RemoteError> {
        let id = &handle.id;
        let answer = self.job(Method::GET, id, "").send()?;
        if !answer.is_success() {
            return Err(self.refused(id, answer));
        }
        let view = self.view(id, answer)?;
        let unknown = |exit_code| Failure {
            kind: FailureKind::Unknown,
            exit_code,
            message: "the worker does not tell why".to_owned(),
        };
        let state = match view.state {
            Stage::Queued => JobState::Queued { reason: view.reason },
            Stage::Running => JobState::Running,
            Stage::Succeeded => JobState::Succeeded,
            Stage::Failed => JobState::Failed(view.failure.unwrap_or_else(|| unknown(view.exit_code))),
            Stage::Cancelled => JobState::Cancelled,
        };
        Ok(JobStatus { state, heartbeat: view.heartbeat })
    }

    fn logs(&self, handle: &JobHandle, from: u64) -> Result<LogChunk, RemoteError> {
        let answer = self.job(Method::GET, &handle.id, &format!("/logs?offset={from}")).send()?;
        if !answer.is_success() {
            return Err(self.refused(&handle.id, answer));
        }
        let next = answer.header(NEXT_OFFSET).and_then(|next| next.parse().ok());
        match next {
            Some(next) if next == from + answer.body().len() as u64 => Ok(LogChunk { bytes: answer.into_body(), next }),
            _ => Err(self.link.nonsense(format!("a piece of a log without a fitting `{NEXT_OFFSET}`"))),
        }
    }

    fn cancel(&self, handle: &JobHandle) -> Result<(), RemoteError> {
        let answer = self.job(Method::POST, &handle.id, "/cancel").send()?;
        match answer.is_success() {
            // That something else than the worker said so ends nothing.
            true => self.view(&handle.id, answer).map(drop),
            false => Err(self.refused(&handle.id, answer)),
        }
    }

    fn fetch(&self, handle: &JobHandle, into: &Path) -> Result<(), RemoteError> {
        let id = &handle.id;
        let file = tempfile::tempfile_in(into).map_err(RemoteError::io("write into", into))?;
        let fetched = self.link.download(&format!("v1/jobs/{id}/artifact"), file, into)?;
        let (digest, file) = match fetched {
            link::Fetched::Refused(answer) => return Err(self.refused(id, answer)),
            link::Fetched::File { told: None, .. } => {
                return Err(self.link.nonsense(format!("an artefact without `{ARTIFACT_DIGEST}`")));
            }
            link::Fetched::File { told: Some(told), digest, file } if told == digest => (digest, file),
            link::Fetched::File { .. } => {
                return Err(self.link.transient("the artefact did not arrive as it was sent"));
            }
        };
        pack::unpack(file, into, ARTEFACT).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => {
                let what = format!("the archive {digest} of it: {error}");
                RemoteError::Damaged { id: id.clone(), what }
            }
            _ => RemoteError::io("unpack into", into)(error),
        })?;
        for what in [ADAPTER_DIR, METRICS_FILE, RESULT_FILE] {
            if !into.join(what).exists() {
                let place = format!("the archive of {}", self.link.name());
                return Err(RemoteError::NoArtefact { id: id.clone(), what: what.to_owned(), place });
            }
        }
        Ok(())
    }

    fn cleanup(&self, id: &JobId) -> Result<(), RemoteError> {
        let answer = self.job(Method::DELETE, id, "").send()?;
        if answer.is_success() {
            return match answer.status() {
                204 => Ok(()),
                status => Err(self.link.nonsense(format!("status {status} where 204 is due"))),
            };
        }
        match self.refused(id, answer) {
            RemoteError::NotFound { .. } => Ok(()),
            error => Err(error),
        }
    }
}

fn handle(id: &JobId, submitted_at: Timestamp) -> JobHandle {
    JobHandle { id: id.clone(), native: id.to_string(), submitted_at }
}
