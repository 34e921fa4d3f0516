use std::collections::{HashMap, HashSet};

use super::lineage;
use crate::plugins::bindings::types::{AttributeValue, Example, Span};

/// Where a span belongs and when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The span's trace.
    pub trace_id: String,
    /// Its `session.id`.
    pub session_id: Option<String>,
    /// Its start, in unix nanoseconds.
    pub start_time_ns: u64,
}

/// The origins of the spans that examples came from. A lineage names one trace only, although a pair across spans, or
/// an example that stands for its duplicates, comes from several.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    by_span: HashMap<String, Origin>,
}

impl Origins {
    /// Notes those spans of a batch that its examples name; so memory grows with the examples, not with the spans.
    pub fn note(&mut self, batch: &[Span], examples: &[Example]) {
        let named: HashSet<&str> = examples.iter().flat_map(|e| &lineage(e).span_ids).map(String::as_str).collect();
        for span in batch.iter().filter(|span| named.contains(span.span_id.as_str())) {
            let session_id = span.attributes.iter().find_map(|attribute| match &attribute.value {
                AttributeValue::Text(session) if attribute.key == "session.id" => Some(session.clone()),
                _ => None,
            });
            let origin = Origin { trace_id: span.trace_id.clone(), session_id, start_time_ns: span.start_time_ns };
            self.by_span.insert(span.span_id.clone(), origin);
        }
    }

    /// The origin of a span that an example named.
    pub fn of(&self, span_id: &str) -> Option<&Origin> {
        self.by_span.get(span_id)
    }

    /// When the newest of an example's spans started; 0 where none is known.
    pub(super) fn newest_start_ns(&self, example: &Example) -> u64 {
        self.spans_of(example).map(|origin| origin.start_time_ns).max().unwrap_or(0)
    }

    /// Every trace of an example, repetitions included.
    pub(super) fn traces<'a>(&'a self, example: &'a Example) -> impl Iterator<Item = &'a str> {
        let own = [lineage(example).trace_id.as_str()].into_iter().filter(|trace| !trace.is_empty());
        own.chain(self.spans_of(example).map(|origin| origin.trace_id.as_str()))
    }

    /// Every session of an example, repetitions included.
    pub(super) fn sessions<'a>(&'a self, example: &'a Example) -> impl Iterator<Item = &'a str> {
        let own = lineage(example).session_id.as_deref().into_iter();
        own.chain(self.spans_of(example).filter_map(|origin| origin.session_id.as_deref()))
            .filter(|session| !session.is_empty())
    }

    fn spans_of<'a>(&'a self, example: &'a Example) -> impl Iterator<Item = &'a Origin> {
        lineage(example).span_ids.iter().filter_map(|id| self.by_span.get(id))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dataset::testing::instruction;
    use crate::plugins::bindings::types::{Attribute, SpanKind, SpanStatus};

    pub(crate) fn span(id: &str, trace: &str, session: Option<&str>, start_time_ns: u64) -> Span {
        let session =
            session.map(|s| Attribute { key: "session.id".to_owned(), value: AttributeValue::Text(s.to_owned()) });
        Span {
            span_id: id.to_owned(),
            trace_id: trace.to_owned(),
            parent_id: None,
            name: "RoutingAgent.route".to_owned(),
            kind: SpanKind::Agent,
            status: SpanStatus::Ok,
            start_time_ns,
            end_time_ns: start_time_ns,
            attributes: session.into_iter().collect(),
            annotations: Vec::new(),
            document_annotations: Vec::new(),
        }
    }

    #[test]
    fn only_spans_that_gave_examples_are_kept() {
        let mut origins = Origins::default();
        origins.note(&[span("a", "t", Some("s"), 7), span("b", "u", None, 8)], &[instruction("a", "q", "x")]);
        let expected = Origin { trace_id: "t".to_owned(), session_id: Some("s".to_owned()), start_time_ns: 7 };
        assert_eq!(origins.of("a"), Some(&expected));
        assert_eq!(origins.of("b"), None);
    }
}
