//! The journal: every batch, item and event as a line of JSON, on the disk before its transaction is. A store whose file is
//! damaged is made again from it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ApprovalError;
use crate::approval::{Content, Event, Near, Parent};

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    Batch(BatchRecord),
    Item(ItemRecord),
    Event(Event),
}

/// A row of `batches`, with its held-out contents.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BatchRecord {
    pub(super) id: i64,
    pub(super) project: String,
    pub(super) agent_type: String,
    pub(super) run: Option<String>,
    pub(super) generator: String,
    pub(super) model: Option<String>,
    pub(super) created_at_ms: i64,
    pub(super) expires_at_ms: Option<i64>,
    pub(super) parents: Vec<Parent>,
    pub(super) held_out: Vec<Content>,
}

/// A row of `items`, as it was submitted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ItemRecord {
    pub(super) id: i64,
    pub(super) batch: i64,
    pub(super) original: Content,
    pub(super) parents: Vec<usize>,
    pub(super) prompt_sha256: String,
    pub(super) seed: u64,
    pub(super) near: Vec<Near>,
}

/// What a transaction adds.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, record: &Record) {
        // Our own types: none of them has what JSON has not.
        let _ = serde_json::to_writer(&mut self.0, record);
        self.0.push(b'\n');
    }
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
}

impl Journal {
    pub(super) fn beside(store: &Path) -> Self {
        Self { path: store.with_extension("journal.jsonl") }
    }

    /// Whether it is the file at `path`.
    pub(super) fn is(&self, path: &Path) -> bool {
        matches!((self.path.canonicalize(), path.canonicalize()), (Ok(own), Ok(other)) if own == other)
    }

    /// Adds lines, and returns how long the file was before. Writers come one at a time: they hold the store's lock.
    pub(super) fn append(&self, lines: &Lines) -> Result<u64, ApprovalError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ApprovalError::Full { path: self.path.clone() }
            }
            _ => ApprovalError::Journal { path: self.path.clone(), source },
        };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&self.path).map_err(failed)?;
        let before = file.metadata().map_err(failed)?.len();
        let appended = ends_in_line(&mut file, before).and_then(|whole| {
            if !whole {
                file.write_all(b"\n")?; // what a killed writer left unfinished
            }
            file.write_all(&lines.0)?;
            file.sync_data()
        });
        appended.map_err(|source| {
            let _ = file.set_len(before);
            failed(source)
        })?;
        Ok(before)
    }

    /// Takes back what was added for a transaction that was not committed.
    pub(super) fn take_back(&self, length: u64) {
        if let Err(error) = OpenOptions::new().write(true).open(&self.path).and_then(|file| file.set_len(length)) {
            tracing::warn!("`{}` has lines of decisions that were not taken: {error}", self.path.display());
        }
    }
}

fn ends_in_line(file: &mut File, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(length - 1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The records of a journal, and how many lines are none: those that a killed writer left unfinished.
pub(super) fn read(path: &Path) -> Result<(Vec<Record>, usize), ApprovalError> {
    let failed = |source| ApprovalError::Journal { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let (mut records, mut broken) = (Vec::new(), 0);
    // Bytes: what is damaged need not be text.
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(failed)?;
        match serde_json::from_slice(&line) {
            Ok(record) => records.push(record),
            Err(_) if line.trim_ascii().is_empty() => {}
            Err(_) => broken += 1,
        }
    }
    Ok((records, broken))
}
