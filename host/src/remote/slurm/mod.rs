//! Slurm, by its own programs: their options and texts have been the same for ten years, which its REST schemas have not.
//!
//! The bundle and what the job leaves lie in the artefact store, a folder that this host, the login node and all machines have at the
//! same path: nothing is copied. Slurm forgets a job some minutes after its end; then the folder tells how it ended.
//!
//! ```toml
//! backend = "remote"
//! backend_provider = "slurm"
//! gpu = "A100"                                  # --gres=gpu:a100:1
//! [remote]
//! artefacts = "file:///shared/tunesmith"        # at the same path everywhere
//! [remote.slurm]                                # all of it optional
//! ssh = "me@login"
//! partition = "gpu"
//! ```

mod command;
mod script;
mod state;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use jiff::Timestamp;

pub(super) use self::command::quoted;

use self::command::Programs;
use self::script::Folder;
use self::state::Told;
use super::{
    Capabilities, JobFiles, JobHandle, JobState, JobStatus, LogChunk, RemoteError, Resources, Submission,
    TrainingBackend,
};
use crate::artefacts::ArtefactStore;
use crate::config::{RemoteConfig, SlurmOptions};
use crate::job::{Failure, FailureKind, JobId};

/// As much of a log as is read at once.
const LOG_PIECE: u64 = 1 << 20;

/// How the states of machines begin that run jobs, or will once others have ended.
const IS_THERE: [&str; 7] = ["idle", "mix", "alloc", "comp", "resv", "plnd", "maint"];

/// A Slurm cluster.
pub(super) struct Slurm {
    programs: Programs,
    options: SlurmOptions,
    store: ArtefactStore,
}

/// A job that Slurm has by a name.
struct Named {
    handle: JobHandle,
    comment: String,
}

impl Slurm {
    /// The cluster that this machine, or the login node, belongs to.
    ///
    /// # Errors
    /// [`RemoteError::Config`] where the artefact store is no folder, and where a tenant of an operator would run programs of its own.
    pub(super) fn new(config: &RemoteConfig) -> Result<Self, RemoteError> {
        let SlurmOptions { ssh_args, sbatch_args, setup, .. } = &config.slurm;
        let own_programs = [
            ("remote.slurm.ssh_args", !ssh_args.is_empty()),
            ("remote.slurm.sbatch_args", !sbatch_args.is_empty()),
            ("remote.slurm.setup", setup.is_some()),
        ];
        if let Some((key, _)) = own_programs.into_iter().find(|(_, is_set)| *is_set && !config.secrets_of_environment) {
            let message = "runs programs as the operator's user, which is not for tenants: leave it out".to_owned();
            return Err(RemoteError::Config { key, message });
        }
        let store = match &config.artefacts {
            Some(url) => Some(ArtefactStore::open(url, config.secrets_of_environment)?),
            None => None,
        };
        let store = store.filter(|store| store.local_folder().is_some()).ok_or_else(|| RemoteError::Config {
            key: "remote.artefacts",
            message: "Slurm's jobs work in a folder: name one that this host, the login node and all machines have at the same \
                      path, as `file:///shared/tunesmith`"
                .to_owned(),
        })?;
        Ok(Self { programs: Programs::new(&config.slurm), options: config.slurm.clone(), store })
    }

    fn run<const N: usize>(&self, program: &str, args: [&str; N]) -> Result<String, RemoteError> {
        self.programs.run(program, &args.map(str::to_owned), "")
    }

    /// By its name: should it have been handed in twice, both.
    fn end(&self, id: &JobId) -> Result<(), RemoteError> {
        self.run("scancel", ["--me", format!("--name={id}").as_str()]).map(drop)
    }

    fn files(&self, id: &JobId) -> JobFiles {
        JobFiles::new(&self.store, &id.key)
    }

    fn folder(&self, id: &JobId) -> Folder {
        // `new` has seen that there is one.
        Folder(self.store.local_folder().unwrap_or_default().join(id.key.as_str()))
    }

    /// The newest job of that name, one that goes on before one that has ended.
    fn named(&self, id: &JobId) -> Result<Option<Named>, RemoteError> {
        let name = format!("--name={id}");
        let format = "--format=%i|%T|%k";
        let jobs = self.run("squeue", ["--noheader", "--me", "--states=all", name.as_str(), format])?;
        let mut found: Vec<_> = jobs.lines().filter_map(|line| read_job(id, line)).collect();
        found.sort_by_key(|(number, is_over, _)| (!is_over, *number));
        Ok(found.pop().map(|(_, _, named)| named))
    }

    /// Where a job stands that Slurm does not know any more: by what it left.
    fn forgotten(&self, handle: &JobHandle) -> Result<JobState, RemoteError> {
        let files = self.files(&handle.id);
        if files.has_result()? {
            return Ok(JobState::Succeeded);
        }
        let nothing = Failure { kind: FailureKind::Unknown, exit_code: None, message: String::new() };
        let left = files.failure(nothing)?;
        if !left.message.is_empty() {
            return Ok(JobState::Failed(left));
        }
        // Only clusters with a database remember more.
        let args = ["--noheader", "--parsable2", "--allocations", "--format=JobName%80,State,ExitCode", "--jobs"];
        let [a, b, c, d, e] = args;
        let remembered = self.run("sacct", [a, b, c, d, e, &handle.native]).unwrap_or_default();
        let remembered = remembered.lines().find_map(|line| {
            let [name, state, code] = line.split('|').collect::<Vec<_>>().try_into().ok()?;
            // It has spaces in its state alone.
            Told::read(&format!("JobName={name} JobState={} ExitCode={code}", state.replace(' ', "+")))
        });
        match remembered.filter(|told| told.name == handle.id.to_string()) {
            Some(told) => Ok(told.state()),
            None => Err(RemoteError::NotFound { engine: self.describe(), id: handle.id.clone() }),
        }
    }
}

impl TrainingBackend for Slurm {
    fn describe(&self) -> String {
        self.programs.describe()
    }

    fn probe(&self, resources: &Resources) -> Result<Capabilities, RemoteError> {
        let version = self.run("sinfo", ["--version"])?.trim().to_owned();
        let mut args = vec!["--test-only".to_owned(), "--time=1".to_owned()];
        args.extend(script::machines(&self.options, resources));
        let tested = self.programs.run("sbatch", &args, "#!/bin/bash\n");

        let (mut gpus, mut notes) = (Vec::new(), Vec::new());
        let mut all_there = true;
        for line in self.run("sinfo", ["--noheader", "--format=%P|%D|%t|%G"])?.lines() {
            let [partition, nodes, state, gres] = line.split('|').collect::<Vec<_>>()[..] else { continue };
            notes.push(format!("partition {partition}: {nodes} {state}, {gres}"));
            gpus.extend(gres.split(',').filter_map(gpu_kind));
            all_there &= IS_THERE.iter().any(|there| state.starts_with(there));
        }
        match tested {
            // It says the same of machines that are away for a while.
            Err(RemoteError::Unschedulable { message, .. }) if !all_there => notes.push(message),
            tested => drop(tested?),
        }
        gpus.sort();
        gpus.dedup();
        Ok(Capabilities { version: Some(version), gpus, notes })
    }

    fn submit(&self, attempt: &Submission<'_>) -> Result<JobHandle, RemoteError> {
        let id = &attempt.id;
        if let Some(Named { handle, comment }) = self.named(id)? {
            if comment == attempt.bundle.digest {
                return Ok(handle);
            }
            let message = format!("number {}, with the comment `{comment}`", handle.native);
            return Err(RemoteError::Conflict { engine: self.describe(), id: id.clone(), message });
        }
        let files = self.files(id);
        files.upload(attempt.bundle)?;
        files.forget_failure()?;
        let folder = self.folder(id);
        let args = script::arguments(&self.options, attempt, &folder);
        let answer = self.programs.run("sbatch", &args, &script::script(&self.options, attempt, &folder))?;
        // `7`, or `7;cluster`
        let native = answer.trim().split(';').next().unwrap_or_default().to_owned();
        if native.parse::<u64>().is_err() {
            let message = format!("`sbatch` wrote `{}` for a job's number", answer.trim());
            return Err(RemoteError::Protocol { engine: self.describe(), message });
        }
        Ok(handle(id, native))
    }

    fn find(&self, id: &JobId) -> Result<Option<JobHandle>, RemoteError> {
        Ok(self.named(id)?.map(|named| named.handle))
    }

    fn status(&self, handle: &JobHandle) -> Result<JobStatus, RemoteError> {
        let told = match self.run("scontrol", ["show", "job", "--oneliner", &handle.native]) {
            Ok(line) => Told::read(&line),
            Err(RemoteError::Refused { message, .. }) if message.contains("Invalid job id") => None,
            Err(error) => return Err(error),
        };
        // A cluster that was set up anew counts from 1 again.
        let told = told.filter(|told| told.name == handle.id.to_string());
        let state = match told {
            None => self.forgotten(handle)?,
            Some(told) => match told.state() {
                JobState::Failed(failure) if failure.kind == FailureKind::Unschedulable && told.state == "PENDING" => {
                    // It would wait for ever; its reason stays with it.
                    self.cancel(handle)?;
                    JobState::Failed(failure)
                }
                // What it says of its own end says more, where it had the time.
                JobState::Failed(failure) if failure.exit_code.is_some() => {
                    JobState::Failed(self.files(&handle.id).failure(failure)?)
                }
                state => state,
            },
        };
        Ok(JobStatus { state, heartbeat: self.files(&handle.id).heartbeat(&handle.id)? })
    }

    fn logs(&self, handle: &JobHandle, from: u64) -> Result<LogChunk, RemoteError> {
        let path = self.folder(&handle.id).log(handle.id.attempt);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(LogChunk { bytes: Vec::new(), next: from });
            }
            Err(error) => return Err(RemoteError::io("read", &path)(error)),
        };
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(from)).and_then(|_| file.take(LOG_PIECE).read_to_end(&mut bytes));
        let n = read.map_err(RemoteError::io("read", &path))?;
        Ok(LogChunk { bytes, next: from + n as u64 })
    }

    fn cancel(&self, handle: &JobHandle) -> Result<(), RemoteError> {
        self.end(&handle.id)
    }

    fn fetch(&self, handle: &JobHandle, into: &Path) -> Result<(), RemoteError> {
        self.files(&handle.id).fetch(&handle.id, into)
    }

    fn cleanup(&self, id: &JobId) -> Result<(), RemoteError> {
        self.end(id)?;
        self.files(id).remove()
    }
}

fn handle(id: &JobId, native: String) -> JobHandle {
    JobHandle { id: id.clone(), native, submitted_at: Timestamp::now() }
}

/// `7|RUNNING|comment`
fn read_job(id: &JobId, line: &str) -> Option<(u64, bool, Named)> {
    let mut fields = line.splitn(3, '|');
    let (native, state, comment) = (fields.next()?, fields.next()?, fields.next()?);
    let is_over = !matches!(state, "PENDING" | "CONFIGURING" | "RUNNING" | "COMPLETING" | "SUSPENDED");
    let named = Named { handle: handle(id, native.to_owned()), comment: comment.to_owned() };
    Some((native.parse().ok()?, is_over, named))
}

/// `gpu:a100:4(S:0-1)` has `a100`.
fn gpu_kind(gres: &str) -> Option<String> {
    let fields: Vec<_> = gres.split('(').next()?.split(':').collect();
    match fields[..] {
        ["gpu", kind, _] => Some(kind.to_owned()),
        _ => None,
    }
}
