//! Which spans are the agent's: by exact name, suffix or attribute, never by a part of a name.

use crate::extraction::ExtractionConfig;
use crate::text::attribute;
use crate::types::{AttributeValue, MatchRule, Span, SpanStatus};

/// A span's name is made of parts between these.
const BOUNDARIES: [char; 2] = ['.', '/'];

/// # Errors
/// A text where no rule is given, or one would match every span.
pub(crate) fn validate(rules: &[MatchRule]) -> Result<(), String> {
    if rules.is_empty() {
        return Err("`match_rules` is empty; give at least one span name, name suffix or attribute".into());
    }
    let empty = |rule: &MatchRule| match rule {
        MatchRule::NameExact(text) | MatchRule::NameSuffix(text) => text.is_empty(),
        MatchRule::AttributeEquals((key, _)) => key.is_empty(),
    };
    match rules.iter().any(empty) {
        true => Err("a rule of `match_rules` has an empty name; give the span name, suffix or attribute key".into()),
        false => Ok(()),
    }
}

/// Why the span is no candidate for training data, whatever was said about it.
pub(crate) fn exclusion(config: &ExtractionConfig, span: &Span) -> Option<&'static str> {
    if is_own(&config.own_span_attributes, span) {
        Some("own span")
    } else if !config.match_rules.iter().any(|rule| matches(rule, span)) {
        Some("other agent type")
    } else if span.status == SpanStatus::Error {
        Some("span failed")
    } else {
        None
    }
}

fn matches(rule: &MatchRule, span: &Span) -> bool {
    match rule {
        MatchRule::NameExact(name) => span.name == *name,
        MatchRule::NameSuffix(suffix) => match span.name.strip_suffix(suffix.as_str()) {
            Some(before) => before.is_empty() || before.ends_with(BOUNDARIES) || suffix.starts_with(BOUNDARIES),
            None => false,
        },
        MatchRule::AttributeEquals((key, value)) => {
            matches!(attribute(&span.attributes, key), Some(AttributeValue::Text(text)) if text == value)
        }
    }
}

/// Nested attributes arrive flattened, so `tunesmith.run` is there as `tunesmith.run.id` too.
fn is_own(own_attributes: &[String], span: &Span) -> bool {
    let is_under = |key: &str, own: &String| {
        key.strip_prefix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    span.attributes.iter().any(|attribute| own_attributes.iter().any(|own| is_under(&attribute.key, own)))
}
