//! The trainer's process: started, found again, told to end.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command};

use super::folder::{JobFolder, Name};
use crate::job::JOB_FILE;

/// A trainer at work.
pub(super) enum Process {
    /// Started by this process.
    Own(Child),
    /// By one before it: its lock tells whether it lives.
    Found {
        /// The other end of what it holds.
        lock: File,
        /// What it was started with.
        args: Vec<String>,
    },
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its exit code, or 128 and the signal.
    Code(i32),
    /// Nobody was there to see it.
    Unseen,
}

fn args(folder: &JobFolder, attempt: u32) -> Vec<String> {
    let shown = |path: &Path| path.display().to_string();
    let (job, out) = (shown(&folder.bundle().join(JOB_FILE)), shown(&folder.out()));
    ["-v", "train", "--job", &job, "--out", &out, "--attempt", &attempt.to_string()].map(str::to_owned).to_vec()
}

impl Process {
    /// Starts it. The lock is its standard input: it is held as long as the trainer lives, whatever becomes of this process.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where a trainer is at this folder already.
    pub(super) fn start(program: &Path, folder: &JobFolder, name: &Name) -> io::Result<Self> {
        let lock = folder.lock()?;
        lock.try_lock().map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
        let log = File::options().append(true).create(true).open(folder.log(name.attempt))?;
        let mut command = Command::new(program);
        command.args(args(folder, name.attempt)).current_dir(folder.path());
        command.stdin(lock).stdout(log.try_clone()?).stderr(log);
        // What it is to do is in `job.json`, and nothing of how this server was started.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_ours) {
                command.env_remove(name);
            }
        }
        // A Ctrl-C that is meant for the server is told to it by the server, with time to save its state.
        command.process_group(0);
        Ok(Self::Own(command.spawn()?))
    }

    /// The one that a server before this one has started, where it still lives.
    pub(super) fn find(folder: &JobFolder, attempt: u32) -> io::Result<Option<Self>> {
        let lock = folder.lock()?;
        match lock.try_lock() {
            Ok(()) => Ok(None),
            Err(_) => Ok(Some(Self::Found { lock, args: args(folder, attempt) })),
        }
    }

    /// How it ended, where it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<Ended>> {
        match self {
            Self::Own(child) => Ok(child.try_wait()?.map(|status| {
                let signal = status.signal().map(|signal| 128 + signal);
                Ended::Code(status.code().or(signal).unwrap_or(-1))
            })),
            Self::Found { lock, .. } => Ok(lock.try_lock().is_ok().then_some(Ended::Unseen)),
        }
    }

    pub(super) fn signal(&self, signal: libc::c_int) {
        let pid = match self {
            Self::Own(child) => Some(child.id()),
            Self::Found { args, .. } => pid_of(args),
        };
        if let Some(pid) = pid.and_then(|pid| libc::pid_t::try_from(pid).ok()) {
            // SAFETY: a plain system call. The process is a child that has not been waited for, or was just seen with our arguments.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

/// Settings, and where a launcher's processes find each other: a trainer here is alone.
fn is_ours(name: &str) -> bool {
    name.starts_with("TUNESMITH_") || ["RANK", "WORLD_SIZE", "LOCAL_RANK"].contains(&name) || name.starts_with("SLURM_")
}

/// The process that was started with `args`, whatever its program.
fn pid_of(args: &[String]) -> Option<u32> {
    let tail: Vec<u8> = args.iter().flat_map(|arg| arg.bytes().chain([0])).collect();
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(&tail));
    pids.into_iter().find(is_it)
}
