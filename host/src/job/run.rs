//! What a machine does with a bundle: `tunesmith train`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::mirror::Mirror;
use super::{
    ADAPTER_DIR, FAILURE_FILE, Failure, HEARTBEAT_FILE, Heartbeat, JobError, JobResult, METRICS_FILE, RESULT_FILE,
    inputs, sha256_of,
};
use crate::artefacts::ArtefactStore;
use crate::error::HostError;
use crate::pipeline;
use crate::progress::Progress;
use crate::run_dir;

/// How often a job tells how far it is.
const BEAT: Duration = Duration::from_secs(1);

/// An attempt at a job, on this machine.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Path or address of its `job.json`.
    pub job: String,
    /// Folder of its output.
    pub out: PathBuf,
    /// From 1.
    pub number: u32,
    /// Address of the folder that its output is copied to as it comes.
    pub artefacts: Option<String>,
}

impl Attempt {
    /// Trains, from the checkpoint of an earlier attempt where there is one. Ends with `result.json` in the output, or with
    /// `failure.json` and an error. A job that is done already is not done again.
    ///
    /// # Errors
    /// [`JobError::Failed`] for whatever ended the training, and [`HostError`] where its output can't be written.
    pub fn run(&self, stop: &'static AtomicBool, progress: &Progress) -> Result<JobResult, HostError> {
        fs::create_dir_all(&self.out).map_err(HostError::io("create", &self.out))?;
        let _lock = self.lock()?;
        let store = self.artefacts.as_deref().map(|url| ArtefactStore::open(url, true)).transpose();
        let store = store.map_err(JobError::from)?;
        let mirror = Mirror::new(&self.out, store, self.number);
        match self.attempt(&mirror, stop, progress) {
            Ok(result) => Ok(result),
            Err(error) => {
                let failure = error.as_job_failure();
                let text = serde_json::to_vec(&failure).unwrap_or_default(); // our own type
                run_dir::write_whole(&self.out.join(FAILURE_FILE), |file| file.write_all(&text))?;
                if let Err(error) = mirror.hand_in_failure() {
                    tracing::warn!("{error}");
                }
                Err(JobError::Failed { failure }.into())
            }
        }
    }

    fn attempt(&self, mirror: &Mirror, stop: &'static AtomicBool, progress: &Progress) -> Result<JobResult, HostError> {
        let start = Instant::now();
        let bundle = inputs::bundle(&self.job, &self.out)?;
        bundle.verify()?;
        mirror.restore()?;
        let done: Option<JobResult> = read(&self.out.join(RESULT_FILE));
        if let Some(done) = done.filter(|done| done.digest == bundle.digest) {
            tracing::info!("this job is done already, by attempt {}", done.attempt);
            mirror.hand_in()?;
            return Ok(done);
        }
        let seen: Option<Heartbeat> = read(&self.out.join(HEARTBEAT_FILE));
        if let Some(Heartbeat { attempt: theirs, .. }) = seen.filter(|seen| seen.attempt > self.number) {
            return Err(JobError::Superseded { out: self.out.clone(), theirs, ours: self.number }.into());
        }
        let _ = fs::remove_file(self.out.join(FAILURE_FILE)); // of the attempt before
        if sha256_of(&std::env::current_exe().unwrap_or_default()).ok().as_ref() != Some(&bundle.job.program_sha256) {
            tracing::info!("the job was made by another build of tunesmith: its bytes may differ from a local run's");
        }
        let base = inputs::base(&bundle, &self.out)?;

        let timeout = Duration::from_secs(bundle.job.timeout_s);
        let timed_out = AtomicBool::new(false);
        let produced = thread::scope(|scope| {
            let (ended, end) = mpsc::channel::<()>();
            let beats = scope.spawn(|| {
                let end = end; // ends with this thread
                while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(BEAT) {
                    if start.elapsed() > timeout && !timed_out.swap(true, Ordering::Relaxed) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    mirror.beat();
                }
            });
            let progress = progress.clone().stopped_by(stop);
            let produced = pipeline::execute(&bundle.job, &bundle.folder, &base, &self.out, &progress);
            drop(ended);
            let _ = beats.join(); // a panic there is told there
            produced
        });
        let produced = match produced {
            Err(HostError::Interrupted) if timed_out.load(Ordering::Relaxed) => {
                return Err(JobError::Timeout { timeout_s: bundle.job.timeout_s }.into());
            }
            Err(HostError::Interrupted) => return Err(JobError::Stopped.into()),
            produced => produced?,
        };
        let result = JobResult {
            digest: bundle.digest.clone(),
            attempt: self.number,
            produced,
            files: self.digests()?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let text = serde_json::to_string_pretty(&result).unwrap_or_default() + "\n"; // our own type
        run_dir::write_whole(&self.out.join(RESULT_FILE), |file| file.write_all(text.as_bytes()))?;
        mirror.hand_in()?;
        Ok(result)
    }

    /// Of every file that another machine is to have.
    fn digests(&self) -> Result<std::collections::BTreeMap<String, String>, HostError> {
        let adapter = self.out.join(ADAPTER_DIR);
        let mut names = vec![METRICS_FILE.to_owned()];
        for entry in fs::read_dir(&adapter).map_err(HostError::io("list", &adapter))? {
            let name = entry.map_err(HostError::io("list", &adapter))?.file_name();
            names.push(format!("{ADAPTER_DIR}/{}", name.to_string_lossy()));
        }
        names.into_iter().map(|name| Ok((name.clone(), sha256_of(&self.out.join(&name))?))).collect()
    }

    /// `None` where the file system has no locks.
    fn lock(&self) -> Result<Option<File>, HostError> {
        let path = self.out.join(".lock");
        let file = File::create(&path).map_err(HostError::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Err(JobError::Held { out: self.out.clone() }.into()),
            Err(fs::TryLockError::Error(_)) => Ok(None),
        }
    }
}

/// What is half written or not there is nothing.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

impl HostError {
    /// As a job tells of it.
    pub(crate) fn as_job_failure(&self) -> Failure {
        let kind = self.job_failure_kind();
        Failure { kind, exit_code: Some(kind.exit_code().into()), message: self.describe() }
    }
}
