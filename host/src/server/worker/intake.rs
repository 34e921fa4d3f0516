//! How an attempt comes to the worker: looked at, unpacked, compared with its digests, written down, begun.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use axum::http::StatusCode;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::Worker;
use super::folder::{JobFolder, Name, Record};
use super::process::Process;
use crate::job::{JOB_FILE, Job, sha256_of};
use crate::plugins::hex;
use crate::remote::Resources;
use crate::remote::worker::contract::{JobView, Stage, kind};
use crate::remote::worker::pack;
use crate::server::api::Problem;

/// Files of a bundle: a base model has some tens.
const MOST_FILES: usize = 10_000;
/// When a client may come again whose job finds the worker at another.
const BUSY_S: u32 = 5;
/// Of the layout of `job.json`.
const FORMAT: u32 = 1;

/// What a client wants to hand in.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) name: Name,
    pub(super) id: String,
    /// 64 hexadecimal digits.
    pub(super) digest: String,
    pub(super) resources: Resources,
}

/// What became of it.
pub(super) enum TakenOn {
    New(JobView),
    Already(JobView),
}

impl Worker {
    /// The attempt where it is there already; an error where it could not be begun now.
    pub(super) fn before(&self, wanted: &Wanted) -> Result<Option<JobView>, Problem> {
        if let Some(view) = self.same(wanted)? {
            return Ok(Some(view));
        }
        if let Some(why) = self.machine.refuses(&wanted.resources) {
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, kind::UNSCHEDULABLE, "No such machine", why));
        }
        self.is_free().map(|()| None)
    }

    /// Whether a bundle of that name is there.
    pub(super) fn has_bundle(&self, name: &Name) -> bool {
        self.folder(&name.key).bundle().join(JOB_FILE).is_file()
    }

    /// Takes it on: with the bundle in `packed`, or with the one that is there.
    pub(super) fn take_on(self: &Arc<Self>, wanted: &Wanted, packed: Option<File>) -> Result<TakenOn, Problem> {
        let place = match packed {
            None => None,
            Some(packed) => Some(self.unpacked(wanted, packed)?),
        };
        let folder = self.folder(&wanted.name.key);
        let job = job(place.as_ref().map_or(&folder.bundle(), |place| place.path()), wanted)?;
        // From here on one at a time: two requests for the same attempt begin one.
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = self.same(wanted)? {
            return Ok(TakenOn::Already(view));
        }
        self.is_free()?;
        if let Some(place) = place {
            self.install(&folder, place.path()).map_err(disk)?;
        }
        let view = self.begin(wanted, &folder, &job)?;
        drop(begun);
        Ok(TakenOn::New(view))
    }

    fn same(&self, wanted: &Wanted) -> Result<Option<JobView>, Problem> {
        match self.view(&wanted.name).map_err(disk)? {
            Some(view) if view.digest != wanted.digest => Err(conflict(&view.digest)),
            view => Ok(view),
        }
    }

    fn is_free(&self) -> Result<(), Problem> {
        let state = self.state();
        if state.stopping {
            let detail = "the worker is being shut down";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, kind::BUSY, "The worker ends", detail);
            return Err(problem.after(BUSY_S));
        }
        match &state.running {
            None => Ok(()),
            Some(running) => {
                let detail = format!("the worker is at job `{}`, and does one at a time", running.record.id);
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, kind::BUSY, "The worker is busy", detail);
                Err(problem.after(BUSY_S))
            }
        }
    }

    fn unpacked(&self, wanted: &Wanted, packed: File) -> Result<tempfile::TempDir, Problem> {
        let place = tempfile::tempdir_in(self.incoming()).map_err(disk)?;
        let limits = pack::Limits { bytes: self.access.max_bundle, entries: MOST_FILES };
        pack::unpack(packed, place.path(), limits).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => bad_bundle(format!("the bundle can't be unpacked: {error}")),
            _ => disk(error),
        })?;
        let job = job(place.path(), wanted)?;
        for (path, want) in &job.files {
            match sha256_of(&place.path().join(path)) {
                Err(_) => return Err(bad_bundle(format!("the bundle has no `{path}`"))),
                Ok(is) if is != *want => {
                    return Err(bad_bundle(format!("`{path}` is not the one that `{JOB_FILE}` names")));
                }
                Ok(_) => {}
            }
        }
        Ok(place)
    }

    /// The bundle is there whole, or not at all.
    fn install(&self, folder: &JobFolder, place: &Path) -> io::Result<()> {
        fs::create_dir_all(folder.path())?;
        match fs::rename(place, folder.bundle()) {
            // The same bytes, by its digest; that of an attempt before.
            Err(_) if folder.bundle().join(JOB_FILE).is_file() => Ok(()),
            renamed => renamed,
        }
    }

    fn begin(self: &Arc<Self>, wanted: &Wanted, folder: &JobFolder, job: &Job) -> Result<JobView, Problem> {
        let Wanted { name, id, digest, .. } = wanted;
        let record = Record {
            id: id.clone(),
            digest: digest.clone(),
            state: Stage::Queued,
            submitted_at: Timestamp::now(),
            timeout_s: job.timeout_s,
            cancel_asked: false,
            exit_code: None,
            failure: None,
        };
        fs::create_dir_all(folder.out()).and_then(|()| folder.forget_failure()).map_err(disk)?;
        folder.write(name.attempt, &record).map_err(disk)?;
        match Process::start(&self.access.program, folder, name) {
            Ok(process) => {
                tracing::info!("job `{id}` begins");
                self.attend(name.clone(), record.clone(), process);
                Ok(folder.view(name.attempt, Record { state: Stage::Running, ..record }))
            }
            Err(error) => {
                // Not begun, and so not there: the same request may be made again.
                let _ = folder.forget(name.attempt);
                Err(match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        let detail = "a trainer of an earlier attempt still writes into this job's folder";
                        let problem =
                            Problem::new(StatusCode::TOO_MANY_REQUESTS, kind::BUSY, "The worker is busy", detail);
                        problem.after(BUSY_S)
                    }
                    _ => disk(error),
                })
            }
        }
    }
}

/// The job of a bundle, which must be the one that was announced.
fn job(bundle: &Path, wanted: &Wanted) -> Result<Job, Problem> {
    let bytes = fs::read(bundle.join(JOB_FILE))
        .map_err(|error| bad_bundle(format!("the bundle has no `{JOB_FILE}` ({error})")))?;
    let digest = hex(&Sha256::digest(&bytes));
    if digest != wanted.digest {
        // By its name a job has 20 digits of it.
        return Err(match wanted.digest.get(..20) == digest.get(..20) {
            true => conflict(&digest),
            false => bad_bundle(format!("`{JOB_FILE}` is not the one whose digest was announced")),
        });
    }
    let job: Job = serde_json::from_slice(&bytes).map_err(|error| {
        let version = env!("CARGO_PKG_VERSION");
        bad_bundle(format!("`{JOB_FILE}` is none that tunesmith {version} of this worker understands: {error}"))
    })?;
    if job.format != FORMAT {
        return Err(bad_bundle(format!(
            "`{JOB_FILE}` has format {}, and this worker understands {FORMAT}",
            job.format
        )));
    }
    match wanted.name.key.ends_with(&format!("-{}", &digest[..20])) {
        true => Ok(job),
        false => Err(bad_bundle(format!("job `{}` is not named by the digest of its bundle", wanted.id))),
    }
}

fn bad_bundle(detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, kind::BAD_BUNDLE, "Not a bundle", detail)
}

fn conflict(digest: &str) -> Problem {
    let detail = format!("its digest is {digest}");
    Problem::new(StatusCode::CONFLICT, kind::CONFLICT, "Another bundle", detail)
}

/// A file of the worker's own.
pub(super) fn disk(error: io::Error) -> Problem {
    tracing::error!("jobs: {error}");
    let detail = format!("the worker can't use its folder of jobs ({error})");
    let (status, kind) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (StatusCode::INSUFFICIENT_STORAGE, "full"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "disk"),
    };
    Problem::new(status, kind, "The worker's disk", detail)
}
