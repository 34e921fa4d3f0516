//! `[redaction]`, its patterns compiled.

use regex::RegexBuilder;

use super::ConfigError;
use super::options::{AgentOptions, Match, PatternOptions, RedactionOptions};
use crate::dataset::{Detector, Pattern, RedactionConfig, RedactionMode};

/// A program of a pattern: far over what a person writes, and little memory.
const MAX_PROGRAM_BYTES: usize = 1 << 20;

/// Filled in and checked; empty where redaction is off.
pub(super) fn config(own: &RedactionOptions, agent: &AgentOptions) -> Result<RedactionConfig, ConfigError> {
    let mode = own.mode.unwrap_or(RedactionMode::Mask);
    if own.enabled == Some(false) {
        return Ok(RedactionConfig { detectors: Vec::new(), patterns: Vec::new(), attributes: Vec::new(), mode });
    }
    let mut patterns: Vec<Pattern> = Vec::new();
    for pattern in &own.patterns {
        if patterns.iter().any(|known| known.name == pattern.name) {
            return Err(invalid_name(pattern, "another pattern has this name; give it one of its own"));
        }
        patterns.push(compiled(pattern)?);
    }
    let attributes = own.attributes.clone().unwrap_or_default();
    attributes.iter().try_for_each(|attribute| removable(attribute, agent))?;
    Ok(RedactionConfig {
        detectors: own.detectors.clone().unwrap_or_else(|| Detector::ALL.to_vec()),
        patterns,
        attributes,
        mode,
    })
}

fn compiled(pattern: &PatternOptions) -> Result<Pattern, ConfigError> {
    let PatternOptions { name, regex } = pattern;
    let is_word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_uppercase()) || !name.chars().all(is_word) {
        return Err(invalid_name(
            pattern,
            "use capitals, digits and `_`, such as `CUSTOMER`: it stands for what is found",
        ));
    }
    if Detector::is_taken(name) {
        return Err(invalid_name(pattern, "a detector has this name; give the pattern one of its own"));
    }
    let invalid = |value: String, want: String| ConfigError::Invalid { key: "redaction.patterns", value, want };
    let compiled = RegexBuilder::new(regex).size_limit(MAX_PROGRAM_BYTES).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            invalid(format!("{regex:?} of `{name}`"), "it takes too much memory; repeat less in it".to_owned())
        }
        // The last line says what; those before it draw where.
        error => {
            let text = error.to_string();
            let what = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            invalid(
                format!("{regex:?} of `{name}`"),
                format!("{what}; write a regular expression without look-around and back references"),
            )
        }
    })?;
    if compiled.is_match("") {
        let want = "it finds the empty text, and so is everywhere; let it find one character at least".to_owned();
        return Err(invalid(format!("{regex:?} of `{name}`"), want));
    }
    Ok(Pattern { name: name.clone(), regex: compiled })
}

fn invalid_name(pattern: &PatternOptions, want: &str) -> ConfigError {
    ConfigError::Invalid { key: "redaction.patterns", value: format!("{:?}", pattern.name), want: want.to_owned() }
}

/// Match rules read their attributes where a `*` names them, too; one that is named outright is a mistake.
fn removable(attribute: &str, agent: &AgentOptions) -> Result<(), ConfigError> {
    let invalid = |want: &str| ConfigError::Invalid {
        key: "redaction.attributes",
        value: format!("{attribute:?}"),
        want: want.to_owned(),
    };
    if attribute.trim_end_matches('*').is_empty() || attribute.trim_end_matches('*').contains('*') {
        return Err(invalid("name an attribute, or its beginning and one `*` at the end"));
    }
    let matched = agent.matches.iter().flatten();
    let mut matched =
        matched.filter(|rule| matches!(rule, Match::Attribute { attribute: key, .. } if key == attribute));
    if matched.next().is_some() {
        return Err(invalid("a match rule reads this attribute; leave it, or match by another"));
    }
    Ok(())
}
