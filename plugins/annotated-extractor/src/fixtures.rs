//! Spans, annotations and configurations for the tests.

use crate::AnnotatedExtractor;
use crate::extraction::{Extraction, ExtractionConfig, Guest, VerdictRules};
use crate::types::{
    Annotation, AnnotatorKind, Attribute, AttributeValue, DocumentAnnotation, Example, InstructionExample, MatchRule,
    ModelType, PluginError, PreferencePair, Span, SpanKind, SpanStatus, Triplet,
};

pub(crate) fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

pub(crate) fn config() -> ExtractionConfig {
    ExtractionConfig {
        agent_type: "routing".into(),
        model_type: ModelType::Llm,
        instruction: "Route the following query to the appropriate agent".into(),
        match_rules: vec![MatchRule::NameSuffix("route".into())],
        own_span_attributes: texts(&["tunesmith.run"]),
        verdicts: VerdictRules {
            annotation_names: vec![],
            annotator_kinds: vec![AnnotatorKind::Human],
            approved_labels: texts(&["approved", "Correct", "👍"]),
            rejected_labels: texts(&["rejected", "incorrect"]),
            score_rules: vec![],
            correction_keys: texts(&["corrected_output", "correction"]),
            explanation_correction_labels: texts(&["corrected"]),
        },
        settings: vec![],
    }
}

pub(crate) fn with_settings(settings: &[(&str, &str)], mut config: ExtractionConfig) -> ExtractionConfig {
    config.settings = settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    config
}

pub(crate) fn attribute(key: &str, value: &str) -> Attribute {
    Attribute { key: key.into(), value: AttributeValue::Text(value.into()) }
}

/// A routing span; its trace is `t-` and its id.
pub(crate) fn span(id: &str, input: &str, output: &str, annotations: Vec<Annotation>) -> Span {
    Span {
        span_id: id.into(),
        trace_id: format!("t-{id}"),
        parent_id: None,
        name: "agent.route".into(),
        kind: SpanKind::Agent,
        status: SpanStatus::Ok,
        start_time_ns: 0,
        end_time_ns: 0,
        attributes: vec![attribute("input.value", input), attribute("output.value", output)],
        annotations,
        document_annotations: vec![],
    }
}

/// By a person, named `approval`, at time 0.
pub(crate) fn label(label: &str) -> Annotation {
    Annotation {
        name: "approval".into(),
        annotator_kind: AnnotatorKind::Human,
        label: Some(label.into()),
        score: None,
        explanation: None,
        identifier: String::new(),
        metadata: vec![],
        created_at_ns: 0,
        updated_at_ns: 0,
    }
}

pub(crate) fn named(name: &str, annotation: Annotation) -> Annotation {
    Annotation { name: name.into(), ..annotation }
}

pub(crate) fn at(updated_at_ns: u64, annotation: Annotation) -> Annotation {
    Annotation { updated_at_ns, ..annotation }
}

pub(crate) fn by(annotator_kind: AnnotatorKind, annotation: Annotation) -> Annotation {
    Annotation { annotator_kind, ..annotation }
}

pub(crate) fn scored(score: f64) -> Annotation {
    Annotation { label: None, score: Some(score), ..label("") }
}

pub(crate) fn correcting(text: &str, annotation: Annotation) -> Annotation {
    Annotation { metadata: vec![attribute("corrected_output", text)], ..annotation }
}

pub(crate) fn on_document(position: u32, annotation: Annotation) -> DocumentAnnotation {
    DocumentAnnotation { position, annotation }
}

pub(crate) fn extract(config: ExtractionConfig, spans: Vec<Span>) -> Extraction {
    AnnotatedExtractor::extract(config, spans).unwrap()
}

pub(crate) fn configuration_error(config: ExtractionConfig) -> String {
    match AnnotatedExtractor::extract(config, vec![]) {
        Err(PluginError::Configuration(text)) => text,
        other => panic!("no configuration error: {other:?}"),
    }
}

/// Span ids and reasons.
pub(crate) fn reasons(extraction: &Extraction) -> Vec<(&str, &str)> {
    extraction.skipped.iter().map(|skipped| (skipped.span_id.as_str(), skipped.reason.as_str())).collect()
}

pub(crate) fn instructions(extraction: &Extraction) -> Vec<&InstructionExample> {
    let mut found = Vec::new();
    for example in &extraction.examples {
        if let Example::Instruction(example) = example {
            found.push(example);
        }
    }
    found
}

pub(crate) fn pairs(extraction: &Extraction) -> Vec<&PreferencePair> {
    let mut found = Vec::new();
    for example in &extraction.examples {
        if let Example::Preference(example) = example {
            found.push(example);
        }
    }
    found
}

pub(crate) fn triplets(extraction: &Extraction) -> Vec<&Triplet> {
    let mut found = Vec::new();
    for example in &extraction.examples {
        if let Example::Triplet(example) = example {
            found.push(example);
        }
    }
    found
}
