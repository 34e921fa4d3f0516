//! Writing spans and annotations, each an upsert that leaves equal content alone.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Params, params};

use super::store::input_key;
use super::{TelemetryError, TelemetryStore, attributes, names};
use crate::plugins::bindings::types::{Annotation, AttributeValue, Span};

/// A span as the store has it: whatever needs no store is done, on whichever thread.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanRow {
    span_id: String,
    trace_id: String,
    parent_id: Option<String>,
    name: String,
    kind: &'static str,
    status: &'static str,
    start_time_ns: i64,
    end_time_ns: i64,
    input_key: i64,
    attributes: String,
}

impl SpanRow {
    /// The span without its annotations: those are [`Writer::put_annotation`]'s.
    pub fn new(span: &Span) -> Self {
        let input = span.attributes.iter().find_map(|attribute| match &attribute.value {
            AttributeValue::Text(text) if attribute.key == "input.value" => Some(text.as_str()),
            _ => None,
        });
        Self {
            span_id: span.span_id.clone(),
            trace_id: span.trace_id.clone(),
            parent_id: span.parent_id.clone(),
            name: span.name.clone(),
            kind: names::of_span_kind(span.kind),
            status: names::of_span_status(span.status),
            start_time_ns: span.start_time_ns.cast_signed(),
            end_time_ns: span.end_time_ns.cast_signed(),
            input_key: input_key(input, &span.span_id),
            attributes: attributes::encode(&span.attributes),
        }
    }

    /// What it takes of memory.
    pub fn bytes(&self) -> usize {
        let parent = self.parent_id.as_ref().map_or(0, String::len);
        let texts = [&self.span_id, &self.trace_id, &self.name, &self.attributes].map(String::capacity);
        size_of::<Self>() + parent + texts.iter().sum::<usize>()
    }
}

/// What an upsert did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upsert {
    /// It was not there.
    New,
    /// It was there with other content, which is replaced.
    Updated,
    /// It was there, equal.
    Unchanged,
    /// An annotation that was updated later is stored, and stays.
    Stale,
}

/// A writer on a store. Commits every 1024 writes, unless all of them are one transaction, and at [`Writer::finish`]; dropped
/// earlier, it takes back what is not committed.
#[derive(Debug)]
pub struct Writer<'s> {
    store: &'s TelemetryStore,
    projects: HashMap<String, i64>,
    uncommitted: u32,
    writes_per_transaction: u32,
}

const WRITES_PER_TRANSACTION: u32 = 1024;

impl TelemetryStore {
    /// Starts writing. `&mut`: two writers of one connection would share a transaction.
    pub fn writer(&mut self) -> Writer<'_> {
        let writes_per_transaction = WRITES_PER_TRANSACTION;
        Writer { store: self, projects: HashMap::new(), uncommitted: 0, writes_per_transaction }
    }

    /// Starts writing what is stored as a whole, or not at all.
    pub fn transaction(&mut self) -> Writer<'_> {
        let mut writer = self.writer();
        writer.writes_per_transaction = u32::MAX;
        writer
    }
}

impl Writer<'_> {
    /// Upserts a span by (project, span id), without its annotations: those are [`Writer::put_annotation`]'s.
    ///
    /// # Errors
    /// [`TelemetryError::Database`] or [`TelemetryError::Damaged`].
    pub fn put_span(&mut self, project: &str, span: &Span) -> Result<Upsert, TelemetryError> {
        self.put_row(project, &SpanRow::new(span))
    }

    /// As [`Writer::put_span`].
    ///
    /// # Errors
    /// [`TelemetryError::Database`] or [`TelemetryError::Damaged`].
    pub fn put_row(&mut self, project: &str, row: &SpanRow) -> Result<Upsert, TelemetryError> {
        self.begin()?;
        let project = self.project(project)?;
        let values = params![
            project,
            row.span_id,
            row.trace_id,
            row.parent_id,
            row.name,
            row.kind,
            row.status,
            row.start_time_ns,
            row.end_time_ns,
            row.input_key,
            row.attributes,
        ];
        self.store.run(|connection| upsert(connection, INSERT_SPAN, UPDATE_SPAN, values))
    }

    /// Upserts an annotation by (span, document, name, identifier); `document` is the position of the annotated
    /// document, `None` where the span itself is annotated. Of two, the one updated later stays; at the same time,
    /// the one written last.
    ///
    /// `source` is the server that it was read from. `None` where the project has no such span.
    ///
    /// # Errors
    /// [`TelemetryError::Database`] or [`TelemetryError::Damaged`].
    pub fn put_annotation(
        &mut self,
        project: &str,
        span_id: &str,
        document: Option<u32>,
        annotation: &Annotation,
        source: Option<&str>,
    ) -> Result<Option<Upsert>, TelemetryError> {
        self.begin()?;
        self.store.run(|connection| {
            let span: Option<i64> = first(connection, FIND_SPAN, [project, span_id])?;
            let Some(span) = span else { return Ok(None) };
            let document = document.map_or(-1, i64::from);
            let Annotation { name, identifier, .. } = annotation;
            let stored: Option<i64> = first(connection, STORED_ANNOTATION, params![span, document, name, identifier])?;
            let is_stale = stored.is_some_and(|updated_at| updated_at > annotation.updated_at_ns.cast_signed());
            let values = params![
                span,
                document,
                name,
                identifier,
                names::of_annotator_kind(annotation.annotator_kind),
                annotation.label,
                annotation.score,
                annotation.explanation,
                attributes::encode(&annotation.metadata),
                annotation.created_at_ns.cast_signed(),
                annotation.updated_at_ns.cast_signed(),
                source,
            ];
            let upsert = match is_stale {
                true => Upsert::Stale,
                false => upsert(connection, INSERT_ANNOTATION, UPDATE_ANNOTATION, values)?,
            };
            if source.is_some() {
                connection.prepare_cached(SEE_ANNOTATION)?.execute(params![span, document, name, identifier])?;
            }
            Ok(Some(upsert))
        })
    }

    /// The project that holds the span, where exactly one does. Span ids are 64 random bits: two projects hold the
    /// same one only where a file was imported into both.
    ///
    /// # Errors
    /// [`TelemetryError::Database`] or [`TelemetryError::Damaged`].
    pub fn project_of(&self, span_id: &str) -> Result<Option<String>, TelemetryError> {
        self.store.run(|connection| {
            let mut statement = connection.prepare_cached(PROJECTS_OF_SPAN)?;
            let mut names = statement.query_map([span_id], |row| row.get(0))?.collect::<Result<Vec<_>, _>>()?;
            Ok(names.pop().filter(|_| names.is_empty()))
        })
    }

    /// Whether the project has the span.
    ///
    /// # Errors
    /// [`TelemetryError::Database`] or [`TelemetryError::Damaged`].
    pub fn has_span(&self, project: &str, span_id: &str) -> Result<bool, TelemetryError> {
        self.store.run(|connection| Ok(first(connection, FIND_SPAN, [project, span_id])?.is_some()))
    }

    /// Commits what is left.
    ///
    /// # Errors
    /// [`TelemetryError::Database`], where the disk is full for one.
    pub fn finish(mut self) -> Result<(), TelemetryError> {
        self.commit()
    }

    fn begin(&mut self) -> Result<(), TelemetryError> {
        if self.uncommitted >= self.writes_per_transaction {
            self.commit()?;
        }
        if self.uncommitted == 0 {
            self.store.run(|connection| connection.execute_batch("BEGIN IMMEDIATE"))?;
        }
        self.uncommitted += 1;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), TelemetryError> {
        if self.uncommitted > 0 {
            self.store.run(|connection| connection.execute_batch("COMMIT"))?;
            self.uncommitted = 0;
        }
        Ok(())
    }

    /// The id of a project, which is made where it is new.
    fn project(&mut self, name: &str) -> Result<i64, TelemetryError> {
        if let Some(id) = self.projects.get(name) {
            return Ok(*id);
        }
        let id = self.store.run(|connection| {
            connection.execute("INSERT INTO projects (name) VALUES (?1) ON CONFLICT DO NOTHING", [name])?;
            connection.query_row("SELECT id FROM projects WHERE name = ?1", [name], |row| row.get(0))
        })?;
        self.projects.insert(name.to_owned(), id);
        Ok(id)
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if self.uncommitted > 0 {
            // Where even this fails, SQLite takes the open transaction back when the connection closes.
            let _ = self.store.connection.execute_batch("ROLLBACK");
        }
    }
}

fn first(connection: &Connection, sql: &str, values: impl Params) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached(sql)?.query_row(values, |row| row.get(0)).optional()
}

fn upsert(
    connection: &Connection,
    insert: &str,
    update: &str,
    values: &[&dyn rusqlite::ToSql],
) -> rusqlite::Result<Upsert> {
    if connection.prepare_cached(insert)?.execute(values)? == 1 {
        return Ok(Upsert::New);
    }
    let updated = connection.prepare_cached(update)?.execute(values)?;
    Ok(if updated == 1 { Upsert::Updated } else { Upsert::Unchanged })
}

const INSERT_SPAN: &str = "
    INSERT INTO spans (project, span_id, trace_id, parent_id, name, kind, status,
                       start_time_ns, end_time_ns, input_key, attributes)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO NOTHING";

const UPDATE_SPAN: &str = "
    UPDATE spans SET (trace_id, parent_id, name, kind, status, start_time_ns, end_time_ns, input_key, attributes)
                   = (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
    WHERE project = ?1 AND span_id = ?2
      AND (trace_id, parent_id, name, kind, status, start_time_ns, end_time_ns, input_key, attributes)
          IS NOT (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

const FIND_SPAN: &str = "
    SELECT spans.id FROM spans JOIN projects ON projects.id = spans.project
    WHERE projects.name = ?1 AND span_id = ?2";

const STORED_ANNOTATION: &str = "
    SELECT updated_at_ns FROM annotations WHERE span = ?1 AND document = ?2 AND name = ?3 AND identifier = ?4";

const INSERT_ANNOTATION: &str = "
    INSERT INTO annotations (span, document, name, identifier, annotator_kind, label, score, explanation, metadata,
                             created_at_ns, updated_at_ns, source)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO NOTHING";

const SEE_ANNOTATION: &str = "
    INSERT OR IGNORE INTO temp.seen
    SELECT id FROM annotations WHERE span = ?1 AND document = ?2 AND name = ?3 AND identifier = ?4";

const UPDATE_ANNOTATION: &str = "
    UPDATE annotations SET (annotator_kind, label, score, explanation, metadata, created_at_ns, updated_at_ns, source)
                         = (?5, ?6, ?7, ?8, ?9, ?10, ?11, coalesce(?12, source))
    WHERE span = ?1 AND document = ?2 AND name = ?3 AND identifier = ?4
      AND (annotator_kind, label, score, explanation, metadata, created_at_ns, updated_at_ns, source)
          IS NOT (?5, ?6, ?7, ?8, ?9, ?10, ?11, coalesce(?12, source))";

const PROJECTS_OF_SPAN: &str = "
    SELECT projects.name FROM projects JOIN spans ON spans.project = projects.id WHERE span_id = ?1 LIMIT 2";
