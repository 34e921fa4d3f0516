//! Reading spans in bounded batches that keep all answers to one input together.

use std::collections::HashMap;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, Transaction, params_from_iter};

use super::{TelemetryError, TelemetryStore, attributes, inputs, names};
use crate::plugins::bindings::types::{
    Annotation, AnnotatorKind, Attribute, DocumentAnnotation, MatchRule, Span, SpanStatus,
};

/// How much one batch may hold; at least one span always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Spans of a batch.
    pub max_spans: usize,
    /// Bytes of the attributes of a batch, as JSON.
    pub max_bytes: usize,
}

impl Default for BatchLimits {
    /// 1024 spans as the extractor's contract says, and 16 MiB, a quarter of a plugin's usual memory.
    fn default() -> Self {
        Self { max_spans: 1024, max_bytes: 16 << 20 }
    }
}

/// The batches of a project's spans that match a rule; see [`TelemetryStore::batches`].
#[derive(Debug)]
pub struct Batches<'s> {
    store: &'s TelemetryStore,
    /// Holds one state of the store while another process imports. `None` inside an outer transaction.
    _snapshot: Option<Transaction<'s>>,
    sql: String,
    /// Project and the rules' texts, where the statement selects by them; the cursor follows.
    values: Vec<Value>,
    limits: BatchLimits,
    /// (input key, start time, row id) of the last span given; `None` when all are.
    cursor: Option<[i64; 3]>,
    split_group: Option<i64>,
    split_groups: u64,
}

impl TelemetryStore {
    /// The spans that match any of `rules` (none match an empty list), with their annotations, in batches.
    ///
    /// Spans with equal `input.value` come in one batch, ordered by start time; inputs come in the order of a hash. Where
    /// `input_key` is given, and an input is a JSON object that has this key, its field is the input.
    /// A group that exceeds the limits by itself is split, and counted in [`Batches::split_groups`]. Memory is
    /// bounded by one batch. Annotations come ordered by their time of update.
    ///
    /// # Errors
    /// [`TelemetryError::UnknownProject`], and as for [`TelemetryStore::open`].
    pub fn batches(
        &self,
        project: &str,
        rules: &[MatchRule],
        input_key: Option<&str>,
        limits: BatchLimits,
    ) -> Result<Batches<'_>, TelemetryError> {
        let project = self.project_id(project)?;
        let (condition, texts) = condition(rules);
        let mut values: Vec<Value> = [Value::Integer(project)].into_iter().chain(texts).collect();
        let selected = format!("project = ?1 AND ({condition})");
        let snapshot =
            self.run(|connection| connection.is_autocommit().then(|| connection.unchecked_transaction()).transpose())?;
        const COLUMNS: &str = "span_id, trace_id, parent_id, name, kind, status, end_time_ns, attributes";
        let sql = match input_key {
            None => {
                let [key, start, id] = [1, 2, 3].map(|i| values.len() + i);
                format!(
                    "SELECT input_key, start_time_ns, id, {COLUMNS} FROM spans INDEXED BY spans_by_input
                     WHERE (input_key, start_time_ns, id) > (?{key}, ?{start}, ?{id}) AND {selected}
                     ORDER BY input_key, start_time_ns, id"
                )
            }
            Some(field) => {
                self.run(|connection| inputs::group(connection, &selected, &values, field))?;
                values.clear();
                format!(
                    "SELECT key, inputs.start_time_ns, inputs.id, {COLUMNS} FROM temp.inputs CROSS JOIN spans USING (id)
                     WHERE (key, inputs.start_time_ns, inputs.id) > (?1, ?2, ?3)
                     ORDER BY key, inputs.start_time_ns, inputs.id"
                )
            }
        };
        Ok(Batches {
            store: self,
            _snapshot: snapshot,
            sql,
            values,
            limits,
            cursor: Some([i64::MIN; 3]),
            split_group: None,
            split_groups: 0,
        })
    }

    /// Number of spans that match any of `rules`; the project's others are not selected.
    ///
    /// # Errors
    /// As for [`TelemetryStore::batches`].
    pub fn count_matching(&self, project: &str, rules: &[MatchRule]) -> Result<u64, TelemetryError> {
        let project = self.project_id(project)?;
        let (condition, texts) = condition(rules);
        let values = params_from_iter([Value::Integer(project)].into_iter().chain(texts));
        let sql = format!("SELECT count(*) FROM spans WHERE project = ?1 AND ({condition})");
        self.run(|connection| connection.query_row(&sql, values, |row| row.get::<_, i64>(0)).map(i64::unsigned_abs))
    }
}

impl Batches<'_> {
    /// How many inputs so far had more spans than a batch holds, so that their answers came apart.
    pub fn split_groups(&self) -> u64 {
        self.split_groups
    }

    fn next_batch(&mut self, after: [i64; 3]) -> Result<Vec<Span>, TelemetryError> {
        let store = self.store;
        store.run(|connection| {
            let mut found: Vec<(Place, Span)> = Vec::new();
            let (mut bytes, mut group_start, mut more) = (0, 0, false);
            let mut statement = connection.prepare_cached(&self.sql)?;
            let cursor = after.map(Value::Integer);
            let mut rows = statement.query(params_from_iter(self.values.iter().chain(&cursor)))?;
            while let Some(row) = rows.next()? {
                let place = [row.get(0)?, row.get(1)?, row.get(2)?];
                if found.last().is_none_or(|(last, _)| last[0] != place[0]) {
                    group_start = found.len();
                }
                let size = row.get_ref(10)?.as_str()?.len();
                bytes += size;
                let full = found.len() >= self.limits.max_spans || bytes > self.limits.max_bytes;
                if full && !found.is_empty() {
                    self.cut(&mut found, group_start);
                    more = true;
                    break;
                }
                found.push((place, span(row)?));
            }
            self.cursor = found.last().filter(|_| more).map(|(place, _)| *place);
            with_annotations(connection, found)
        })
    }

    /// Takes the group at the end of a full batch out again, so that it comes whole with the next one; a group that
    /// fills the batch alone is split.
    fn cut(&mut self, found: &mut Vec<(Place, Span)>, group_start: usize) {
        if group_start > 0 {
            found.truncate(group_start);
        } else if self.split_group != Some(found[0].0[0]) {
            self.split_group = Some(found[0].0[0]);
            self.split_groups += 1;
        }
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<Vec<Span>, TelemetryError>;

    fn next(&mut self) -> Option<Self::Item> {
        let after = self.cursor.take()?;
        self.next_batch(after).map(|batch| (!batch.is_empty()).then_some(batch)).transpose()
    }
}

/// (input key, start time, row id).
type Place = [i64; 3];

/// The rules as an SQL condition over `spans`, with parameters from `?2` on.
fn condition(rules: &[MatchRule]) -> (String, Vec<Value>) {
    let mut texts: Vec<Value> = Vec::new();
    let mut parameter = |text: &str| {
        texts.push(Value::Text(text.to_owned()));
        texts.len() + 1
    };
    let conditions: Vec<String> = rules
        .iter()
        .map(|rule| match rule {
            MatchRule::NameExact(name) => format!("name = ?{}", parameter(name)),
            MatchRule::NameSuffix(suffix) if suffix.starts_with(['.', '/']) => {
                format!("substr(name, -length(?{p})) = ?{p}", p = parameter(suffix))
            }
            MatchRule::NameSuffix(suffix) => {
                let p = parameter(suffix);
                format!("name = ?{p} OR substr(name, -length(?{p}) - 1) IN ('.' || ?{p}, '/' || ?{p})")
            }
            MatchRule::AttributeEquals((key, value)) => {
                let (k, v) = (parameter(key), parameter(value));
                format!(
                    "EXISTS (SELECT 1 FROM json_each(attributes) AS a WHERE a.key = ?{k} AND a.type = 'text' AND a.atom = ?{v})"
                )
            }
        })
        .collect();
    let any = if conditions.is_empty() { "0".to_owned() } else { conditions.join(" OR ") };
    (any, texts)
}

fn span(row: &Row) -> rusqlite::Result<Span> {
    Ok(Span {
        start_time_ns: row.get::<_, i64>(1)?.cast_unsigned(),
        span_id: row.get(3)?,
        trace_id: row.get(4)?,
        parent_id: row.get(5)?,
        name: row.get(6)?,
        kind: names::span_kind(row.get_ref(7)?.as_str()?),
        status: names::span_status(row.get_ref(8)?.as_str()?).unwrap_or(SpanStatus::Unset),
        end_time_ns: row.get::<_, i64>(9)?.cast_unsigned(),
        attributes: stored_attributes(row, 10)?,
        annotations: Vec::new(),
        document_annotations: Vec::new(),
    })
}

/// Joins the annotations of a whole batch in one query.
fn with_annotations(connection: &Connection, found: Vec<(Place, Span)>) -> rusqlite::Result<Vec<Span>> {
    let index: HashMap<i64, usize> = found.iter().enumerate().map(|(i, (place, _))| (place[2], i)).collect();
    let ids = format!("[{}]", found.iter().map(|(place, _)| place[2].to_string()).collect::<Vec<_>>().join(","));
    let mut spans: Vec<Span> = found.into_iter().map(|(_, span)| span).collect();

    let mut statement = connection.prepare_cached(
        "SELECT span, document, name, identifier, annotator_kind, label, score, explanation, metadata,
                created_at_ns, updated_at_ns
         FROM annotations WHERE span IN (SELECT value FROM json_each(?1)) ORDER BY updated_at_ns, id",
    )?;
    let mut rows = statement.query([ids])?;
    while let Some(row) = rows.next()? {
        let Some(span) = index.get(&row.get(0)?).and_then(|&i| spans.get_mut(i)) else { continue };
        let annotation = annotation(row)?;
        match u32::try_from(row.get::<_, i64>(1)?) {
            Ok(position) => span.document_annotations.push(DocumentAnnotation { position, annotation }),
            Err(_) => span.annotations.push(annotation),
        }
    }
    Ok(spans)
}

fn annotation(row: &Row) -> rusqlite::Result<Annotation> {
    Ok(Annotation {
        name: row.get(2)?,
        identifier: row.get(3)?,
        annotator_kind: names::annotator_kind(row.get_ref(4)?.as_str()?).unwrap_or(AnnotatorKind::Code),
        label: row.get(5)?,
        score: row.get(6)?,
        explanation: row.get(7)?,
        metadata: stored_attributes(row, 8)?,
        created_at_ns: row.get::<_, i64>(9)?.cast_unsigned(),
        updated_at_ns: row.get::<_, i64>(10)?.cast_unsigned(),
    })
}

fn stored_attributes(row: &Row, column: usize) -> rusqlite::Result<Vec<Attribute>> {
    attributes::decode(row.get_ref(column)?.as_str()?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
