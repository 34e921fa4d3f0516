//! The texts of a span: attribute values, and fields of the JSON that some agents write into them.

use std::collections::BTreeMap;

use plugin_settings::Settings;
use serde_json::value::RawValue;

use crate::types::{Attribute, AttributeValue, Lineage, Span};

/// `input_key` and `output_key`: where `input.value` or `output.value` is a JSON object with that key, its field is
/// the text.
pub(crate) const SETTINGS: &[&str] = &["input_key", "output_key"];

/// What the span was asked, trimmed; empty where it has none.
pub(crate) fn input(span: &Span, settings: &Settings) -> String {
    value(span, "input.value", settings.text("input_key"))
}

/// What the span answered, trimmed; empty where it has none.
pub(crate) fn output(span: &Span, settings: &Settings) -> String {
    value(span, "output.value", settings.text("output_key"))
}

/// The field `key` of `text`, where `text` is a JSON object with one; else `text` itself; trimmed.
pub(crate) fn field(text: &str, key: Option<&str>) -> String {
    let field = key.and_then(|key| json_field(text, key));
    field.as_deref().unwrap_or(text).trim().to_string()
}

pub(crate) fn attribute<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a AttributeValue> {
    attributes.iter().find(|attribute| attribute.key == key).map(|attribute| &attribute.value)
}

/// The text of a scalar; lists have none, nor have numbers that JSON cannot write.
pub(crate) fn scalar(value: &AttributeValue) -> Option<String> {
    match value {
        AttributeValue::Text(text) => Some(text.clone()),
        AttributeValue::Integer(number) => Some(number.to_string()),
        // As serde_json writes it: the standard library's formatter would be 25 KB more in the component.
        AttributeValue::Number(number) if number.is_finite() => serde_json::to_string(number).ok(),
        AttributeValue::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

/// The text of a scalar, and a list as JSON: what a person wrote as a correction.
pub(crate) fn written(value: &AttributeValue) -> Option<String> {
    match value {
        AttributeValue::Texts(list) => serde_json::to_string(list).ok(),
        AttributeValue::Integers(list) => serde_json::to_string(list).ok(),
        AttributeValue::Numbers(list) => serde_json::to_string(list).ok(),
        AttributeValue::Booleans(list) => serde_json::to_string(list).ok(),
        value => scalar(value),
    }
}

/// `spans` is not empty; the first one leads.
pub(crate) fn lineage(spans: &[&Span], annotation_names: Vec<String>) -> Lineage {
    let session = attribute(&spans[0].attributes, "session.id").and_then(scalar);
    Lineage {
        span_ids: spans.iter().map(|span| span.span_id.clone()).collect(),
        trace_id: spans[0].trace_id.clone(),
        session_id: session.filter(|id| !id.is_empty()),
        annotation_names,
    }
}

fn value(span: &Span, name: &str, key: Option<&str>) -> String {
    if let Some(value) = attribute(&span.attributes, name) {
        return field(&scalar(value).unwrap_or_default(), key);
    }
    // A source that nests instead of writing JSON arrives flattened: `input.value.query`.
    let nested = key.and_then(|key| attribute(&span.attributes, &format!("{name}.{key}")));
    nested.and_then(scalar).unwrap_or_default().trim().to_string()
}

/// A string's text; of anything else the JSON as the agent wrote it; of null the empty text.
fn json_field(text: &str, key: &str) -> Option<String> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    match fields.get(key)?.get() {
        "null" => Some(String::new()),
        raw => serde_json::from_str(raw).ok().or_else(|| Some(raw.to_string())),
    }
}
