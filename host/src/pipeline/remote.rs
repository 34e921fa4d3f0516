//! A run whose training is a job of an engine.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::job;
use super::recipe::Recipe;
use super::records::RecordText;
use super::work::Work;
use crate::config::{RemoteConfig, RunConfig};
use crate::error::HostError;
use crate::job::{ADAPTER_DIR, METRICS_FILE, Produced};
use crate::progress::Progress;
use crate::remote::{self, Drive, JobStore, Persistent, TrainingBackend, cost};
use crate::report::RemoteJob;

/// An engine that would take the job.
pub(super) struct Elsewhere {
    backend: Persistent,
    remote: RemoteConfig,
    jobs: JobStore,
}

impl Elsewhere {
    /// Asks the engine, before anything is read: whether it is there, lets us in, has such machines, and what it would cost.
    ///
    /// # Errors
    /// [`HostError::Remote`].
    pub(super) fn open(config: &RunConfig, remote: &RemoteConfig) -> Result<Self, HostError> {
        cost::check(remote)?;
        let backend = Persistent::new(remote::open(remote)?);
        let told = backend.probe(&remote.resources)?;
        let notes = told.version.into_iter().chain(told.notes).collect::<Vec<_>>().join(", ");
        tracing::info!("{}{}{notes}", backend.describe(), if notes.is_empty() { "" } else { ": " });
        let jobs = JobStore::beside(&config.review.approvals);
        Ok(Self { backend, remote: remote.clone(), jobs })
    }

    /// Makes the bundle, has it trained, and puts adapter and metrics into `folder`.
    ///
    /// # Errors
    /// [`HostError`].
    pub(super) fn train<R: Recipe>(
        &self,
        config: &RunConfig,
        work: &Work<'_, R::Example>,
        records: (&[RecordText], &[RecordText]),
        name: &str,
        folder: &Path,
        progress: &Progress,
    ) -> Result<(Produced, RemoteJob), HostError> {
        let start = Instant::now();
        let bundle = job::bundle::<R>(config, &self.remote, work, records, name, self.jobs.folder())?;
        let drive = Drive { backend: &self.backend, config: &self.remote, jobs: &self.jobs, progress };
        let done = drive.run(&bundle)?;
        copy(&done.folder.join(ADAPTER_DIR), folder)?;
        let metrics = done.folder.join(METRICS_FILE);
        fs::copy(&metrics, folder.join(METRICS_FILE)).map_err(HostError::io("copy", &metrics))?;
        let job = RemoteJob {
            key: bundle.key.to_string(),
            engine: self.backend.describe(),
            attempts: done.attempts,
            took_s: start.elapsed().as_secs_f64(),
            cost_usd: done.cost_usd,
        };
        Ok((done.result.produced, job))
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), HostError> {
    for entry in fs::read_dir(from).map_err(HostError::io("list", from))? {
        let path = entry.map_err(HostError::io("list", from))?.path();
        if let Some(name) = path.file_name() {
            fs::copy(&path, to.join(name)).map_err(HostError::io("copy", &path))?;
        }
    }
    Ok(())
}
