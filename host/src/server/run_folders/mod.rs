//! A tenant's run folders, read only: those that are finished, those that are being filled, and those that a stopped run left.
//!
//! - Nothing is followed out of the folder: no link, no name that is not a direct child's.
//! - What is missing or half-written is told beside what could be read.
//! - A list reads the beginning of a file for each run that it shows, and nothing of the others.

mod details;
mod files;
mod series;
mod summary;

use std::cmp::Reverse;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::Serialize;
use utoipa::ToSchema;

pub use details::{Count, LineageRow, PluginRow, RunDetails, Synthetic};
pub use series::{EvaluationPoint, Series, StepPoint, Tail};
pub use summary::{RunState, RunSummary};

use crate::config::is_folder_name;
use crate::run_dir::UNFINISHED;

/// The folder of a tenant's run folders.
#[derive(Debug, Clone)]
pub struct RunFolders {
    output_dir: PathBuf,
}

/// A run's folder, of which nothing was read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    /// What it is known by: what it is or will be called when it is finished.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
    /// Whether it has its final name.
    pub finished: bool,
    /// `YYYYMMDD_HHMMSS`
    started: String,
}

/// Some runs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RunPage {
    /// The page.
    pub runs: Vec<RunSummary>,
    /// The name after which the next page starts; none where this is the last.
    pub next: Option<String>,
    /// How many runs there are on all pages.
    pub total: usize,
}

impl RunFolders {
    /// Of `output_dir`, which need not be there yet.
    pub fn new(output_dir: &Path) -> Self {
        Self { output_dir: output_dir.to_owned() }
    }

    /// At most `limit` runs after the one called `after`, newest first.
    pub fn page(&self, after: Option<&str>, limit: usize) -> RunPage {
        page(self.all(), after, limit)
    }

    /// As [`RunFolders::page`], without those that have no adapter yet.
    pub fn adapters(&self, after: Option<&str>, limit: usize) -> RunPage {
        let mut finished = self.all();
        finished.retain(|folder| folder.finished);
        page(finished, after, limit)
    }

    /// The run of that name; `None` for a name that no run has.
    pub fn find(&self, name: &str) -> Option<RunFolder> {
        if !is_folder_name(name) {
            return None;
        }
        self.all().into_iter().find(|folder| folder.name == name)
    }

    /// All that is known of a run.
    pub fn details(&self, name: &str) -> Option<RunDetails> {
        self.find(name).map(|folder| RunDetails::read(&folder))
    }

    /// Newest first.
    fn all(&self) -> Vec<RunFolder> {
        let entries = fs::read_dir(&self.output_dir).into_iter().flatten().flatten();
        // A link is no folder here, wherever it leads.
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
        let (hidden, plain): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with('.'));
        let mut all: Vec<_> = plain
            .into_iter()
            .filter_map(|name| {
                let (started, path) = (started(&name)?.to_owned(), self.output_dir.join(&name));
                Some(RunFolder { name, path, finished: true, started })
            })
            .collect();
        for folder in hidden {
            let Some((name, _)) = folder[1..].split_once(UNFINISHED) else { continue };
            let Some(started) = started(name).map(str::to_owned) else { continue };
            // Two runs of one second: the other has the name, or will get it first.
            let taken = all.iter().any(|other| other.name == name);
            let name = if taken { &folder[1..] } else { name }.to_owned();
            all.push(RunFolder { name, path: self.output_dir.join(&folder), finished: false, started });
        }
        all.sort_by_cached_key(|folder| Reverse((folder.started.clone(), folder.name.clone())));
        all
    }
}

impl RunFolder {
    /// `{method}_{agent}`
    fn run(&self) -> &str {
        self.name.split(&format!("_{}", self.started)).next().unwrap_or(&self.name)
    }

    /// Where it stands now.
    pub fn state(&self) -> RunState {
        match (self.finished, is_locked(&self.path)) {
            (true, _) => RunState::Finished,
            (false, true) => RunState::Training,
            (false, false) => RunState::Stopped,
        }
    }
}

fn page(all: Vec<RunFolder>, after: Option<&str>, limit: usize) -> RunPage {
    let total = all.len();
    // By order rather than by place: the one that ended the page before may be gone.
    let after = after.and_then(|name| Some((started(name)?.to_owned(), name.to_owned())));
    let is_left = |folder: &RunFolder| {
        after.as_ref().is_none_or(|(started, name)| (&folder.started, &folder.name) < (started, name))
    };
    let mut left: Vec<_> = all.into_iter().filter(is_left).collect();
    let more = left.len() > limit;
    left.truncate(limit);
    let next = left.last().filter(|_| more).map(|last| last.name.clone());
    RunPage { runs: left.iter().map(RunSummary::read).collect(), next, total }
}

/// The last `_YYYYMMDD_HHMMSS` of a run's name, which `_2` can follow where two runs started in one second.
fn started(name: &str) -> Option<&str> {
    let name = name.split_once(UNFINISHED).map_or(name, |(name, _)| name);
    let is_time = |text: &&str| {
        text.len() == 15
            && text.bytes().enumerate().all(|(at, byte)| if at == 8 { byte == b'_' } else { byte.is_ascii_digit() })
    };
    let (head, number) = name.rsplit_once('_')?;
    let without_number = number.bytes().all(|byte| byte.is_ascii_digit()).then_some(head);
    [Some(name), without_number].into_iter().flatten().find_map(|name| {
        let at = name.len().checked_sub("_YYYYMMDD_HHMMSS".len())?;
        name.get(at..)?.strip_prefix('_').filter(is_time)
    })
}

/// Whether a run fills the folder. A shared lock for the time of the question is in no other question's way.
fn is_locked(path: &Path) -> bool {
    match File::open(path).map(|folder| folder.try_lock_shared()) {
        Ok(Ok(())) | Err(_) => false,
        // Where there are no locks nothing is ever taken for abandoned.
        Ok(Err(TryLockError::WouldBlock | TryLockError::Error(_))) => true,
    }
}

#[cfg(test)]
mod tests;
