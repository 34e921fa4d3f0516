//! What every extractor must do. That each span is accounted for, and that lineage stays within the batch, is checked on
//! every call.

use std::collections::BTreeMap;

use super::super::samples::{self, Settings};
use super::super::subject::json;
use super::{Outcome, is_own, outcome, text};
use crate::plugins::PluginError;
use crate::plugins::bindings::extraction::{Extraction, ExtractionConfig};
use crate::plugins::bindings::types::{AttributeValue, MatchRule, ModelType, Span};

type Select<'a> = &'a dyn Fn(&ExtractionConfig) -> Result<Vec<MatchRule>, PluginError>;
type Extract<'a> = &'a dyn Fn(&ExtractionConfig, &[Span]) -> Result<Extraction, PluginError>;

pub(super) fn checks(select: Select, extract: Extract, agent_type: &str, settings: &Settings) -> Vec<Outcome> {
    let config = |model_type| samples::extraction_config(agent_type, model_type, settings);
    // The kind of model that the plugin serves; where it is neither, the first check says why.
    let serves = |model_type: &ModelType| extract(&config(*model_type), &samples::ordinary_spans()).is_ok();
    let config = config([ModelType::Llm, ModelType::Embedding].into_iter().find(serves).unwrap_or(ModelType::Llm));
    let extract = &|spans: &[Span]| extract(&config, spans);
    let spans = [samples::ordinary_spans(), samples::hard_spans()].concat();
    vec![
        outcome("ordinary spans are extracted or left out with a reason", {
            extract(&samples::ordinary_spans()).map(|_| ()).map_err(text)
        }),
        outcome("it says which spans it wants", select(&config).map(|_| ()).map_err(text)),
        outcome("an empty batch gives nothing", nothing(extract)),
        outcome(
            "any text, attribute and annotation is taken",
            extract(&samples::hard_spans()).map(|_| ()).map_err(text),
        ),
        outcome("the same call twice gives the same", twice(extract, &spans)),
        outcome("spans in another order give the same examples", reversed(extract, &spans)),
        outcome("spans with one input alone give what they give among others", grouped(extract, &spans)),
        outcome("a full batch is extracted", full_batch(extract)),
        outcome(
            "a megabyte of text is extracted, left out, or refused with an error of the plugin's own",
            long(extract),
        ),
    ]
}

type ExtractSpans<'a> = &'a dyn Fn(&[Span]) -> Result<Extraction, PluginError>;

fn nothing(extract: ExtractSpans) -> Result<(), String> {
    let Extraction { examples, skipped } = extract(&[]).map_err(text)?;
    match (examples.len(), skipped.len()) {
        (0, 0) => Ok(()),
        (examples, skipped) => Err(format!("{examples} examples and {skipped} skipped spans from no span")),
    }
}

/// Every example and skipped span as text, how often it is there.
fn counted(extractions: &[Extraction]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for extraction in extractions {
        let examples = extraction.examples.iter().map(|example| json(example).to_string());
        for item in examples.chain(extraction.skipped.iter().map(|skipped| json(skipped).to_string())) {
            *counts.entry(item).or_default() += 1;
        }
    }
    counts
}

fn same_items(expected: &[Extraction], got: &[Extraction]) -> Result<(), String> {
    let (expected, got) = (counted(expected), counted(got));
    let short = |item: &String| item.chars().take(300).collect::<String>();
    if let Some(lost) = expected.keys().find(|item| got.get(*item) != expected.get(*item)) {
        return Err(format!("this is not there, or not as often: {}", short(lost)));
    }
    match got.keys().find(|item| !expected.contains_key(*item)) {
        Some(new) => Err(format!("this is new: {}", short(new))),
        None => Ok(()),
    }
}

fn twice(extract: ExtractSpans, spans: &[Span]) -> Result<(), String> {
    let (first, second) = (extract(spans).map_err(text)?, extract(spans).map_err(text)?);
    super::super::compare::first_difference(&json(&first), &json(&second)).map_or(Ok(()), Err)
}

fn reversed(extract: ExtractSpans, spans: &[Span]) -> Result<(), String> {
    let reversed: Vec<_> = spans.iter().rev().cloned().collect();
    same_items(&[extract(spans).map_err(text)?], &[extract(&reversed).map_err(text)?])
}

/// The host keeps spans with the same input together, and no other promise.
fn grouped(extract: ExtractSpans, spans: &[Span]) -> Result<(), String> {
    let mut groups: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for span in spans {
        let input = span.attributes.iter().find(|attribute| attribute.key == "input.value");
        let key = match input.map(|attribute| &attribute.value) {
            Some(AttributeValue::Text(input)) => input.clone(),
            // In no group but its own.
            _ => span.span_id.clone(),
        };
        groups.entry(key).or_default().push(span.clone());
    }
    let alone = groups.values().map(|group| extract(group).map_err(text)).collect::<Result<Vec<_>, _>>()?;
    same_items(&alone, &[extract(spans).map_err(text)?])
}

fn full_batch(extract: ExtractSpans) -> Result<(), String> {
    let spans: Vec<_> =
        (0..1024).map(|id| samples::span(id, &format!("query {id}"), "agent", Some("approved"))).collect();
    extract(&spans).map(|_| ()).map_err(text)
}

fn long(extract: ExtractSpans) -> Result<(), String> {
    match extract(&[samples::span(1, &"ä".repeat(1 << 19), "agent", Some("approved"))]) {
        Err(error) if !is_own(&error) => Err(text(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::bindings::extraction::Skipped;

    fn skip(span: &Span, reason: &str) -> Skipped {
        Skipped { span_id: span.span_id.clone(), reason: reason.to_owned(), warning: None }
    }

    fn failures(extract: Extract) -> Vec<&'static str> {
        let outcomes = checks(&|config| Ok(config.match_rules.clone()), extract, "routing", &[]);
        outcomes.iter().filter(|outcome| outcome.failure.is_some()).map(|outcome| outcome.check).collect()
    }

    #[test]
    fn an_extractor_that_keeps_the_contract_passes() {
        let all = |_: &ExtractionConfig, spans: &[Span]| {
            Ok(Extraction { examples: vec![], skipped: spans.iter().map(|span| skip(span, "no verdict")).collect() })
        };
        assert_eq!(failures(&all), [""; 0]);
    }

    #[test]
    fn an_extractor_that_looks_at_its_neighbours_is_caught() {
        let neighbours = |_: &ExtractionConfig, spans: &[Span]| {
            let reason = format!("one of {}", spans.len());
            Ok(Extraction { examples: vec![], skipped: spans.iter().map(|span| skip(span, &reason)).collect() })
        };
        assert_eq!(failures(&neighbours), ["spans with one input alone give what they give among others"]);
    }

    #[test]
    fn an_extractor_that_goes_by_place_is_caught() {
        let first = |_: &ExtractionConfig, spans: &[Span]| {
            let reason = |index| if index == 0 { "first" } else { "later" };
            let skipped = spans.iter().enumerate().map(|(index, span)| skip(span, reason(index))).collect();
            Ok(Extraction { examples: vec![], skipped })
        };
        assert!(failures(&first).contains(&"spans in another order give the same examples"));
    }
}
