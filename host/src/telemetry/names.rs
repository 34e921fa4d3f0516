//! The names that kinds and states have in exports and in the store.

use crate::plugins::bindings::types::{AnnotatorKind, SpanKind, SpanStatus};

const SPAN_KINDS: [(SpanKind, &str); 11] = [
    (SpanKind::Agent, "AGENT"),
    (SpanKind::Chain, "CHAIN"),
    (SpanKind::Embedding, "EMBEDDING"),
    (SpanKind::Evaluator, "EVALUATOR"),
    (SpanKind::Guardrail, "GUARDRAIL"),
    (SpanKind::Llm, "LLM"),
    (SpanKind::Prompt, "PROMPT"),
    (SpanKind::Reranker, "RERANKER"),
    (SpanKind::Retriever, "RETRIEVER"),
    (SpanKind::Tool, "TOOL"),
    (SpanKind::Unknown, "UNKNOWN"),
];

const SPAN_STATUSES: [(SpanStatus, &str); 3] =
    [(SpanStatus::Unset, "UNSET"), (SpanStatus::Ok, "OK"), (SpanStatus::Error, "ERROR")];

const ANNOTATOR_KINDS: [(AnnotatorKind, &str); 3] =
    [(AnnotatorKind::Human, "HUMAN"), (AnnotatorKind::Llm, "LLM"), (AnnotatorKind::Code, "CODE")];

pub(super) fn of_span_kind(kind: SpanKind) -> &'static str {
    name(&SPAN_KINDS, kind)
}

/// OpenInference lets applications invent kinds: those are `Unknown`.
pub(super) fn span_kind(name: &str) -> SpanKind {
    named(&SPAN_KINDS, name).unwrap_or(SpanKind::Unknown)
}

pub(super) fn of_span_status(status: SpanStatus) -> &'static str {
    name(&SPAN_STATUSES, status)
}

/// `OK`, and OTLP's `STATUS_CODE_OK`.
pub(super) fn span_status(name: &str) -> Option<SpanStatus> {
    named(&SPAN_STATUSES, name.strip_prefix("STATUS_CODE_").unwrap_or(name))
}

pub(super) fn of_annotator_kind(kind: AnnotatorKind) -> &'static str {
    name(&ANNOTATOR_KINDS, kind)
}

pub(super) fn annotator_kind(name: &str) -> Option<AnnotatorKind> {
    named(&ANNOTATOR_KINDS, name)
}

fn name<T: PartialEq>(table: &[(T, &'static str)], value: T) -> &'static str {
    table.iter().find(|(each, _)| *each == value).map_or("UNKNOWN", |(_, name)| name)
}

fn named<T: Copy>(table: &[(T, &'static str)], name: &str) -> Option<T> {
    table.iter().find(|(_, each)| each.eq_ignore_ascii_case(name.trim())).map(|(value, _)| *value)
}
