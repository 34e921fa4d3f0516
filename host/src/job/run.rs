//! What a machine does with a bundle: `tunesmith train`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use trainer_cuda::ranks::Ranks;

use super::mirror::Mirror;
use super::{
    ADAPTER_DIR, Bundle, CHECKPOINT_DIR, FAILURE_FILE, Failure, HEARTBEAT_FILE, Heartbeat, JobError, JobResult,
    METRICS_FILE, RESULT_FILE, inputs, sha256_of,
};
use crate::artefacts::ArtefactStore;
use crate::error::HostError;
use crate::pipeline::Execution;
use crate::progress::Progress;
use crate::run_dir;

/// How often a job tells how far it is.
const BEAT: Duration = Duration::from_secs(1);

/// How long an attempt before this one is waited for, that its engine has given up and that saves its state still: longer
/// than engines let it.
const OTHERS_END: Duration = Duration::from_secs(150);
const LOOK: Duration = Duration::from_millis(100);

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
        let ranks = Ranks::from_environment()?;
        if let Some(ranks) = ranks.as_ref().filter(|ranks| ranks.rank() > 0) {
            return self.help(ranks, stop, progress);
        }
        let _lock = lock(&self.out, OTHERS_END, stop)?;
        let store = self.artefacts.as_deref().map(|url| ArtefactStore::open(url, true)).transpose();
        let store = store.map_err(JobError::from)?;
        let mirror = Mirror::new(&self.out, store, self.number);
        match self.attempt(&mirror, ranks.as_ref(), stop, progress) {
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

    /// What the first process of a job does, and the only one of most.
    fn attempt(
        &self,
        mirror: &Mirror,
        ranks: Option<&Ranks>,
        stop: &'static AtomicBool,
        progress: &Progress,
    ) -> Result<JobResult, HostError> {
        let start = Instant::now();
        let bundle = inputs::bundle(&self.job, &self.out)?;
        bundle.verify()?;
        check_world(&bundle, ranks)?;
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

        let (job, out) = (&bundle.job, self.out.as_path());
        let execution = Execution { job, bundle: &bundle.folder, base: &base, out, ranks };
        let timeout = Duration::from_secs(job.timeout_s);
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
            let produced = execution.run(&progress);
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

    /// What every other process does: it computes its share, and writes nothing that anybody reads.
    fn help(&self, ranks: &Ranks, stop: &'static AtomicBool, progress: &Progress) -> Result<JobResult, HostError> {
        let own = self.out.join(format!(".rank-{}", ranks.rank()));
        let helped = (|| {
            let bundle = inputs::bundle(&self.job, &own)?;
            bundle.verify()?;
            check_world(&bundle, Some(ranks))?;
            let checkpoint = own.join(CHECKPOINT_DIR);
            let _ = fs::remove_dir_all(&checkpoint); // of an attempt before
            fs::create_dir_all(&checkpoint).map_err(HostError::io("create", &checkpoint))?;
            // The state that the first process goes on from; where a store has it, that is the one.
            match &self.artefacts {
                Some(url) => {
                    let store = ArtefactStore::open(url, true).map_err(JobError::from)?.at(CHECKPOINT_DIR);
                    for entry in store.list().map_err(JobError::from)? {
                        store.get_file(&entry.path, &checkpoint.join(&entry.path)).map_err(JobError::from)?;
                    }
                }
                None => copy_files(&self.out.join(CHECKPOINT_DIR), &checkpoint)?,
            }
            copy_files_if_there(&self.out.join(METRICS_FILE), &own.join(METRICS_FILE))?;
            let base = inputs::base(&bundle, &own)?;
            let progress = progress.clone().stopped_by(stop);
            let produced =
                Execution { job: &bundle.job, bundle: &bundle.folder, base: &base, out: &own, ranks: Some(ranks) }
                    .run(&progress)?;
            let version = env!("CARGO_PKG_VERSION").to_owned();
            Ok(JobResult { digest: bundle.digest, attempt: self.number, produced, files: BTreeMap::new(), version })
        })();
        let _ = fs::remove_dir_all(&own); // what is left of it is in the way of nobody
        helped.map_err(|error: HostError| {
            let error = if matches!(error, HostError::Interrupted) { JobError::Stopped.into() } else { error };
            JobError::Failed { failure: error.as_job_failure() }.into()
        })
    }

    /// Of every file that another machine is to have.
    fn digests(&self) -> Result<BTreeMap<String, String>, HostError> {
        let adapter = self.out.join(ADAPTER_DIR);
        let mut names = vec![METRICS_FILE.to_owned()];
        for entry in fs::read_dir(&adapter).map_err(HostError::io("list", &adapter))? {
            let name = entry.map_err(HostError::io("list", &adapter))?.file_name();
            names.push(format!("{ADAPTER_DIR}/{}", name.to_string_lossy()));
        }
        names.into_iter().map(|name| Ok((name.clone(), sha256_of(&self.out.join(&name))?))).collect()
    }
}

/// The lock of an output folder, once whoever has it has ended; `None` where the file system has no locks.
fn lock(out: &Path, patience: Duration, stop: &AtomicBool) -> Result<Option<File>, HostError> {
    let path = out.join(".lock");
    let file = File::create(&path).map_err(HostError::io("create", &path))?;
    let start = Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) if start.elapsed() < patience && !stop.load(Ordering::Relaxed) => {
                if !std::mem::replace(&mut told, true) {
                    let (folder, seconds) = (out.display(), patience.as_secs());
                    tracing::info!("another process works in `{folder}`: it is waited for, {seconds} s at most");
                }
                thread::sleep(LOOK);
            }
            Err(fs::TryLockError::WouldBlock) => return Err(JobError::Held { out: out.to_owned() }.into()),
            Err(fs::TryLockError::Error(_)) => return Ok(None),
        }
    }
}

/// A job of two processes that is started as one would train something else.
fn check_world(bundle: &Bundle, ranks: Option<&Ranks>) -> Result<(), JobError> {
    let (want, is) = (bundle.job.world_size, ranks.map_or(1, |ranks| ranks.world_size() as u32));
    if want == is { Ok(()) } else { Err(JobError::World { want, is }) }
}

fn copy_files(from: &Path, to: &Path) -> Result<(), HostError> {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        copy_files_if_there(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn copy_files_if_there(from: &Path, to: &Path) -> Result<(), HostError> {
    if from.is_file() { fs::copy(from, to).map(drop).map_err(HostError::io("copy", from)) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_another_attempt_works_in_is_waited_for() {
        let out = tempfile::tempdir().expect("a folder");
        let go_on = AtomicBool::new(false);
        let first = lock(out.path(), Duration::ZERO, &go_on).expect("nobody has it");
        let held = lock(out.path(), Duration::ZERO, &go_on).expect_err("somebody has it");
        let told = format!("another process works in `{}`; wait for its end", out.path().display());
        assert_eq!((held.to_string(), held.exit_code()), (told, 126));
        // Whoever is asked to stop does not wait.
        lock(out.path(), OTHERS_END, &AtomicBool::new(true)).expect_err("somebody has it");
        thread::scope(|scope| {
            let waits = scope.spawn(|| lock(out.path(), OTHERS_END, &go_on).map(drop));
            thread::sleep(2 * LOOK);
            assert!(!waits.is_finished());
            drop(first);
            waits.join().expect("no panic").expect("it has ended");
        });
    }
}
