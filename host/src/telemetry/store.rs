//! The embedded telemetry store: one SQLite file of projects, spans and annotations.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension};
use sha2::{Digest, Sha256};

use super::TelemetryError;

/// An open telemetry store. One process may read while another imports (WAL).
#[derive(Debug)]
pub struct TelemetryStore {
    pub(super) connection: Connection,
    path: PathBuf,
    /// Bytes that the file may grow to.
    quota: Option<u64>,
}

/// What a project holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ProjectSummary {
    /// The project's name, unique in a store.
    pub name: String,
    /// Number of spans.
    pub spans: u64,
    /// Number of annotations, those of retrieved documents included.
    pub annotations: u64,
}

impl TelemetryStore {
    /// Opens the store at `path`, and makes it where there is none.
    ///
    /// # Errors
    /// [`TelemetryError::NotAStore`], [`TelemetryError::NewerSchema`], [`TelemetryError::Damaged`] or
    /// [`TelemetryError::Database`].
    pub fn open_or_create(path: &Path) -> Result<Self, TelemetryError> {
        let connection =
            Connection::open(path).map_err(|cause| TelemetryError::Database { path: path.to_owned(), cause })?;
        Self::prepare(connection, path)
    }

    /// Opens the store at `path`.
    ///
    /// # Errors
    /// [`TelemetryError::NotFound`], and those of [`TelemetryStore::open_or_create`].
    pub fn open(path: &Path) -> Result<Self, TelemetryError> {
        if !path.exists() {
            return Err(TelemetryError::NotFound { path: path.to_owned() });
        }
        Self::open_or_create(path)
    }

    /// This store, whose file no write makes larger than `bytes`: the one that would fails, and takes nothing back that
    /// was committed. A file that is larger already stays as it is.
    ///
    /// # Errors
    /// As for [`TelemetryStore::open`].
    pub fn with_quota(mut self, bytes: Option<u64>) -> Result<Self, TelemetryError> {
        if let Some(bytes) = bytes {
            self.run(|connection| {
                let page_size: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
                let pages = (bytes / page_size.unsigned_abs()).clamp(1, i64::from(u32::MAX).unsigned_abs() - 1);
                // Answers with what it became: more, where the file is larger.
                connection.pragma_update_and_check(None, "max_page_count", pages.cast_signed(), |_| Ok(()))
            })?;
            self.quota = Some(bytes);
        }
        Ok(self)
    }

    /// From now on what this writes is on the disk once it is committed, a power cut included; it waits that long for other
    /// writers, and its log comes to about `log_bytes` before they go to the store itself.
    ///
    /// # Errors
    /// As for [`TelemetryStore::open`].
    pub fn be_durable(&mut self, patience: Duration, log_bytes: u32) -> Result<(), TelemetryError> {
        self.run(|connection| {
            connection.busy_timeout(patience)?;
            connection.pragma_update(None, "synchronous", "full")?;
            // Span ids are random, and with them the pages of their indices: the default of 2 MB spills in a transaction of
            // some thousand spans.
            connection.pragma_update(None, "cache_size", -16 * 1024)?;
            connection.pragma_update_and_check(None, "wal_autocheckpoint", (log_bytes / 4096).max(1), |_| Ok(()))?;
            // What a long read made of the log is given back after it.
            connection.pragma_update_and_check(None, "journal_size_limit", 2 * i64::from(log_bytes), |_| Ok(()))
        })
    }

    /// The projects, by name.
    ///
    /// # Errors
    /// As for [`TelemetryStore::open`].
    pub fn projects(&self) -> Result<Vec<ProjectSummary>, TelemetryError> {
        self.run(|connection| {
            let mut statement = connection.prepare(
                "SELECT name, (SELECT count(*) FROM spans WHERE project = p.id),
                        (SELECT count(*) FROM annotations a JOIN spans s ON s.id = a.span WHERE s.project = p.id)
                 FROM projects p ORDER BY name",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(ProjectSummary {
                    name: row.get(0)?,
                    spans: row.get::<_, i64>(1)?.unsigned_abs(),
                    annotations: row.get::<_, i64>(2)?.unsigned_abs(),
                })
            })?;
            rows.collect()
        })
    }

    /// Number of spans of a project.
    ///
    /// # Errors
    /// [`TelemetryError::UnknownProject`], and as for [`TelemetryStore::open`].
    pub fn count_spans(&self, project: &str) -> Result<u64, TelemetryError> {
        let project = self.project_id(project)?;
        self.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT count(*) FROM spans WHERE project = ?1")?;
            statement.query_row([project], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
        })
    }

    /// The store's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file can't grow from now on, as on a full disk.
    #[cfg(test)]
    pub(crate) fn cannot_grow(&self, cannot: bool) {
        let pages = self.connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).unwrap();
        let most = if cannot { pages } else { i64::from(u32::MAX - 1) };
        self.connection.pragma_update_and_check(None, "max_page_count", most, |_| Ok(())).unwrap();
    }

    pub(super) fn project_id(&self, project: &str) -> Result<i64, TelemetryError> {
        let id = self.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT id FROM projects WHERE name = ?1")?;
            statement.query_row([project], |row| row.get(0)).optional()
        })?;
        match id {
            Some(id) => Ok(id),
            None => Err(TelemetryError::UnknownProject {
                path: self.path.clone(),
                project: project.to_owned(),
                known: self.projects()?.into_iter().map(|p| p.name).collect(),
            }),
        }
    }

    /// Runs statements, and gives their errors the store's path.
    pub(super) fn run<'s, T>(
        &'s self,
        work: impl FnOnce(&'s Connection) -> rusqlite::Result<T>,
    ) -> Result<T, TelemetryError> {
        work(&self.connection).map_err(|source| match (source.sqlite_error_code(), self.quota) {
            (Some(ErrorCode::DiskFull), Some(quota)) => TelemetryError::Quota { path: self.path.clone(), quota },
            _ => database_error(&self.path, source),
        })
    }

    fn prepare(connection: Connection, path: &Path) -> Result<Self, TelemetryError> {
        let store = Self { connection, path: path.to_owned(), quota: None };
        store.run(|connection| {
            connection.set_prepared_statement_cache_capacity(32);
            connection.pragma_update(None, "foreign_keys", true)
        })?;
        let version = |store: &Self| -> Result<(i64, i64), TelemetryError> {
            let pragma = |name: &str| store.run(|c| c.pragma_query_value(None, name, |row| row.get::<_, i64>(0)));
            Ok((pragma("application_id")?, pragma("user_version")?))
        };
        let found = version(&store)?;
        let is_new = found == (0, 0) && store.is_empty()?;
        if is_new || found == (APPLICATION_ID, 1) {
            // Another process may be at it, and this one may be killed: all of it is one transaction, and what is there is
            // looked at again within.
            store.run(|connection| connection.execute_batch("BEGIN EXCLUSIVE"))?;
            match version(&store)? {
                (0, 0) => {
                    store.run(|connection| connection.execute_batch(SCHEMA).and_then(|()| upgrade(connection)))?
                }
                (APPLICATION_ID, 1) => store.run(upgrade)?,
                _ => {}
            }
            store.run(|connection| connection.execute_batch("COMMIT"))?;
        }
        match version(&store)? {
            (APPLICATION_ID, version) if version > SCHEMA_VERSION => {
                return Err(TelemetryError::NewerSchema {
                    path: path.to_owned(),
                    found: version,
                    supported: SCHEMA_VERSION,
                });
            }
            (APPLICATION_ID, _) => {}
            _ => return Err(TelemetryError::NotAStore { path: path.to_owned() }),
        }
        store.run(use_wal)?;
        // NORMAL with WAL: a power cut can cost the last transactions, never the file's consistency, and an
        // import can be repeated.
        store.run(|connection| connection.pragma_update(None, "synchronous", "normal"))?;
        Ok(store)
    }

    fn is_empty(&self) -> Result<bool, TelemetryError> {
        self.run(|c| c.query_row("SELECT count(*) FROM sqlite_schema", [], |row| Ok(row.get::<_, i64>(0)? == 0)))
    }
}

/// Stays with the file. Who finds it busy finds somebody who sees to it, now or at the next opening.
fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode == "wal" {
        return Ok(());
    }
    match connection.pragma_update(None, "journal_mode", "wal") {
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::DatabaseBusy => Ok(()),
        other => other,
    }
}

/// From schema 1 to [`SCHEMA_VERSION`], within a transaction.
fn upgrade(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(SOURCES)?;
    // Keys were of inputs with the white space around them.
    let mut inputs =
        connection.prepare("SELECT id, span_id, json_extract(attributes, '$.\"input.value\"') FROM spans")?;
    let mut set = connection.prepare("UPDATE spans SET input_key = ?2 WHERE id = ?1 AND input_key != ?2")?;
    let mut rows = inputs.query([])?;
    while let Some(row) = rows.next()? {
        let (id, span_id, input) = (row.get::<_, i64>(0)?, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str().ok());
        set.execute((id, input_key(input, span_id)))?;
    }
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)
}

/// Spans with equal `input.value`, but for white space around it, have equal keys, so that an index brings them together. A span without one
/// is a group of its own, keyed by its id. Two inputs with one 64-bit key merely share a batch.
pub(super) fn input_key(input: Option<&str>, span_id: &str) -> i64 {
    let digest = match input {
        Some(input) => Sha256::new().chain_update("input").chain_update(input.trim()),
        None => Sha256::new().chain_update("span").chain_update(span_id),
    }
    .finalize();
    let mut key = [0; 8];
    key.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(key)
}

fn database_error(path: &Path, source: rusqlite::Error) -> TelemetryError {
    let path = path.to_owned();
    match &source {
        rusqlite::Error::SqliteFailure(error, detail) => match error.code {
            ErrorCode::NotADatabase => TelemetryError::NotAStore { path },
            ErrorCode::DatabaseCorrupt => {
                let detail = detail.clone().unwrap_or_else(|| error.to_string());
                TelemetryError::Damaged { path, detail }
            }
            _ => TelemetryError::Database { path, cause: source },
        },
        // Every column is written by us with the type it is read as.
        rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
            TelemetryError::Damaged { path, detail: source.to_string() }
        }
        _ => TelemetryError::Database { path, cause: source },
    }
}

/// "tune" in ASCII: tells our files from other SQLite databases.
const APPLICATION_ID: i64 = 0x7475_6e65;
/// 2 knows from which server an annotation is, and has keys of trimmed inputs.
const SCHEMA_VERSION: i64 = 2;

/// `document` is the zero-based position of the annotated document, -1 where the span itself is annotated.
const SCHEMA: &str = "
    CREATE TABLE projects (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE spans (
        id INTEGER PRIMARY KEY,
        project INTEGER NOT NULL REFERENCES projects(id),
        span_id TEXT NOT NULL,
        trace_id TEXT NOT NULL,
        parent_id TEXT,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        status TEXT NOT NULL,
        start_time_ns INTEGER NOT NULL,
        end_time_ns INTEGER NOT NULL,
        input_key INTEGER NOT NULL,
        attributes TEXT NOT NULL,
        UNIQUE (project, span_id)
    );
    CREATE INDEX spans_by_input ON spans (project, input_key, start_time_ns);
    CREATE INDEX spans_by_span_id ON spans (span_id);
    CREATE TABLE annotations (
        id INTEGER PRIMARY KEY,
        span INTEGER NOT NULL REFERENCES spans(id) ON DELETE CASCADE,
        document INTEGER NOT NULL,
        name TEXT NOT NULL,
        identifier TEXT NOT NULL,
        annotator_kind TEXT NOT NULL,
        label TEXT,
        score REAL,
        explanation TEXT,
        metadata TEXT NOT NULL,
        created_at_ns INTEGER NOT NULL,
        updated_at_ns INTEGER NOT NULL,
        UNIQUE (span, document, name, identifier)
    );";

/// What schema 2 adds; see `sources.rs`. An annotation without a source was imported, or given here.
const SOURCES: &str = "
    ALTER TABLE annotations ADD COLUMN source TEXT;
    CREATE TABLE sources (
        project TEXT NOT NULL,
        source TEXT NOT NULL,
        cursor TEXT,
        revision TEXT,
        PRIMARY KEY (project, source)
    )";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::SourceState;

    #[test]
    fn inputs_that_differ_in_white_space_around_them_share_a_key() {
        assert_eq!(input_key(Some("  a question\n"), "s1"), input_key(Some("a question"), "s2"));
        assert_ne!(input_key(Some("a question"), "s1"), input_key(Some("a  question"), "s1"));
        assert_ne!(input_key(None, "s1"), input_key(None, "s2"));
    }

    #[test]
    fn many_may_make_a_store_at_once() {
        for _ in 0..10 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("new.sqlite");
            std::thread::scope(|scope| {
                let open = || TelemetryStore::open_or_create(&path).unwrap().projects().unwrap();
                let opened: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
                opened.into_iter().for_each(|thread| assert!(thread.join().unwrap().is_empty()));
            });
        }
    }

    #[test]
    fn a_store_of_schema_1_keeps_what_it_has_and_knows_sources_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.sqlite");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(SCHEMA).unwrap();
        old.execute("INSERT INTO projects (name) VALUES ('acme')", []).unwrap();
        old.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);

        let state = SourceState { cursor: Some("S9".to_owned()), revision: None };
        for _ in 0..2 {
            let mut store = TelemetryStore::open(&path).unwrap();
            assert_eq!(store.projects().unwrap()[0].name, "acme");
            store.set_source_state("acme", "a server", &state).unwrap();
            assert_eq!(store.source_state("acme", "a server").unwrap(), state);
            assert_eq!(store.source_state("acme", "another").unwrap(), SourceState::default());
        }
    }
}
