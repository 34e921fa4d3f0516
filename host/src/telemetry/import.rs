//! Files of exported telemetry into the store.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::documents::Documents;
use super::jsonl::{Record, records};
use super::{TelemetryError, TelemetryStore, Upsert, Writer};
use crate::plugins::bindings::types::Annotation;

/// What an import did. Everything in the file is counted somewhere here.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ImportReport {
    /// Spans of the file, by project.
    pub projects: BTreeMap<String, u64>,
    /// Spans of the file.
    pub spans: Upserts,
    /// Annotations of the file.
    pub annotations: Upserts,
    /// Lines, and parts of lines, that are no span and no annotation, or annotate a span that is not there.
    pub rejected: u64,
    /// The first 20 of them.
    pub first_rejected: Vec<Rejected>,
}

/// How many upserts did what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Upserts {
    /// The store did not have them.
    pub new: u64,
    /// The store had them with other content.
    pub updated: u64,
    /// The store had them already.
    pub unchanged: u64,
    /// The store has them in a later version, which stays.
    pub stale: u64,
}

/// What could not be imported, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rejected {
    /// Counted from 1; 1 for a file that is one JSON document.
    pub line: u64,
    /// With the path inside the line, where it holds more than one record.
    pub reason: String,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read. A file with annotations apart from their spans is read twice, and starts at 0 again.
    pub bytes_done: u64,
    /// The file's size.
    pub bytes_total: u64,
}

/// Imports a file of JSON lines, or one JSON document, of the shapes that Phoenix and OTLP exporters write.
///
/// A span goes to `project` where that is given, else to the project that the file names, else to `default`; an
/// annotation apart from its span goes to that span, wherever in the file or the store it is. A line that is no span
/// is counted with its reason, and the rest goes on. Repeating an import changes nothing, and so an interrupted one
/// can be repeated. Memory is bounded by the longest line, or by the document where the file is one.
///
/// # Errors
/// [`TelemetryError::Unreadable`], [`TelemetryError::NothingImported`], [`TelemetryError::Database`] or
/// [`TelemetryError::Damaged`].
pub fn import(
    store: &mut TelemetryStore,
    path: &Path,
    project: Option<&str>,
    mut progress: impl FnMut(Progress),
) -> Result<ImportReport, TelemetryError> {
    let unreadable = |source| TelemetryError::Unreadable { path: path.to_owned(), source };
    let documents = Documents::open(path).map_err(unreadable)?;
    let mut import =
        Import { writer: store.writer(), project, report: ImportReport::default(), annotations_apart: false };

    // Exports put annotations anywhere, often before their spans: so spans first, then the annotations.
    for pass in [Pass::Spans, Pass::Annotations] {
        if pass == Pass::Annotations && !import.annotations_apart {
            break;
        }
        let mut reader = documents.read().map_err(unreadable)?;
        while let Some(document) = reader.next() {
            let (line, value) = document.map_err(unreadable)?;
            import.document(pass, line, value)?;
            progress(Progress { bytes_done: reader.bytes_done, bytes_total: documents.bytes_total });
        }
    }

    let Import { writer, report, .. } = import;
    writer.finish()?;
    if report.spans.total() + report.annotations.total() == 0 {
        return Err(TelemetryError::NothingImported { path: path.to_owned(), reason: report.nothing_because() });
    }
    Ok(report)
}

impl Upserts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.new + self.updated + self.unchanged + self.stale
    }

    pub(crate) fn count(&mut self, upsert: Upsert) {
        match upsert {
            Upsert::New => self.new += 1,
            Upsert::Updated => self.updated += 1,
            Upsert::Unchanged => self.unchanged += 1,
            Upsert::Stale => self.stale += 1,
        }
    }
}

impl ImportReport {
    const MAX_SHOWN: usize = 20;

    fn reject(&mut self, line: u64, reason: String) {
        self.rejected += 1;
        if self.first_rejected.len() < Self::MAX_SHOWN {
            self.first_rejected.push(Rejected { line, reason });
        }
    }

    fn nothing_because(&self) -> String {
        match self.first_rejected.first() {
            None => "it is empty".to_owned(),
            Some(first) if self.rejected == 1 => format!("line {}: {}", first.line, first.reason),
            Some(first) => format!("line {}: {}; and {} more", first.line, first.reason, self.rejected - 1),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Spans,
    Annotations,
}

struct Import<'s, 'p> {
    writer: Writer<'s>,
    project: Option<&'p str>,
    report: ImportReport,
    annotations_apart: bool,
}

impl Import<'_, '_> {
    fn document(&mut self, pass: Pass, line: u64, value: Result<Value, String>) -> Result<(), TelemetryError> {
        let mut found = Vec::new();
        match &value {
            Ok(value) => records(value, &mut |record| found.push(record)),
            Err(reason) => found.push(Err(reason.clone())),
        }
        for record in found {
            match (record, pass) {
                (Ok(Record::Span { project, span }), Pass::Spans) => {
                    let project = self.project.or(project.as_deref()).unwrap_or("default").to_owned();
                    self.report.spans.count(self.writer.put_span(&project, &span)?);
                    for annotation in &span.annotations {
                        self.annotation(line, &project, &span.span_id, None, annotation)?;
                    }
                    for each in &span.document_annotations {
                        self.annotation(line, &project, &span.span_id, Some(each.position), &each.annotation)?;
                    }
                    *self.report.projects.entry(project).or_default() += 1;
                }
                (Ok(Record::Annotation { project, span_id, document, annotation }), Pass::Annotations) => {
                    let project = match self.project.or(project.as_deref()) {
                        Some(project) => Some(project.to_owned()),
                        None => self.writer.project_of(&span_id)?,
                    };
                    match project {
                        Some(project) => self.annotation(line, &project, &span_id, document, &annotation)?,
                        None => self.report.reject(line, format!("annotates span `{span_id}`, which is in no project, or in several: import it first, or name the project")),
                    }
                }
                (Ok(Record::Annotation { .. }), Pass::Spans) => self.annotations_apart = true,
                (Err(reason), Pass::Spans) => self.report.reject(line, reason),
                (_, Pass::Annotations) => {}
            }
        }
        Ok(())
    }

    fn annotation(
        &mut self,
        line: u64,
        project: &str,
        span_id: &str,
        document: Option<u32>,
        annotation: &Annotation,
    ) -> Result<(), TelemetryError> {
        match self.writer.put_annotation(project, span_id, document, annotation, None)? {
            Some(upsert) => self.report.annotations.count(upsert),
            None => {
                self.report.reject(line, format!("annotates span `{span_id}`, which is not in project `{project}`"));
            }
        }
        Ok(())
    }
}
