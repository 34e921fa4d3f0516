//! Feedback: what a person, a model or a program says an answer was worth, to an annotation of its span.

use super::{TelemetryError, Upsert, Writer};
use crate::plugins::bindings::types::{Annotation, AnnotatorKind, Attribute, AttributeValue};

/// What is judged where nothing else is said; the default extractor takes this name for a verdict.
pub const VERDICT_NAME: &str = "human_approval";
/// Where the default extractor looks for a better answer first.
const CORRECTION_KEY: &str = "corrected_output";

/// A verdict on a span. One of `label`, `score` and `correction` is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Feedback {
    /// The span: 16 hex digits.
    pub span_id: String,
    /// What is judged: [`VERDICT_NAME`].
    pub name: String,
    /// The verdict, such as `approved` or `rejected`.
    pub label: Option<String>,
    /// The verdict as a number.
    pub score: Option<f64>,
    /// Why.
    pub explanation: Option<String>,
    /// What the answer should have been.
    pub correction: Option<String>,
    /// The retrieved document that is judged, counted from 0, instead of the span.
    pub document: Option<u32>,
    /// Who judges.
    pub annotator_kind: AnnotatorKind,
    /// Tells verdicts of one name apart; an equal one is replaced.
    pub identifier: String,
    /// The span's project; `None` is the one that has it.
    pub project: Option<String>,
}

/// Feedback that is stored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Annotated {
    /// Where the span is.
    pub project: String,
    /// The span.
    pub span_id: String,
    /// False where an annotation of that name and identifier was replaced.
    pub new: bool,
}

/// A span id as the store has it.
///
/// # Errors
/// What is wrong with it.
pub fn span_id(text: &str) -> Result<String, &'static str> {
    match text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("not 16 hex digits"),
    }
}

impl Feedback {
    fn annotation(&self, now_ns: u64) -> Annotation {
        let correction =
            |text: &String| Attribute { key: CORRECTION_KEY.to_owned(), value: AttributeValue::Text(text.clone()) };
        Annotation {
            name: self.name.clone(),
            annotator_kind: self.annotator_kind,
            label: self.label.clone(),
            score: self.score,
            explanation: self.explanation.clone(),
            identifier: self.identifier.clone(),
            metadata: self.correction.iter().map(correction).collect(),
            created_at_ns: now_ns,
            updated_at_ns: now_ns,
        }
    }
}

impl Writer<'_> {
    /// Annotates the spans, all of them or none: `Err` within is the index of the first whose span is in no project, or in
    /// several.
    ///
    /// # Errors
    /// [`TelemetryError::Database`] or [`TelemetryError::Damaged`].
    pub fn annotate(&mut self, feedback: &[Feedback]) -> Result<Result<Vec<Annotated>, usize>, TelemetryError> {
        let mut projects = Vec::with_capacity(feedback.len());
        for (index, each) in feedback.iter().enumerate() {
            let project = match &each.project {
                Some(project) => self.has_span(project, &each.span_id)?.then(|| project.clone()),
                None => self.project_of(&each.span_id)?,
            };
            let Some(project) = project else { return Ok(Err(index)) };
            projects.push(project);
        }
        let now = jiff::Timestamp::now().as_nanosecond() as u64; // until the year 2554
        let mut annotated = Vec::with_capacity(feedback.len());
        for (index, (each, project)) in feedback.iter().zip(projects).enumerate() {
            let annotation = each.annotation(now);
            match self.put_annotation(&project, &each.span_id, each.document, &annotation, None)? {
                Some(upsert) => {
                    let new = upsert == Upsert::New;
                    annotated.push(Annotated { project, span_id: each.span_id.clone(), new });
                }
                // No span is ever removed.
                None => return Ok(Err(index)),
            }
        }
        Ok(Ok(annotated))
    }
}
