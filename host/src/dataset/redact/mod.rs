//! What people did not mean to teach a model: addresses, numbers and keys, taken out of spans as they are read.
//!
//! Before the extractor, not after it: a plugin is a tenant's code, and whatever it never sees is in no example, no
//! record, no warning and no `run.json` either. The store keeps the originals. What follows from that:
//!
//! - Spans are batched by their original inputs. Two inputs that differ only in what is redacted are one input to
//!   the extractor where they share a batch, and to deduplication and to the split always.
//! - A correction that changed nothing but what is masked is no correction: numbers keep it one.
//! - Attributes that match rules compare are left as they are, as are those that mark our own runs.
//! - Ids tell things apart, so they get numbers whatever the mode: else all sessions named by e-mail addresses would
//!   be one session, and could not be split.

mod checks;
mod json;
mod placeholders;
mod rules;
mod text;

use std::collections::{BTreeMap, HashSet};

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::plugins::bindings::types::{Annotation, Attribute, AttributeValue, MatchRule, Span};

use placeholders::Placeholders;
use text::Scanner;

pub use rules::Detector;

/// What is taken out of spans, and what stands for it.
#[derive(Debug, Clone, Serialize)]
pub struct RedactionConfig {
    /// What is looked for; none where redaction is off.
    pub detectors: Vec<Detector>,
    /// The operator's own.
    pub patterns: Vec<Pattern>,
    /// Attributes that are removed whole; a `*` at the end stands for any rest.
    pub attributes: Vec<String>,
    /// What stands for what was found.
    pub mode: RedactionMode,
}

/// An operator's pattern.
#[derive(Debug, Clone, Serialize)]
pub struct Pattern {
    /// Stands for what was found, in brackets.
    pub name: String,
    /// Finds it.
    #[serde(serialize_with = "source")]
    pub regex: Regex,
}

/// What stands for a value that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedactionMode {
    /// Its kind: `[EMAIL]`.
    Mask,
    /// Its kind and a number, the same for the same value throughout a run: `[EMAIL_1]`.
    Pseudonym,
}

/// How often something was taken out, by what it was.
pub type RedactionCounts = BTreeMap<String, u64>;

/// Redacts the spans of one run, in the order in which they are read.
#[derive(Debug)]
pub struct Redactor<'a> {
    config: &'a RedactionConfig,
    /// Attributes that are compared with the configuration's texts.
    kept: HashSet<&'a str>,
    /// The attribute that refers to documents by their ids.
    clicks: Option<&'a str>,
    scanner: Scanner,
    placeholders: Placeholders,
}

impl<'a> Redactor<'a> {
    /// `rules` select the spans, and attributes below `own` mark our own runs: neither is touched. `clicks` refers to
    /// documents by their ids, where it is another attribute than is usual.
    pub fn new(
        config: &'a RedactionConfig,
        rules: &'a [MatchRule],
        own: &'a [String],
        clicks: Option<&'a str>,
    ) -> Self {
        let compared = rules.iter().filter_map(|rule| match rule {
            MatchRule::AttributeEquals((key, _)) => Some(key.as_str()),
            MatchRule::NameExact(_) | MatchRule::NameSuffix(_) => None,
        });
        Self {
            config,
            kept: compared.chain(own.iter().map(String::as_str)).collect(),
            clicks,
            scanner: Scanner::new(config),
            placeholders: Placeholders::default(),
        }
    }

    /// For texts that are of no span.
    pub fn of_texts(config: &'a RedactionConfig) -> Self {
        Self::new(config, &[], &[], None)
    }

    /// Redacts one text; `key` names it as an attribute's key would.
    pub fn redact_text(&mut self, key: &str, text: &mut String) {
        self.text(key, text);
    }

    /// Redacts every text of a span and of its annotations, but names, trace and span ids.
    pub fn redact(&mut self, span: &mut Span) {
        if self.scanner.is_idle() && self.config.attributes.is_empty() {
            return;
        }
        span.attributes.retain_mut(|attribute| self.attribute(attribute));
        let of_documents = span.document_annotations.iter_mut().map(|each| &mut each.annotation);
        for annotation in span.annotations.iter_mut().chain(of_documents) {
            self.annotation(annotation);
        }
    }

    /// What was found so far.
    pub fn counts(&self) -> &RedactionCounts {
        self.placeholders.counts()
    }

    /// False where the attribute goes.
    fn attribute(&mut self, attribute: &mut Attribute) -> bool {
        let Attribute { key, value } = attribute;
        if self.kept.contains(key.as_str()) {
            return true;
        }
        if self.config.attributes.iter().any(|pattern| names(pattern, key)) {
            if let (SESSION, AttributeValue::Text(session)) = (key.as_str(), &mut *value) {
                // Its turns have to stay on one side of the split.
                *session = self.placeholders.stand_in("SESSION", session, true);
                return true;
            }
            self.placeholders.count("attribute");
            return false;
        }
        self.value(key, value);
        true
    }

    fn annotation(&mut self, annotation: &mut Annotation) {
        for (key, text) in [("label", &mut annotation.label), ("explanation", &mut annotation.explanation)] {
            if let Some(text) = text {
                self.text(key, text);
            }
        }
        // Often the e-mail address of who annotated; two people's annotations stay two.
        self.text("annotation.id", &mut annotation.identifier);
        for Attribute { key, value } in &mut annotation.metadata {
            self.value(key, value);
        }
    }

    fn value(&mut self, key: &str, value: &mut AttributeValue) {
        match value {
            AttributeValue::Text(text) => self.text(key, text),
            AttributeValue::Texts(texts) => texts.iter_mut().for_each(|text| self.text(key, text)),
            AttributeValue::Integer(number) => {
                if let Some(text) = self.found(key, &number.to_string()) {
                    *value = AttributeValue::Text(text);
                }
            }
            AttributeValue::Integers(numbers) => {
                let texts: Vec<_> = numbers.iter().map(|number| self.found(key, &number.to_string())).collect();
                if texts.iter().any(Option::is_some) {
                    let each = texts.into_iter().zip(&*numbers);
                    let texts = each.map(|(text, number)| text.unwrap_or_else(|| number.to_string())).collect();
                    *value = AttributeValue::Texts(texts);
                }
            }
            // Scores and measures.
            AttributeValue::Number(_)
            | AttributeValue::Numbers(_)
            | AttributeValue::Boolean(_)
            | AttributeValue::Booleans(_) => {}
        }
    }

    fn text(&mut self, key: &str, text: &mut String) {
        if let Some(redacted) = self.found(key, text) {
            *text = redacted;
        }
    }

    fn found(&mut self, key: &str, text: &str) -> Option<String> {
        let numbered = self.config.mode == RedactionMode::Pseudonym || is_identifier(key) || self.clicks == Some(key);
        let placeholders = &mut self.placeholders;
        self.scanner.redact(key, text, &mut |name, value| placeholders.stand_in(name, value, numbered))
    }
}

const SESSION: &str = "session.id";

/// Ids of sessions, users, documents and annotators, and what refers to them.
fn is_identifier(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    matches!(last, "id" | "ids" | "clicked_documents") || last.ends_with("_id") || last.ends_with("_ids")
}

/// Whether a pattern of `attributes` names a key.
pub fn names(pattern: &str, key: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => key.starts_with(start),
        None => key == pattern,
    }
}

fn source<S: serde::Serializer>(regex: &Regex, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(regex.as_str())
}

#[cfg(test)]
mod tests;
