//! The self-hosted worker: jobs of other hosts, one at a time, by this binary's own `train`. `remote/worker/contract.rs` is
//! what it is asked.
//!
//! - It runs no program that was handed in, and unpacks nothing outside the folder of the job.
//! - One trainer writes into a job's folder: it holds a lock as long as it lives, and a server that was started again finds it by that.
//! - What is not written down has not happened: an attempt is on the disk before its process is started.

mod artifact;
mod attend;
mod folder;
mod intake;
mod machine;
mod process;
mod routes;

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq;

use super::error::ServerError;
use super::token;
use crate::remote::worker::contract::JobView;
use folder::{JobFolder, Name, Record};
use machine::Machine;
use process::Process;

pub(super) use routes::router;

/// Of the folders of jobs, where bundles are until they are whole.
const INCOMING: &str = "incoming";

/// A worker, as the operator describes it.
#[derive(Debug, Clone)]
pub struct WorkerAccess {
    /// Where jobs are kept.
    pub jobs_dir: PathBuf,
    /// Of the token that its clients send.
    pub token_sha256: [u8; 32],
    /// Bytes of a bundle, unpacked.
    pub max_bundle: u64,
    /// What trains: this binary.
    pub program: PathBuf,
}

/// A worker that serves.
pub(super) struct Worker {
    access: WorkerAccess,
    machine: Machine,
    state: Mutex<State>,
    /// Held while an attempt is begun.
    begun: Mutex<()>,
    /// Told when nothing runs any more.
    idle: Condvar,
    /// No other process serves this folder.
    _lock: File,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// Nothing is begun any more, and what runs is to end.
    stopping: bool,
}

/// The attempt that runs.
struct Running {
    name: Name,
    record: Record,
}

impl Worker {
    /// Takes the folder, and takes up what a process before this one has left running.
    ///
    /// # Errors
    /// [`ServerError::Jobs`].
    pub(super) fn open(mut access: WorkerAccess) -> Result<Arc<Self>, ServerError> {
        let failed = |what| {
            let path = access.jobs_dir.clone();
            move |source| ServerError::Jobs { what, path, source }
        };
        fs::create_dir_all(access.jobs_dir.join(INCOMING)).map_err(failed("make"))?;
        // Trainers are found by the arguments that they were started with.
        let jobs_dir = access.jobs_dir.canonicalize().map_err(failed("use"))?;
        let lock = File::options().write(true).create(true).truncate(false).open(jobs_dir.join("worker.lock"));
        let lock = lock.map_err(failed("use"))?;
        if lock.try_lock().is_err() {
            let source = io::Error::other("another `serve --worker` has it");
            return Err(ServerError::Jobs { what: "use", path: access.jobs_dir, source });
        }
        access.jobs_dir = jobs_dir;
        let (state, begun) = (Mutex::default(), Mutex::default());
        let worker = Self { access, machine: Machine::here(), state, begun, idle: Condvar::new(), _lock: lock };
        let worker = Arc::new(worker);
        worker.empty_incoming();
        worker.take_up();
        Ok(worker)
    }

    /// Whether this is the token of its clients. How long the answer takes does not depend on it.
    fn knows(&self, given: &str) -> bool {
        token::sha256(given).ct_eq(&self.access.token_sha256).into()
    }

    fn folder(&self, key: &str) -> JobFolder {
        JobFolder::new(&self.access.jobs_dir, key)
    }

    fn incoming(&self) -> PathBuf {
        self.access.jobs_dir.join(INCOMING)
    }

    /// Nothing that panics holds it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt as it stands, where there is one.
    fn view(&self, name: &Name) -> io::Result<Option<JobView>> {
        let folder = self.folder(&name.key);
        Ok(folder.record(name.attempt)?.map(|record| folder.view(name.attempt, record)))
    }

    /// Asks for the end of an attempt, where it runs.
    fn cancel(&self, name: &Name) -> io::Result<Option<JobView>> {
        {
            let mut state = self.state();
            if let Some(running) = state.running.as_mut().filter(|running| running.name == *name) {
                running.record.cancel_asked = true;
                self.folder(&name.key).write(name.attempt, &running.record)?;
            }
        }
        self.view(name)
    }

    /// Begins nothing any more, and asks what runs to save its state and end.
    pub(super) fn stop(&self) {
        self.state().stopping = true;
    }

    /// Waits for the end of what runs.
    pub(super) fn join(&self) {
        self.stop();
        let state = self.state();
        drop(self.idle.wait_while(state, |state| state.running.is_some()));
    }

    /// What broke off in the middle.
    fn empty_incoming(&self) {
        for entry in fs::read_dir(self.incoming()).into_iter().flatten().flatten() {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = removed {
                tracing::warn!("`{}` cannot be removed: {error}", path.display());
            }
        }
    }

    /// Attempts that had not ended: one whose trainer lives goes on, the others were lost with the process that served them.
    fn take_up(self: &Arc<Self>) {
        let entries = fs::read_dir(&self.access.jobs_dir).into_iter().flatten().flatten();
        for key in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            let folder = self.folder(&key);
            for (attempt, record) in folder.unfinished() {
                let name = Name { key: key.clone(), attempt };
                match Process::find(&folder, attempt) {
                    Ok(Some(process)) if self.state().running.is_none() => {
                        tracing::info!("job `{}` is still running", record.id);
                        self.attend(name, record, process);
                    }
                    Ok(_) => self.note_lost(&folder, attempt, record),
                    Err(error) => tracing::error!("job `{}`: {error}", record.id),
                }
            }
        }
    }
}
