//! One SQLite file of batches, items and events, and beside it a journal of the same in JSON lines.

mod decide;
mod export;
mod journal;
mod read;
mod schema;
mod submit;
mod trained;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::ApprovalError;
use journal::Journal;

pub use export::Exported;
pub use read::{Cursor, Filter, Page};
pub use submit::Restored;

/// For other writers; a reviewer would look for what is wrong after that.
const PATIENCE: Duration = Duration::from_secs(5);

/// An open approval store. Any number of processes may use one at once.
#[derive(Debug)]
pub struct ApprovalStore {
    connection: Connection,
    path: PathBuf,
    journal: Journal,
}

/// Where a store's approvals are where no other place is named: `approvals.sqlite` beside the telemetry store.
pub fn store_beside(telemetry: &Path) -> PathBuf {
    telemetry.with_file_name("approvals.sqlite")
}

impl ApprovalStore {
    /// Opens the store at `path`, and makes it where there is none, with the folders above it.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn open_or_create(path: &Path) -> Result<Self, ApprovalError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|source| ApprovalError::Folder { path: folder.to_owned(), source })?;
        }
        let connection = Connection::open(path).map_err(|cause| error(path, cause))?;
        let store = Self { connection, path: path.to_owned(), journal: Journal::beside(path) };
        store.prepare()?;
        Ok(store)
    }

    /// Opens the store at `path`.
    ///
    /// # Errors
    /// [`ApprovalError::NotFound`], and those of [`ApprovalStore::open_or_create`].
    pub fn open(path: &Path) -> Result<Self, ApprovalError> {
        match path.exists() {
            true => Self::open_or_create(path),
            false => Err(ApprovalError::NotFound { path: path.to_owned() }),
        }
    }

    /// The store's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at every page of the file.
    ///
    /// # Errors
    /// [`ApprovalError::Damaged`].
    pub fn check(&self) -> Result<(), ApprovalError> {
        let found: String = self.run(|c| c.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)))?;
        match found.as_str() {
            "ok" => Ok(()),
            what => Err(ApprovalError::Damaged { path: self.path.clone(), what: what.replace('\n', " ") }),
        }
    }

    fn prepare(&self) -> Result<(), ApprovalError> {
        self.run(|connection| {
            connection.busy_timeout(PATIENCE)?;
            connection.set_prepared_statement_cache_capacity(64);
            connection.pragma_update(None, "foreign_keys", true)
        })?;
        let pragma = |name: &str| self.run(|c| c.pragma_query_value(None, name, |row| row.get::<_, i64>(0)));
        if pragma("application_id")? == 0 && pragma("user_version")? == 0 {
            // Another process may be at it: what is there is looked at again within the transaction.
            self.run(|connection| {
                connection.execute_batch("BEGIN EXCLUSIVE")?;
                let empty =
                    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
                if empty == 0 {
                    connection.execute_batch(schema::SCHEMA)?;
                    connection.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
                    connection.pragma_update(None, "user_version", schema::VERSION)?;
                }
                connection.execute_batch("COMMIT")
            })?;
        }
        match (pragma("application_id")?, pragma("user_version")?) {
            (schema::APPLICATION_ID, schema::VERSION) => {}
            (schema::APPLICATION_ID, found) => {
                return Err(ApprovalError::NewerSchema { path: self.path.clone(), found, supported: schema::VERSION });
            }
            _ => return Err(ApprovalError::NotAStore { path: self.path.clone() }),
        }
        self.run(|connection| {
            // Stays with the file; who finds it busy finds somebody who sees to it.
            let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
            if mode != "wal" {
                connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
            }
            // What was acknowledged outlives a power cut.
            connection.pragma_update(None, "synchronous", "full")
        })
    }

    /// Runs statements, and gives their errors the store's path.
    fn run<'s, T>(&'s self, work: impl FnOnce(&'s Connection) -> rusqlite::Result<T>) -> Result<T, ApprovalError> {
        work(&self.connection).map_err(|cause| error(&self.path, cause))
    }

    /// One transaction: the journal has what it did before it is committed, so that what is acknowledged is in both.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&Connection, &mut journal::Lines) -> Result<T, ApprovalError>,
    ) -> Result<T, ApprovalError> {
        let Self { connection, path, journal } = self;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|cause| error(path, cause))?;
        let mut lines = journal::Lines::default();
        let done = work(&transaction, &mut lines)?;
        let written = if lines.is_empty() { None } else { Some(journal.append(&lines)?) };
        // Not `commit`, which would let the next writer in before the journal is as it was.
        transaction.execute_batch("COMMIT").map_err(|cause| {
            if let Some(length) = written {
                journal.take_back(length);
            }
            error(path, cause)
        })?;
        Ok(done)
    }
}

fn error(path: &Path, cause: rusqlite::Error) -> ApprovalError {
    ApprovalError::of(path, PATIENCE.as_secs(), cause)
}

/// Now, in unix milliseconds.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A column of ours that is not what we write.
fn damaged(path: &Path, what: impl ToString) -> ApprovalError {
    ApprovalError::Damaged { path: path.to_owned(), what: what.to_string() }
}
