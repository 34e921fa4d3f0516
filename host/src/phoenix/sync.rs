//! A project of a Phoenix server into the embedded store: what is new, and nothing else where that can be told.
//!
//! Each page is stored whole before the place behind it is remembered, and whatever is stored again is an upsert: a sync that
//! was broken off anywhere is followed by one that ends with the same store.

use std::sync::mpsc::{Receiver, sync_channel};

use serde_json::Value;

use super::api::{Cursors, PAGE, Page, Phoenix, Project};
use super::error::PhoenixError;
use crate::telemetry::{Record, SourceState, TelemetryStore, Upserts, records};

/// Pages that are read ahead of the one that is being stored.
const AHEAD: usize = 2;

/// Which spans, by their start: RFC 3339, with an offset. From `since` on, and before `until`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    /// The first instant.
    pub since: Option<String>,
    /// The first instant behind.
    pub until: Option<String>,
}

/// What a sync did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct SyncReport {
    /// Spans that were read.
    pub spans: Upserts,
    /// Annotations that were read, those of documents included.
    pub annotations: Upserts,
    /// Annotations that are no longer there, and were read from there.
    pub removed: u64,
    /// True where nothing had changed since the sync before, so that no annotation was read.
    pub unchanged: bool,
    /// What was no span and no annotation.
    pub rejected: u64,
    /// The first 20 reasons.
    pub first_rejected: Vec<String>,
}

/// How far a sync is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncProgress {
    /// So many spans are read.
    Spans(u64),
    /// The annotations of so many spans are.
    Annotations(u64),
}

impl SyncReport {
    const MAX_SHOWN: usize = 20;

    fn reject(&mut self, reason: String) {
        self.rejected += 1;
        if self.first_rejected.len() < Self::MAX_SHOWN {
            self.first_rejected.push(reason);
        }
    }
}

/// Reads what is new of the server's project `name` into the store's project of that name.
///
/// Spans are read from the last one on that the sync before has read. An annotation may come late, and to any span, and
/// Phoenix does not list them by time: those of all spans are read again, unless the server says that nothing has changed.
///
/// # Errors
/// [`PhoenixError`]: what was read until then is stored, and the next sync goes on from there.
pub fn sync(
    phoenix: &Phoenix,
    store: &mut TelemetryStore,
    name: &str,
    range: &Range,
    progress: &mut dyn FnMut(SyncProgress),
) -> Result<SyncReport, PhoenixError> {
    let project = phoenix.project(name)?;
    let source = serde_json::json!([phoenix.url(), project.id, range.since, range.until]).to_string();
    let mut state = store.source_state(name, &source)?;
    let mut report = SyncReport::default();
    // Before anything is read: what changes meanwhile is for the next sync.
    let revision = phoenix.revision(&project)?;
    if revision.is_some() && revision == state.revision {
        report.unchanged = true;
        return Ok(report);
    }
    spans(phoenix, store, &project, range, &source, &mut state, &mut report, progress)?;
    store.begin_annotations()?;
    annotations(phoenix, store, &project, &mut report, progress)?;
    document_annotations(phoenix, store, &project, &mut report)?;
    report.removed = take_back(phoenix, store, &project)?;
    state.revision = revision;
    store.set_source_state(name, &source, &state)?;
    Ok(report)
}

/// The last span that was read: the server's name for its row, and its own id, as rows are named anew after a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    cursor: String,
    span_id: String,
}

impl Place {
    fn of(item: &Value) -> Option<Self> {
        let (cursor, span_id) = (item["id"].as_str()?, item["context"]["span_id"].as_str()?);
        Some(Self { cursor: cursor.to_owned(), span_id: span_id.to_owned() })
    }

    fn parse(text: &str) -> Option<Self> {
        let (cursor, span_id) = text.split_once(' ')?;
        Some(Self { cursor: cursor.to_owned(), span_id: span_id.to_owned() })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.cursor, self.span_id)
    }
}

/// Removes annotations that are no longer there, and were read from there. Those of spans that were deleted, by a retention
/// policy for one, stay with the span: nobody took a verdict back.
fn take_back(phoenix: &Phoenix, store: &mut TelemetryStore, project: &Project) -> Result<u64, PhoenixError> {
    let origin = origin(phoenix, project);
    let spans = store.spans_of_unread_annotations(&project.name, &origin)?;
    let existing = phoenix.existing(project, &spans)?;
    Ok(store.remove_unread_annotations(&project.name, &origin, &existing)?)
}

fn spans(
    phoenix: &Phoenix,
    store: &mut TelemetryStore,
    project: &Project,
    range: &Range,
    source: &str,
    state: &mut SourceState,
    report: &mut SyncReport,
    progress: &mut dyn FnMut(SyncProgress),
) -> Result<(), PhoenixError> {
    let times: Vec<_> = [("start_time", &range.since), ("end_time", &range.until)]
        .into_iter()
        .filter_map(|(name, time)| Some((name, time.as_deref()?)))
        .collect();
    let place = state.cursor.as_deref().and_then(Place::parse);
    let mut done = 0;
    ahead(
        |send| {
            let mut cursors = Cursors::starting_at(place.as_ref().map(|place| place.cursor.clone()));
            let mut place = place;
            loop {
                let Page { mut items, next } = phoenix.spans(project, cursors.current(), &times)?;
                if let Some(place) = place.take() {
                    // A page begins with the span that its cursor names. Where that is another one, or none, spans were
                    // deleted, and their names may be those of new ones: all of them are read again.
                    if items.first().and_then(Place::of) != Some(place) {
                        cursors = Cursors::default();
                        continue;
                    }
                    items.remove(0);
                }
                if !send(items) || !cursors.advance(next, phoenix)? {
                    return Ok(());
                }
            }
        },
        |items| {
            let mut writer = store.writer();
            for item in &items {
                for record in parsed(item) {
                    match record {
                        Ok(Record::Span { span, .. }) => report.spans.count(writer.put_span(&project.name, &span)?),
                        Ok(Record::Annotation { .. }) => report.reject("an annotation among the spans".to_owned()),
                        Err(reason) => report.reject(reason),
                    }
                }
            }
            writer.finish()?;
            if let Some(last) = items.last().and_then(Place::of) {
                state.cursor = Some(last.to_string());
                // Until all annotations are read there is no revision that the store is at.
                state.revision = None;
                store.set_source_state(&project.name, source, state)?;
            }
            done += items.len() as u64;
            progress(SyncProgress::Spans(done));
            Ok(())
        },
    )
}

fn annotations(
    phoenix: &Phoenix,
    store: &mut TelemetryStore,
    project: &Project,
    report: &mut SyncReport,
    progress: &mut dyn FnMut(SyncProgress),
) -> Result<(), PhoenixError> {
    if !store.projects()?.iter().any(|known| known.name == project.name) {
        return Ok(()); // it has no spans yet
    }
    // The reader has a connection of its own, so that it looks up ids while pages are stored.
    let ids = TelemetryStore::open(store.path())?;
    let mut done = 0;
    ahead(
        move |send| {
            let mut after = i64::MIN;
            loop {
                let (span_ids, last) = ids.span_ids(&project.name, after, PAGE)?;
                if span_ids.is_empty() {
                    return Ok(());
                }
                after = last;
                let items = phoenix.annotations(project, &span_ids)?;
                if !send((span_ids.len(), items)) {
                    return Ok(());
                }
            }
        },
        |(n_spans, items)| {
            put_annotations(phoenix, store, project, &items, report)?;
            done += n_spans as u64;
            progress(SyncProgress::Annotations(done));
            Ok(())
        },
    )
}

fn document_annotations(
    phoenix: &Phoenix,
    store: &mut TelemetryStore,
    project: &Project,
    report: &mut SyncReport,
) -> Result<(), PhoenixError> {
    if !phoenix.has_document_annotations(project)? {
        return Ok(());
    }
    ahead(
        |send| {
            let mut cursors = Cursors::default();
            loop {
                let Page { items, next } = phoenix.document_annotations(project, cursors.current())?;
                if !send(items) || !cursors.advance(next, phoenix)? {
                    return Ok(());
                }
            }
        },
        |items| put_annotations(phoenix, store, project, &items, report),
    )
}

/// What the store knows of where an annotation is from: whatever part of the project was asked for.
fn origin(phoenix: &Phoenix, project: &Project) -> String {
    serde_json::json!([phoenix.url(), project.id]).to_string()
}

fn put_annotations(
    phoenix: &Phoenix,
    store: &mut TelemetryStore,
    project: &Project,
    items: &[Value],
    report: &mut SyncReport,
) -> Result<(), PhoenixError> {
    let origin = origin(phoenix, project);
    let mut writer = store.writer();
    for record in items.iter().flat_map(parsed) {
        match record {
            Ok(Record::Annotation { span_id, document, annotation, .. }) => {
                // A span that a range leaves out has annotations, too: they are no business of ours.
                if let Some(upsert) =
                    writer.put_annotation(&project.name, &span_id, document, &annotation, Some(&origin))?
                {
                    report.annotations.count(upsert);
                }
            }
            Ok(Record::Span { .. }) => report.reject("a span among the annotations".to_owned()),
            Err(reason) => report.reject(reason),
        }
    }
    Ok(writer.finish()?)
}

fn parsed(item: &Value) -> Vec<Result<Record, String>> {
    let mut found = Vec::new();
    records(item, &mut |record| found.push(record));
    found
}

/// Runs `read` on a thread of its own, a few items ahead of `store`, which takes them in order. `read` is told by `false`
/// that nobody takes them any more.
fn ahead<T: Send>(
    read: impl FnOnce(&mut dyn FnMut(T) -> bool) -> Result<(), PhoenixError> + Send,
    mut store: impl FnMut(T) -> Result<(), PhoenixError>,
) -> Result<(), PhoenixError> {
    let (sender, receiver) = sync_channel(AHEAD);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(&mut |item| sender.send(item).is_ok()));
        let stored = take_all(receiver, &mut store);
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What could not be stored is what ended the reading, where both failed.
        stored.and(read)
    })
}

/// The receiver ends with this function, and with it the reader.
fn take_all<T>(
    receiver: Receiver<T>,
    store: &mut dyn FnMut(T) -> Result<(), PhoenixError>,
) -> Result<(), PhoenixError> {
    receiver.into_iter().try_for_each(store)
}
