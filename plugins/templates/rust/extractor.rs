//! An extractor: annotated spans in, examples out. A span that a person approved is an example.

wit_bindgen::generate!({ world: "extractor", path: "wit" });

use exports::tunesmith::plugin::extraction::{Extraction, ExtractionConfig, Guest, Skipped};
use tunesmith::plugin::types::{
    AttributeValue, Example, InstructionExample, Lineage, MatchRule, ModelType, PluginError, Span,
};

struct Plugin;

impl Guest for Plugin {
    fn selection(config: ExtractionConfig) -> Result<Vec<MatchRule>, PluginError> {
        Ok(config.match_rules)
    }

    fn extract(config: ExtractionConfig, spans: Vec<Span>) -> Result<Extraction, PluginError> {
        if config.model_type == ModelType::Embedding {
            return Err(PluginError::Unsupported("it makes no triplets, which embedding models train on".into()));
        }
        let mut extraction = Extraction { examples: vec![], skipped: vec![] };
        for span in &spans {
            // Every span is an example or is left out with a reason: nothing is lost without a word.
            match example(&config, span) {
                Ok(example) => extraction.examples.push(example),
                Err(reason) => extraction.skipped.push(Skipped {
                    span_id: span.span_id.clone(),
                    reason: reason.into(),
                    warning: None,
                }),
            }
        }
        Ok(extraction)
    }
}

fn example(config: &ExtractionConfig, span: &Span) -> Result<Example, &'static str> {
    if span.attributes.iter().any(|attribute| config.own_span_attributes.contains(&attribute.key)) {
        return Err("own span");
    }
    let approved = |label: &str| {
        config.verdicts.approved_labels.iter().any(|known| known.trim().to_lowercase() == label.trim().to_lowercase())
    };
    let verdict = span.annotations.iter().find(|annotation| annotation.label.as_deref().is_some_and(approved));
    let verdict = verdict.ok_or("no approval")?;
    let input = text(span, "input.value").ok_or("empty input")?;
    let output = text(span, "output.value").ok_or("empty output")?;
    Ok(Example::Instruction(InstructionExample {
        instruction: config.instruction.clone(),
        input: input.into(),
        output: output.into(),
        corrected: false,
        lineage: Lineage {
            span_ids: vec![span.span_id.clone()],
            trace_id: span.trace_id.clone(),
            session_id: text(span, "session.id").map(str::to_owned),
            annotation_names: vec![verdict.name.clone()],
        },
    }))
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match &span.attributes.iter().find(|attribute| attribute.key == key)?.value {
        AttributeValue::Text(text) if !text.trim().is_empty() => Some(text.trim()),
        _ => None,
    }
}

export!(Plugin);
