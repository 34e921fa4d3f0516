use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{Capabilities, JobHandle, JobStatus, LogChunk, RemoteError, Resources, Submission, TrainingBackend};
use crate::http;
use crate::job::JobId;

/// How long a call is repeated before its error is told.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine whose calls are repeated while they fail in passing, with pauses that double. A submission is never repeated before
/// `find` has said that the engine does not have it.
pub struct Persistent {
    backend: Box<dyn TrainingBackend>,
    patience: Duration,
}

impl Persistent {
    /// Calls of `backend`, each repeated for a minute.
    pub fn new(backend: Box<dyn TrainingBackend>) -> Self {
        Self::patient_for(backend, PATIENCE)
    }

    /// Calls of `backend`, each repeated for as long as `patience`.
    pub fn patient_for(backend: Box<dyn TrainingBackend>, patience: Duration) -> Self {
        Self { backend, patience }
    }

    fn repeated<T>(&self, what: &str, mut call: impl FnMut() -> Result<T, RemoteError>) -> Result<T, RemoteError> {
        let start = Instant::now();
        let mut attempt = 1;
        loop {
            let error = match call() {
                Err(error) if error.is_transient() => error,
                done => return done,
            };
            attempt += 1;
            let named = match &error {
                RemoteError::Transient { after, .. } => *after,
                _ => None,
            };
            let pause = http::pause(attempt, named);
            if start.elapsed() + pause > self.patience {
                return Err(error);
            }
            tracing::debug!("{what}, once more in {:.1} s: {error}", pause.as_secs_f64());
            thread::sleep(pause);
        }
    }
}

impl TrainingBackend for Persistent {
    fn describe(&self) -> String {
        self.backend.describe()
    }

    fn probe(&self, resources: &Resources) -> Result<Capabilities, RemoteError> {
        self.repeated("probe", || self.backend.probe(resources))
    }

    fn submit(&self, attempt: &Submission<'_>) -> Result<JobHandle, RemoteError> {
        let mut tried = false;
        self.repeated("submit", || {
            // The one before may have come through.
            if tried && let Some(handle) = self.backend.find(&attempt.id)? {
                return Ok(handle);
            }
            tried = true;
            self.backend.submit(attempt)
        })
    }

    fn find(&self, id: &JobId) -> Result<Option<JobHandle>, RemoteError> {
        self.repeated("find", || self.backend.find(id))
    }

    fn status(&self, handle: &JobHandle) -> Result<JobStatus, RemoteError> {
        self.repeated("status", || self.backend.status(handle))
    }

    fn logs(&self, handle: &JobHandle, from: u64) -> Result<LogChunk, RemoteError> {
        self.repeated("logs", || self.backend.logs(handle, from))
    }

    fn cancel(&self, handle: &JobHandle) -> Result<(), RemoteError> {
        self.repeated("cancel", || self.backend.cancel(handle))
    }

    fn fetch(&self, handle: &JobHandle, into: &Path) -> Result<(), RemoteError> {
        self.repeated("fetch", || {
            empty(into)?;
            self.backend.fetch(handle, into)
        })
    }

    fn cleanup(&self, id: &JobId) -> Result<(), RemoteError> {
        self.repeated("cleanup", || self.backend.cleanup(id))
    }
}

/// What an attempt that broke off has left is no part of the next.
fn empty(folder: &Path) -> Result<(), RemoteError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(RemoteError::io("empty", folder)(error)),
        _ => std::fs::create_dir_all(folder).map_err(RemoteError::io("create", folder)),
    }
}
