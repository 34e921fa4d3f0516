//! The embedded telemetry store: one SQLite file of projects, spans and annotations.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension};
use sha2::{Digest, Sha256};

use super::TelemetryError;

/// An open telemetry store. One process may read while another imports (WAL).
#[derive(Debug)]
pub struct TelemetryStore {
    pub(super) connection: Connection,
    path: PathBuf,
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
        work(&self.connection).map_err(|source| database_error(&self.path, source))
    }

    fn prepare(connection: Connection, path: &Path) -> Result<Self, TelemetryError> {
        let store = Self { connection, path: path.to_owned() };
        store.run(|connection| {
            connection.set_prepared_statement_cache_capacity(32);
            connection.pragma_update(None, "foreign_keys", true)
        })?;
        let pragma = |name: &str| store.run(|c| c.pragma_query_value(None, name, |row| row.get::<_, i64>(0)));
        match (pragma("application_id")?, pragma("user_version")?) {
            (0, 0) if store.is_empty()? => store.run(|connection| {
                connection.pragma_update(None, "journal_mode", "wal")?;
                connection.execute_batch(SCHEMA)?;
                connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
                connection.pragma_update(None, "application_id", APPLICATION_ID)
            })?,
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
        // NORMAL with WAL: a power cut can cost the last transactions, never the file's consistency, and an
        // import can be repeated.
        store.run(|connection| connection.pragma_update(None, "synchronous", "normal"))?;
        Ok(store)
    }

    fn is_empty(&self) -> Result<bool, TelemetryError> {
        self.run(|c| c.query_row("SELECT count(*) FROM sqlite_schema", [], |row| Ok(row.get::<_, i64>(0)? == 0)))
    }
}

/// Spans with equal `input.value` have equal keys, so that an index brings them together. A span without one
/// is a group of its own, keyed by its id. Two inputs with one 64-bit key merely share a batch.
pub(super) fn input_key(input: Option<&str>, span_id: &str) -> i64 {
    let digest = match input {
        Some(input) => Sha256::new().chain_update("input").chain_update(input),
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
const SCHEMA_VERSION: i64 = 1;

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
