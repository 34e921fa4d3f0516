//! The JSON in a model's answer, whatever stands around it.

use serde_json::{Deserializer, Map, Value};

use super::answers::{NOT_JSON, OTHER_SHAPE};
use super::sieve::{REFUSAL, is_refusal};

/// An example as a model wrote it.
pub(super) type Item = Map<String, Value>;

/// The objects of an answer: those of its `examples`, of a list, or itself. Of an answer that was cut, those that are whole.
///
/// # Errors
/// Why there are none.
pub(super) fn items(text: &str) -> Result<Vec<Item>, &'static str> {
    // What models think aloud before they answer.
    let text = text.rsplit_once("</think>").map_or(text, |(_, answer)| answer);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find(['{', '[']) {
        let start = at + start;
        let mut values = Deserializer::from_str(&text[start..]).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => {
                collect(value, &mut found);
                at = start + values.byte_offset();
            }
            // Inside of what has no end there may be objects that have.
            _ => at = start + 1,
        }
    }
    match (found.is_empty(), is_refusal(text)) {
        (false, _) => Ok(found),
        (true, true) => Err(REFUSAL),
        (true, false) => Err(NOT_JSON),
    }
}

fn collect(value: Value, found: &mut Vec<Item>) {
    match value {
        Value::Array(items) => items.into_iter().for_each(|item| collect(item, found)),
        Value::Object(mut fields) => match fields.remove("examples") {
            Some(Value::Array(items)) => items.into_iter().for_each(|item| collect(item, found)),
            _ => found.push(fields),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A text of an example. An agent that answers in JSON is often given that as it is rather than as a text.
///
/// # Errors
/// Where it is not there.
pub(super) fn text(item: &Item, key: &str) -> Result<String, &'static str> {
    match item.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Null) | None => Err(OTHER_SHAPE),
        Some(other) => Ok(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(text: &str) -> Result<Vec<String>, &'static str> {
        items(text)?.iter().map(|item| super::text(item, "input")).collect()
    }

    #[test]
    fn json_is_found_in_fences_prose_and_thoughts() {
        let want = || Ok(vec!["a".to_owned(), "b".to_owned()]);
        for text in [
            r#"{"examples": [{"input": "a"}, {"input": "b"}]}"#,
            r#"[{"input": "a"}, {"input": "b"}]"#,
            "```json\n[{\"input\": \"a\"}, {\"input\": \"b\"}]\n```",
            "Sure! Here {as asked} they are:\n{\"input\": \"a\"}\n{\"input\": \"b\"}\nEnjoy.",
            "<think>{\"input\": \"no\"}</think>[{\"input\": \"a\"}, {\"input\": \"b\"}]",
        ] {
            assert_eq!(inputs(text), want(), "{text}");
        }
    }

    #[test]
    fn of_a_cut_answer_the_whole_objects_count() {
        let cut = r#"{"examples": [{"input": "a"}, {"input": "b"}, {"input": "c"#;
        assert_eq!(inputs(cut), Ok(vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none_and_a_refusal_one() {
        assert_eq!(inputs("zzzz zzzz"), Err(NOT_JSON));
        assert_eq!(inputs(""), Err(NOT_JSON));
        assert_eq!(inputs("I\u{2019}m sorry, but I can't help with that."), Err(REFUSAL));
        assert_eq!(inputs(r#"{"query": "a"}"#), Err(OTHER_SHAPE));
        assert_eq!(inputs(r#"{"input": {"a": 1}}"#), Ok(vec![r#"{"a":1}"#.to_owned()]));
    }
}
