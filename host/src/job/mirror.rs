use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use jiff::Timestamp;
use trainer_cuda::trainer::Event;

use super::{
    ADAPTER_DIR, CHECKPOINT_DIR, FAILURE_FILE, HEARTBEAT_FILE, Heartbeat, JobError, METRICS_FILE, RESULT_FILE,
};
use crate::artefacts::{ArtefactError, ArtefactStore};
use crate::error::HostError;
use crate::run_dir;

/// A job's output, and the folder of an artefact store that has the same.
pub(super) struct Mirror {
    out: PathBuf,
    store: Option<ArtefactStore>,
    attempt: u32,
    /// Of the checkpoint's files, as they were copied last.
    copied: Mutex<Vec<(PathBuf, SystemTime)>>,
}

impl Mirror {
    pub(super) fn new(out: &Path, store: Option<ArtefactStore>, attempt: u32) -> Self {
        Self { out: out.to_owned(), store, attempt, copied: Mutex::default() }
    }

    /// Fetches what an earlier attempt left in the store, where this machine has nothing of it.
    pub(super) fn restore(&self) -> Result<(), JobError> {
        let Some(store) = &self.store else { return Ok(()) };
        for entry in store.list()? {
            let path = self.out.join(&entry.path);
            if !path.exists() && entry.path != FAILURE_FILE {
                store.get_file(&entry.path, &path)?;
            }
        }
        Ok(())
    }

    /// Tells how far the job is, and copies a checkpoint that is new. What fails here is done by the next.
    pub(super) fn beat(&self) {
        let told = self.tell().and_then(|()| self.copy_checkpoint());
        if let Err(error) = told {
            tracing::warn!("{error}");
        }
    }

    fn tell(&self) -> Result<(), JobError> {
        let heartbeat = self.heartbeat();
        let path = self.out.join(HEARTBEAT_FILE);
        let text = serde_json::to_vec(&heartbeat).unwrap_or_default(); // our own type
        let written = run_dir::write_whole(&path, |file| file.write_all(&text));
        written.map_err(|error| JobError::io("write", &path)(std::io::Error::other(error.describe())))?;
        match &self.store {
            Some(store) => Ok(store.put(HEARTBEAT_FILE, text)?),
            None => Ok(()),
        }
    }

    /// By the last step in the metrics.
    fn heartbeat(&self) -> Heartbeat {
        let metrics = fs::read_to_string(self.out.join(METRICS_FILE)).unwrap_or_default();
        let last = metrics.lines().rev().find_map(|line| match serde_json::from_str(line) {
            Ok(Event::Step(step)) => Some(step),
            _ => None,
        });
        let (at, attempt) = (Timestamp::now(), self.attempt);
        match last {
            None => Heartbeat { attempt, at, stage: "loading".to_owned(), step: 0, total_steps: 0, loss: None },
            Some(step) => {
                let stage = if step.step == step.total_steps { "writing" } else { "training" }.to_owned();
                let (loss, total_steps, step) = (Some(step.loss), step.total_steps, step.step);
                Heartbeat { attempt, at, stage, step, total_steps, loss }
            }
        }
    }

    /// The metrics first: they have every step of a checkpoint before it is there.
    fn copy_checkpoint(&self) -> Result<(), JobError> {
        let Some(store) = &self.store else { return Ok(()) };
        let mut copied = self.copied.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let files = files(&self.out.join(CHECKPOINT_DIR));
        let new: Vec<_> = files.into_iter().filter(|file| !copied.contains(file)).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.put(store, METRICS_FILE)?;
        for (path, changed) in new {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            self.put(store, &format!("{CHECKPOINT_DIR}/{name}"))?;
            copied.retain(|(other, _)| *other != path);
            copied.push((path, changed));
        }
        Ok(())
    }

    /// Everything that the job made, the result last; the checkpoint is not needed any more.
    pub(super) fn hand_in(&self) -> Result<(), HostError> {
        if let Some(store) = &self.store {
            self.tell()?;
            for (path, _) in files(&self.out.join(ADAPTER_DIR)) {
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
                self.put(store, &format!("{ADAPTER_DIR}/{name}"))?;
            }
            self.put(store, METRICS_FILE)?;
            self.put(store, RESULT_FILE)?;
            store.at(CHECKPOINT_DIR).remove_all().map_err(JobError::from)?;
        } else {
            self.tell()?;
        }
        let _ = fs::remove_dir_all(self.out.join(CHECKPOINT_DIR)); // gone, or gone with the folder
        Ok(())
    }

    /// The newest state, and why there is no result.
    pub(super) fn hand_in_failure(&self) -> Result<(), JobError> {
        self.copy_checkpoint()?;
        match &self.store {
            Some(store) => self.put(store, FAILURE_FILE),
            None => Ok(()),
        }
    }

    fn put(&self, store: &ArtefactStore, path: &str) -> Result<(), JobError> {
        let file = self.out.join(path);
        if file.is_file() { Ok(store.put_file(path, &file)?) } else { Ok(()) }
    }
}

impl From<ArtefactError> for JobError {
    fn from(error: ArtefactError) -> Self {
        Self::Artefacts(error)
    }
}

/// Whole files of a folder, and when each was written.
fn files(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok().filter(fs::Metadata::is_file)?.modified().ok()?)))
        .collect();
    files.sort();
    files
}
