//! Nested attributes to the dotted keys that plugins see.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde_json::{Map, Number, Value};

use crate::plugins::bindings::types::{Attribute, AttributeValue};

/// Flattens to attributes sorted by key, as Phoenix does it:
///
/// - objects become dotted keys, lists of objects indexed ones (`retrieval.documents.0.document.content`);
/// - null, empty objects and empty lists vanish; a list of scalars of different types is indexed too;
/// - `input.value` and `output.value` are texts always: numbers are printed, objects and lists written as JSON;
/// - `metadata` written as the JSON text of an object is opened.
///
/// Where two spellings give one key (`{"a": {"b": 1}, "a.b": 2}`) the later wins.
pub(super) fn flatten<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Vec<Attribute> {
    // What was read from a file is in memory already, and its keys are the file's owner's.
    flatten_within(usize::MAX, pairs).unwrap_or_default()
}

/// As [`flatten`], for attributes of somebody else: `None` where their keys and values come to more than so many bytes. A key of
/// a megabyte before a thousand nested ones would be a gigabyte.
pub(super) fn flatten_within<'a>(
    bytes: usize,
    pairs: impl IntoIterator<Item = (&'a str, &'a Value)>,
) -> Option<Vec<Attribute>> {
    let mut found = Found { attributes: BTreeMap::new(), room: bytes };
    for (key, value) in pairs {
        found.take(key.len())?;
        found.insert(key.to_owned(), value)?;
    }
    Some(found.attributes.into_iter().map(|(key, value)| Attribute { key, value }).collect())
}

/// The pairs of an object, as [`flatten`] takes them.
pub(super) fn pairs(object: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    object.iter().map(|(key, value)| (key.as_str(), value))
}

struct Found {
    attributes: BTreeMap<String, AttributeValue>,
    /// Bytes that may still come.
    room: usize,
}

/// `None` where there is no more room.
impl Found {
    fn insert(&mut self, key: String, value: &Value) -> Option<()> {
        if matches!(key.as_str(), "input.value" | "output.value") && !value.is_null() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            return self.put(key, AttributeValue::Text(text));
        }
        match value {
            Value::Null => Some(()),
            Value::Bool(boolean) => self.put(key, AttributeValue::Boolean(*boolean)),
            Value::Number(number) => self.put(key, numeric(number)),
            Value::String(text) => match opened_metadata(&key, text) {
                Some(object) => self.insert_object(&key, &object),
                None => self.put(key, AttributeValue::Text(text.clone())),
            },
            Value::Object(object) => self.insert_object(&key, object),
            Value::Array(items) => match scalar_list(items) {
                Some(list) => self.put(key, list),
                None => items.iter().enumerate().try_for_each(|(i, item)| self.insert_below(&key, i, item)),
            },
        }
    }

    fn insert_object(&mut self, prefix: &str, object: &Map<String, Value>) -> Option<()> {
        object.iter().try_for_each(|(key, value)| self.insert_below(prefix, key, value))
    }

    fn insert_below(&mut self, prefix: &str, key: impl Display, value: &Value) -> Option<()> {
        // Before the key is made: making it is what costs.
        self.take(prefix.len())?;
        self.insert(format!("{prefix}.{key}"), value)
    }

    fn put(&mut self, key: String, value: AttributeValue) -> Option<()> {
        self.take(match &value {
            AttributeValue::Text(text) => text.len(),
            AttributeValue::Texts(texts) => texts.iter().map(String::len).sum(),
            _ => 0, // not longer than their text, of which there are no copies
        })?;
        self.attributes.insert(key, value);
        Some(())
    }

    fn take(&mut self, bytes: usize) -> Option<()> {
        self.room = self.room.checked_sub(bytes)?;
        Some(())
    }
}

fn opened_metadata(key: &str, text: &str) -> Option<Map<String, Value>> {
    let is_metadata = key == "metadata" || key.ends_with(".metadata");
    (is_metadata && text.trim_start().starts_with('{')).then(|| serde_json::from_str(text).ok()).flatten()
}

fn numeric(number: &Number) -> AttributeValue {
    match number.as_i64() {
        Some(integer) => AttributeValue::Integer(integer),
        None => AttributeValue::Number(number.as_f64().unwrap_or_default()),
    }
}

/// `None` unless all items are scalars of one type; integers among numbers are numbers.
fn scalar_list(items: &[Value]) -> Option<AttributeValue> {
    fn all<T>(items: &[Value], item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        items.iter().map(item).collect()
    }
    match items.first()? {
        Value::String(_) => all(items, |v| v.as_str().map(str::to_owned)).map(AttributeValue::Texts),
        Value::Bool(_) => all(items, Value::as_bool).map(AttributeValue::Booleans),
        Value::Number(_) => all(items, Value::as_i64)
            .map(AttributeValue::Integers)
            .or_else(|| all(items, Value::as_f64).map(AttributeValue::Numbers)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flat(value: Value) -> Vec<(String, AttributeValue)> {
        flatten(pairs(value.as_object().unwrap())).into_iter().map(|a| (a.key, a.value)).collect()
    }

    fn text(value: &str) -> AttributeValue {
        AttributeValue::Text(value.to_owned())
    }

    #[test]
    fn nested_and_flat_attributes_read_the_same() {
        let nested = json!({"input": {"value": "q"}, "retrieval": {"documents": [{"document": {"score": 0.5}}]}});
        let dotted = json!({"retrieval.documents.0.document.score": 0.5, "input.value": "q"});
        let expected = vec![
            ("input.value".to_owned(), text("q")),
            ("retrieval.documents.0.document.score".to_owned(), AttributeValue::Number(0.5)),
        ];
        assert_eq!(flat(nested), expected);
        assert_eq!(flat(dotted), expected);
    }

    #[test]
    fn nulls_and_empties_vanish() {
        assert_eq!(flat(json!({"a": null, "b": {}, "c": [], "d": {"e": null}})), vec![]);
    }

    #[test]
    fn numeric_input_value_becomes_a_text() {
        let expected = vec![("input.value".to_owned(), text("42")), ("output.value".to_owned(), text(r#"{"a":[1]}"#))];
        assert_eq!(flat(json!({"input.value": 42, "output": {"value": {"a": [1]}}})), expected);
    }

    #[test]
    fn scalar_lists_stay_lists_and_mixed_ones_are_indexed() {
        let expected = vec![
            ("ints".to_owned(), AttributeValue::Integers(vec![1, 2])),
            ("mixed.0".to_owned(), AttributeValue::Integer(1)),
            ("mixed.2".to_owned(), text("x")),
            ("numbers".to_owned(), AttributeValue::Numbers(vec![1.0, 0.5])),
        ];
        assert_eq!(flat(json!({"ints": [1, 2], "numbers": [1, 0.5], "mixed": [1, null, "x"]})), expected);
    }

    #[test]
    fn metadata_that_is_json_text_is_opened() {
        let expected = vec![
            ("bad.metadata".to_owned(), text("{not json")),
            ("metadata.attempt".to_owned(), AttributeValue::Integer(1)),
        ];
        assert_eq!(flat(json!({"metadata": "{\"attempt\": 1}", "bad.metadata": "{not json"})), expected);
    }

    #[test]
    fn a_long_key_before_many_nested_ones_is_not_multiplied() {
        let nested: Map<_, _> = (0..1000).map(|i| (i.to_string(), Value::Null)).collect();
        let attributes = json!({ "k".repeat(1000): nested });
        let within = |bytes| flatten_within(bytes, pairs(attributes.as_object().unwrap()));
        assert_eq!(within(500_000), None);
        assert_eq!(within(1_001_000), Some(vec![]));
        let texts = json!({ "a": { "b": "12345", "c": ["12", "34"] } });
        let within = |bytes| flatten_within(bytes, pairs(texts.as_object().unwrap())).map(|found| found.len());
        assert_eq!((within(11), within(12)), (None, Some(2)));
    }

    #[test]
    fn of_two_spellings_of_a_key_the_later_wins() {
        assert_eq!(flat(json!({"a": {"b": 1}, "a.b": 2})), vec![("a.b".to_owned(), AttributeValue::Integer(2))]);
    }
}
