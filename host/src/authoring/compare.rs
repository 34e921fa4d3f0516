//! What a plugin gave against what it should have given, down to the first difference.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::AuthoringError;

/// A line of a file of expectations: what the fixture of that name gives.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    name: String,
    output: Value,
}

/// Outputs by the name of their fixture.
///
/// # Errors
/// [`AuthoringError::Io`] or [`AuthoringError::Expectation`].
pub fn read_expectations(path: &Path) -> Result<BTreeMap<String, Value>, AuthoringError> {
    let text = fs::read_to_string(path).map_err(AuthoringError::io("read", path))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line)| {
        let invalid = |error: serde_json::Error| AuthoringError::Expectation {
            path: path.to_owned(),
            line: index + 1,
            what: error.to_string(),
        };
        let Expectation { name, output } = serde_json::from_str(line).map_err(invalid)?;
        Ok((name, output))
    };
    lines.map(parse).collect()
}

/// Writes outputs as expectations.
///
/// # Errors
/// [`AuthoringError::Io`].
pub fn write_expectations(path: &Path, outputs: &[(&str, &Value)]) -> Result<(), AuthoringError> {
    let line = |(name, output): &(&str, &Value)| format!("{}\n", serde_json::json!({ "name": name, "output": output }));
    fs::write(path, outputs.iter().map(line).collect::<String>()).map_err(AuthoringError::io("write", path))
}

/// Where two outputs first differ, and how: `[2].Ready.Text.text: expected "a", got "b"`.
pub fn first_difference(expected: &Value, got: &Value) -> Option<String> {
    difference("", expected, got)
}

fn difference(path: &str, expected: &Value, got: &Value) -> Option<String> {
    match (expected, got) {
        (Value::Object(expected), Value::Object(got)) if expected.keys().all(|key| got.contains_key(key)) => {
            let inside = |(key, value)| difference(&format!("{path}.{key}"), value, &got[key]);
            expected.iter().find_map(inside).or_else(|| {
                let extra = got.keys().find(|key| !expected.contains_key(*key))?;
                Some(format!("{path}.{extra}: expected nothing, got {}", short(&got[extra])))
            })
        }
        (Value::Array(expected), Value::Array(got)) => {
            let pairs = expected.iter().zip(got).enumerate();
            let inside = |(index, (expected, got))| difference(&format!("{path}[{index}]"), expected, got);
            pairs.into_iter().find_map(inside).or_else(|| {
                let lengths = (expected.len(), got.len());
                (lengths.0 != lengths.1).then(|| format!("{path}: expected {} items, got {}", lengths.0, lengths.1))
            })
        }
        (Value::String(expected), Value::String(got)) => text_difference(path, expected, got),
        _ if expected == got => None,
        _ => Some(format!("{path}: expected {}, got {}", short(expected), short(got))),
    }
}

fn text_difference(path: &str, expected: &str, got: &str) -> Option<String> {
    if expected == got {
        return None;
    }
    let same = expected.chars().zip(got.chars()).take_while(|(a, b)| a == b).count();
    // A few characters before, so that the place is found in a long text.
    let around = |text: &str| -> String { text.chars().skip(same.saturating_sub(10)).take(40).collect() };
    Some(format!("{path}: from character {same} on, expected {:?}, got {:?}", around(expected), around(got)))
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_is_named_with_its_place() {
        let expected = json!([{ "text": "a" }, { "text": "The quick brown fox jumps" }]);
        let difference = |got: Value| first_difference(&expected, &got);
        assert_eq!(difference(expected.clone()), None);
        assert_eq!(
            difference(json!([{ "text": "a" }, { "text": "The quick brown ox jumps" }])).unwrap(),
            "[1].text: from character 16 on, expected \"ick brown fox jumps\", got \"ick brown ox jumps\""
        );
        assert_eq!(difference(json!([{ "text": "a" }])).unwrap(), ": expected 2 items, got 1");
        assert_eq!(difference(json!([{ "text": 1 }, null])).unwrap(), "[0].text: expected \"a\", got 1");
        assert_eq!(
            difference(json!([{ "text": "a", "start": 2 }, null])).unwrap(),
            "[0].start: expected nothing, got 2"
        );
    }

    #[test]
    fn expectations_are_read_as_they_were_written() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("expected.jsonl");
        let outputs = [("a", &json!(["x"])), ("b", &json!({ "error": "y" }))];
        write_expectations(&path, &outputs).unwrap();
        let read = read_expectations(&path).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(&read["b"], outputs[1].1);
        fs::write(&path, "{\"name\": 1}").unwrap();
        let error = read_expectations(&path).unwrap_err().to_string();
        assert!(error.contains("line 1, is no expectation: ") && error.ends_with("anew with `--update`"), "{error}");
    }
}
