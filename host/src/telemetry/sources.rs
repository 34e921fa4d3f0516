//! How far a project has been read from a server.

use rusqlite::{OptionalExtension, params};

use super::{TelemetryError, TelemetryStore};

/// What was read of a server, and in which state it was then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceState {
    /// Where the next read begins, as the reader wrote it.
    pub cursor: Option<String>,
    /// The server's state when the last whole read began; `None` before the first has ended.
    pub revision: Option<String>,
}

impl TelemetryStore {
    /// The state of reading into `project` from `source`, which names a server, its project and what is asked of it.
    ///
    /// # Errors
    /// As for [`TelemetryStore::open`].
    pub fn source_state(&self, project: &str, source: &str) -> Result<SourceState, TelemetryError> {
        let found = self.run(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT cursor, revision FROM sources WHERE project = ?1 AND source = ?2")?;
            let state = |row: &rusqlite::Row<'_>| Ok(SourceState { cursor: row.get(0)?, revision: row.get(1)? });
            statement.query_row([project, source], state).optional()
        })?;
        Ok(found.unwrap_or_default())
    }

    /// Remembers it. What it says is there has to be committed before.
    ///
    /// # Errors
    /// As for [`TelemetryStore::open`].
    pub fn set_source_state(&mut self, project: &str, source: &str, state: &SourceState) -> Result<(), TelemetryError> {
        self.run(|connection| {
            connection.execute(
                "INSERT INTO sources (project, source, cursor, revision) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET cursor = ?3, revision = ?4",
                params![project, source, state.cursor, state.revision],
            )
        })?;
        Ok(())
    }

    /// From now on it is noted which annotations are read from a server.
    ///
    /// # Errors
    /// As for [`TelemetryStore::open`].
    pub fn begin_annotations(&mut self) -> Result<(), TelemetryError> {
        self.run(|connection| {
            connection
                .execute_batch("CREATE TABLE IF NOT EXISTS temp.seen (id INTEGER PRIMARY KEY); DELETE FROM temp.seen")
        })
    }

    /// Ids of the project's spans with annotations of `source` that were not read since
    /// [`TelemetryStore::begin_annotations`].
    ///
    /// # Errors
    /// As for [`TelemetryStore::open`].
    pub fn spans_of_unread_annotations(&self, project: &str, source: &str) -> Result<Vec<String>, TelemetryError> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached(&format!("SELECT DISTINCT s.span_id {UNREAD}"))?;
            statement.query_map([project, source], |row| row.get(0))?.collect()
        })
    }

    /// Removes those annotations of these spans: who gave them took them back. Returns how many.
    ///
    /// # Errors
    /// As for [`TelemetryStore::open`].
    pub fn remove_unread_annotations(
        &mut self,
        project: &str,
        source: &str,
        span_ids: &[String],
    ) -> Result<u64, TelemetryError> {
        let ids = serde_json::json!(span_ids).to_string();
        let unread = format!("SELECT a.id {UNREAD} AND s.span_id IN (SELECT value FROM json_each(?3))");
        let removed = self.run(|connection| {
            connection.execute(&format!("DELETE FROM annotations WHERE id IN ({unread})"), [project, source, &ids])
        })?;
        Ok(removed as u64)
    }

    /// Ids of a project's spans behind the row `after`, at most `n`, and the last one's row.
    ///
    /// # Errors
    /// [`TelemetryError::UnknownProject`], and as for [`TelemetryStore::open`].
    pub fn span_ids(&self, project: &str, after: i64, n: usize) -> Result<(Vec<String>, i64), TelemetryError> {
        let project = self.project_id(project)?;
        self.run(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT id, span_id FROM spans WHERE project = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?;
            let rows = statement.query_map(params![project, after, n as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let rows: Vec<(i64, String)> = rows.collect::<Result<_, _>>()?;
            let last = rows.last().map_or(after, |(row, _)| *row);
            Ok((rows.into_iter().map(|(_, id)| id).collect(), last))
        })
    }
}

/// Of project `?1` and source `?2`.
const UNREAD: &str = "
    FROM annotations a JOIN spans s ON s.id = a.span JOIN projects p ON p.id = s.project
    WHERE p.name = ?1 AND a.source = ?2 AND a.id NOT IN (SELECT id FROM temp.seen)";
