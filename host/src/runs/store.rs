use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{RunRecord, RunState, RunsError, WaitsFor};
use crate::config::{Options, RunConfig};

/// The records of runs in one folder.
#[derive(Debug, Clone)]
pub struct RunStore {
    folder: PathBuf,
}

/// A run that no other process goes on with while this is there.
#[derive(Debug)]
pub struct HeldRun {
    store: RunStore,
    record: RunRecord,
    _lock: File,
}

/// Where the runs are that wait for the approvals in `approvals`.
pub fn runs_beside(approvals: &Path) -> PathBuf {
    approvals.with_file_name("runs")
}

impl RunStore {
    /// The records in `folder`, which is made with the first of them.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// All of them, the newest first, those that cannot be read left out and told.
    ///
    /// # Errors
    /// [`RunsError::Io`].
    pub fn list(&self) -> Result<Vec<RunRecord>, RunsError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(RunsError::Io { path: self.folder.clone(), source }),
        };
        let mut records = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "json") {
                match read(&path) {
                    Ok(record) => records.push(record),
                    Err(error) => tracing::warn!("{error}"),
                }
            }
        }
        records.sort_by(|a: &RunRecord, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Ok(records)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`RunsError`].
    pub fn get(&self, id: &str) -> Result<RunRecord, RunsError> {
        match self.path(id) {
            Some(path) if path.is_file() => read(&path),
            _ => Err(RunsError::Unknown { id: id.to_owned(), folder: self.folder.clone() }),
        }
    }

    /// Whether a process goes on with the run at this moment.
    pub fn is_held(&self, id: &str) -> bool {
        let lock = self.path(id).and_then(|_| File::open(self.lock_path(id)).ok());
        lock.is_some_and(|lock| lock.try_lock().is_err())
    }

    /// The run of the same settings that has not finished yet, where there is one.
    ///
    /// # Errors
    /// [`RunsError::Held`] where another process is at it, [`RunsError::Io`].
    pub fn unfinished(&self, config: &RunConfig, options: &Options) -> Result<Option<HeldRun>, RunsError> {
        let (options, plugin_sources) = (options.from_root(), options.plugins.sources.clone());
        let same = |record: &RunRecord| {
            !matches!(record.state, RunState::Finished { .. })
                && record.tenant_id == config.tenant_id
                && record.options == options
                && record.plugin_sources == plugin_sources
        };
        self.list()?.into_iter().find(same).map(|record| self.hold(&record.id)).transpose()
    }

    /// Begins a run of `options`, which `config` was made of.
    ///
    /// # Errors
    /// [`RunsError::Io`].
    pub fn begin(&self, config: &RunConfig, options: &Options) -> Result<HeldRun, RunsError> {
        let (options, plugin_sources) = (options.from_root(), options.plugins.sources.clone());
        let now = Timestamp::now();
        let stem = format!("{}_{}", config.agent_type, now.strftime("%Y%m%d_%H%M%S"));
        fs::create_dir_all(&self.folder).map_err(|source| RunsError::Io { path: self.folder.clone(), source })?;
        for n in 1u32.. {
            let id = if n == 1 { stem.clone() } else { format!("{stem}_{n}") };
            let path = self.lock_path(&id);
            let lock = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                lock => lock.map_err(|source| RunsError::Io { path: path.clone(), source })?,
            };
            lock.lock().map_err(|source| RunsError::Io { path, source })?;
            let record = RunRecord {
                id,
                state: RunState::Running,
                created_at: now,
                updated_at: now,
                tenant_id: config.tenant_id.clone(),
                agent_type: config.agent_type.clone(),
                waits_for: None,
                plugin_sources,
                options,
            };
            // It is written once it waits for something.
            return Ok(HeldRun { store: self.clone(), record, _lock: lock });
        }
        unreachable!("four billion runs within one second")
    }

    /// Takes up a run that nobody goes on with.
    ///
    /// # Errors
    /// [`RunsError::Unknown`], [`RunsError::Held`].
    pub fn hold(&self, id: &str) -> Result<HeldRun, RunsError> {
        self.get(id)?;
        let path = self.lock_path(id);
        let failed = |source| RunsError::Io { path: path.clone(), source };
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match lock.try_lock() {
            // What another process wrote before it let go.
            Ok(()) => Ok(HeldRun { store: self.clone(), record: self.get(id)?, _lock: lock }),
            Err(_) => Err(RunsError::Held { id: id.to_owned() }),
        }
    }

    /// The file of a run; none for a name that is no run's.
    fn path(&self, id: &str) -> Option<PathBuf> {
        crate::config::is_folder_name(id).then(|| self.folder.join(format!("{id}.json")))
    }

    /// Of a run whose name is one.
    fn lock_path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.lock"))
    }

    fn write(&self, record: &RunRecord) -> Result<(), RunsError> {
        let path = self.folder.join(format!("{}.json", record.id));
        let text = serde_json::to_vec_pretty(record);
        let text = text.map_err(|source| RunsError::Damaged { path: path.clone(), source })?;
        let written = tempfile::NamedTempFile::new_in(&self.folder).and_then(|mut file| {
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(&self.folder)?.sync_all()
        });
        written.map_err(|source| RunsError::Io { path, source })
    }
}

impl HeldRun {
    /// The record.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// Its settings.
    pub fn options(&self) -> Options {
        let mut options = self.record.options.clone();
        options.plugins.sources = self.record.plugin_sources.clone();
        options
    }

    /// Notes what it waits for; from then on it is there to be resumed.
    ///
    /// # Errors
    /// [`RunsError::Io`].
    pub fn wait(&mut self, waits_for: WaitsFor) -> Result<(), RunsError> {
        self.record.waits_for = Some(waits_for);
        self.note(RunState::Waiting)
    }

    /// Notes that it goes on, or how it ended.
    ///
    /// # Errors
    /// [`RunsError::Io`].
    pub fn note(&mut self, state: RunState) -> Result<(), RunsError> {
        self.record.state = state;
        self.record.updated_at = Timestamp::now();
        self.store.write(&self.record)
    }
}

impl Drop for HeldRun {
    /// One that came to nothing before it waited leaves nothing.
    fn drop(&mut self) {
        if self.record.waits_for.is_none() {
            let _ = fs::remove_file(self.store.lock_path(&self.record.id));
        }
    }
}

fn read(path: &Path) -> Result<RunRecord, RunsError> {
    let text = fs::read(path).map_err(|source| RunsError::Io { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| RunsError::Damaged { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_an_agent_with_a_dot_in_its_name_is_held_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = RunStore::new(folder.path().join("runs"));
        let mut options = Options { agent_type: Some("acme.routing".to_owned()), ..Options::default() };
        options.telemetry.store = Some(folder.path().join("telemetry.sqlite"));
        let agent = "instruction = \"Route\"\nmatch = [{ name = \"route\" }]";
        options.agents.insert("acme.routing".to_owned(), toml::from_str(agent).unwrap());
        let config = RunConfig::new(options.clone()).unwrap();
        let mut held = store.begin(&config, &options).unwrap();
        held.note(RunState::Running).unwrap();
        let id = held.record().id.clone();
        assert!(store.is_held(&id));
        assert!(matches!(store.hold(&id), Err(RunsError::Held { .. })));
        assert!(matches!(store.unfinished(&config, &options), Err(RunsError::Held { .. })));
        drop(held);
        assert!(!store.is_held(&id));
        assert_eq!(store.unfinished(&config, &options).unwrap().unwrap().record().id, id);
    }
}
