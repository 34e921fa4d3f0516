use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{JobHandle, RemoteError};
use crate::config::{Options, Provider, RemoteConfig};
use crate::job::{Bundle, Failure, JobKey};
use crate::run_dir;
use crate::runs::runs_beside;

/// What is known of a job: written before the engine is told anything, so that a host that was killed at any moment finds it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRecord {
    /// The job.
    pub key: JobKey,
    /// Of its bundle.
    pub digest: String,
    /// Whose it is.
    pub tenant_id: String,
    /// `sft_routing`
    pub name: String,
    /// Who trains.
    pub provider: Provider,
    /// Where, for people.
    pub engine: String,
    /// Where it stands.
    pub state: RecordState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When this was written.
    pub updated_at: Timestamp,
    /// Every attempt, the last one last.
    pub attempts: Vec<AttemptRecord>,
    /// The settings by which its engine is found, every path from the root; no secrets.
    pub options: Options,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum RecordState {
    /// An attempt is to be made, or goes on.
    Open,
    /// What it gave is here.
    Finished,
    /// No attempt is made any more.
    Failed {
        /// Why the last ended.
        failure: Failure,
    },
    /// Somebody cancelled it.
    Cancelled,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptRecord {
    /// From 1.
    pub number: u32,
    /// Before the engine was told.
    pub intended_at: Timestamp,
    /// What the engine calls it; none where its answer never came.
    pub handle: Option<JobHandle>,
    /// When it was seen on a machine first.
    pub running_since: Option<Timestamp>,
    /// When its end was seen.
    pub ended_at: Option<Timestamp>,
    /// Why it failed.
    pub failure: Option<Failure>,
}

impl AttemptRecord {
    /// How long it was on a machine, so far as was seen.
    pub fn on_machine(&self, now: Timestamp) -> Duration {
        let since = self.running_since.map(|since| self.ended_at.unwrap_or(now).duration_since(since));
        since.and_then(|since| Duration::try_from(since).ok()).unwrap_or_default()
    }
}

impl JobRecord {
    /// In a word.
    pub fn state_name(&self) -> &'static str {
        match (&self.state, self.attempts.last()) {
            (RecordState::Finished, _) => "finished",
            (RecordState::Failed { .. }, _) => "failed",
            (RecordState::Cancelled, _) => "cancelled",
            (
                RecordState::Open,
                Some(AttemptRecord { handle: Some(_), running_since: Some(_), ended_at: None, .. }),
            ) => "running",
            (RecordState::Open, Some(AttemptRecord { handle: Some(_), ended_at: None, .. })) => "queued",
            (RecordState::Open, _) => "to be submitted",
        }
    }

    /// Whether whoever waits for the job has something to wait for: looking at one that failed or was cancelled begins no attempt.
    ///
    /// # Errors
    /// [`RemoteError::Failed`], [`RemoteError::Cancelled`].
    pub fn check_goes_on(&self) -> Result<(), RemoteError> {
        let last = || self.key.attempt(self.attempts.last().map_or(1, |attempt| attempt.number));
        match &self.state {
            RecordState::Open | RecordState::Finished => Ok(()),
            RecordState::Failed { failure } => {
                let told = "; the command that submitted it tries again".to_owned();
                Err(RemoteError::Failed { id: last(), failure: failure.clone(), told })
            }
            RecordState::Cancelled => Err(RemoteError::Cancelled { id: last() }),
        }
    }

    /// The handle of the last attempt.
    pub fn handle(&self) -> Option<&JobHandle> {
        self.attempts.last()?.handle.as_ref()
    }
}

/// The jobs of one tenant, a folder each: `record.json`, `bundle/`, `fetched/`, `log-1.txt`.
#[derive(Debug, Clone)]
pub struct JobStore {
    folder: PathBuf,
}

/// A job that no other process attends while this is there.
#[derive(Debug)]
pub struct HeldJob {
    /// What is known of it.
    pub record: JobRecord,
    folder: PathBuf,
    _lock: File,
}

const RECORD: &str = "record.json";

impl JobStore {
    /// The jobs of the runs that wait for the approvals in `approvals`.
    pub fn beside(approvals: &Path) -> Self {
        Self { folder: runs_beside(approvals).join("jobs") }
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All of them, the newest first; those that can't be read are left out and told.
    ///
    /// # Errors
    /// [`RemoteError::Io`].
    pub fn list(&self) -> Result<Vec<JobRecord>, RemoteError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(RemoteError::io("list", &self.folder))?,
        };
        let mut records = Vec::new();
        for path in entries.flatten().map(|entry| entry.path().join(RECORD)).filter(|path| path.is_file()) {
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        records.sort_by(|a: &JobRecord, b| (b.created_at, &b.key).cmp(&(a.created_at, &a.key)));
        Ok(records)
    }

    /// The one of that name, or the only one whose name begins so.
    ///
    /// # Errors
    /// [`RemoteError::Unknown`], [`RemoteError::Io`].
    pub fn get(&self, key: &str) -> Result<JobRecord, RemoteError> {
        let mut found: Vec<_> =
            self.list()?.into_iter().filter(|record| record.key.as_str().starts_with(key)).collect();
        let exact = found.iter().position(|record| record.key.as_str() == key);
        match (exact, found.len()) {
            (Some(index), _) => Ok(found.swap_remove(index)),
            (None, 1) => Ok(found.swap_remove(0)),
            _ => Err(RemoteError::Unknown { key: key.to_owned(), folder: self.folder.clone() }),
        }
    }

    /// The folder of a job.
    pub fn folder_of(&self, key: &JobKey) -> PathBuf {
        self.folder.join(key.as_str())
    }

    /// Attends the job of `bundle`, whose record is made where there is none.
    ///
    /// # Errors
    /// [`RemoteError::Held`], [`RemoteError::Io`].
    pub fn attend(&self, bundle: &Bundle, config: &RemoteConfig, engine: &str) -> Result<HeldJob, RemoteError> {
        let folder = self.folder_of(&bundle.key);
        let lock = lock(&folder, &bundle.key)?;
        let path = folder.join(RECORD);
        let record = match path.is_file() {
            true => read(&path)?,
            false => JobRecord {
                key: bundle.key.clone(),
                digest: bundle.digest.clone(),
                tenant_id: bundle.job.tenant_id.clone(),
                name: bundle.job.name.clone(),
                provider: config.provider,
                engine: engine.to_owned(),
                state: RecordState::Open,
                created_at: Timestamp::now(),
                updated_at: Timestamp::now(),
                attempts: Vec::new(),
                options: config.given.clone(),
            },
        };
        Ok(HeldJob { record, folder, _lock: lock })
    }

    /// Attends a job that is known.
    ///
    /// # Errors
    /// [`RemoteError::Held`], [`RemoteError::Unknown`], [`RemoteError::Io`].
    pub fn hold(&self, key: &str) -> Result<HeldJob, RemoteError> {
        let record = self.get(key)?;
        let folder = self.folder_of(&record.key);
        let lock = lock(&folder, &record.key)?;
        // It may have changed while another process held it.
        Ok(HeldJob { record: read(&folder.join(RECORD))?, folder, _lock: lock })
    }
}

impl HeldJob {
    /// Changes the record, on the disk before this returns.
    ///
    /// # Errors
    /// [`RemoteError::Io`].
    pub fn change<T>(&mut self, change: impl FnOnce(&mut JobRecord) -> T) -> Result<T, RemoteError> {
        let value = change(&mut self.record);
        self.record.updated_at = Timestamp::now();
        let path = self.folder.join(RECORD);
        let io = |source| RemoteError::Io { action: "write", path: path.clone(), source };
        let text = serde_json::to_string_pretty(&self.record).map_err(|error| io(error.into()))?;
        run_dir::write_whole(&path, |file| file.write_all(text.as_bytes()))
            .map_err(|error| io(io::Error::other(error.describe())))?;
        Ok(value)
    }

    /// The job's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes the job's folder, and with it all that this host knows of it.
    ///
    /// # Errors
    /// [`RemoteError::Io`].
    pub fn remove(self) -> Result<(), RemoteError> {
        fs::remove_dir_all(&self.folder).map_err(RemoteError::io("remove", &self.folder))
    }
}

fn read(path: &Path) -> Result<JobRecord, RemoteError> {
    let text = fs::read(path).map_err(RemoteError::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| RemoteError::io("read", path)(error.into()))
}

fn lock(folder: &Path, key: &JobKey) -> Result<File, RemoteError> {
    fs::create_dir_all(folder).map_err(RemoteError::io("create", folder))?;
    let path = folder.join(".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(RemoteError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(RemoteError::Held { key: key.clone() }),
        Err(fs::TryLockError::Error(source)) => Err(RemoteError::Io { action: "lock", path, source }),
    }
}
