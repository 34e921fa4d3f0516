//! Old spans out of the store.

use rusqlite::{TransactionBehavior, params};

use super::{TelemetryError, TelemetryStore};

/// What was, or would be, removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Spans.
    pub spans: u64,
    /// Annotations of them.
    pub annotations: u64,
}

impl TelemetryStore {
    /// Removes the spans of `project`, or of all projects, that began before `before_ns`, and their annotations; with
    /// `dry_run` they are only counted. The file keeps its size, and what is written next goes where they were.
    ///
    /// A server that is synced is not asked for them again: a sync goes on behind the last span that it read.
    ///
    /// # Errors
    /// [`TelemetryError::UnknownProject`], and as for [`TelemetryStore::open`].
    pub fn prune(&mut self, project: Option<&str>, before_ns: u64, dry_run: bool) -> Result<Pruned, TelemetryError> {
        let project = project.map(|name| self.project_id(name)).transpose()?;
        let before_ns = i64::try_from(before_ns).unwrap_or(i64::MAX);
        self.run(|connection| {
            let transaction = rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            let old = "FROM spans WHERE (?1 IS NULL OR project = ?1) AND start_time_ns < ?2";
            let count = |sql: &str| {
                transaction
                    .query_row(sql, params![project, before_ns], |row| row.get::<_, i64>(0))
                    .map(i64::unsigned_abs)
            };
            let pruned = Pruned {
                spans: count(&format!("SELECT count(*) {old}"))?,
                annotations: count(&format!("SELECT count(*) FROM annotations WHERE span IN (SELECT id {old})"))?,
            };
            if !dry_run {
                transaction.execute(&format!("DELETE {old}"), params![project, before_ns])?;
            }
            transaction.commit()?;
            Ok(pruned)
        })
    }
}
