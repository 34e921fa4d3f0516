//! Which spans ask the same, where inputs are JSON and only one of their fields counts.
//!
//! The store's own key is of whole inputs, as they stand. An extractor with the setting `input_key` takes a plain
//! input and a JSON one with that text in that field for one input; so where the setting is given, a batch has to go
//! by the field. The keys are then computed for one reading, in a table that goes with it.

use std::collections::BTreeMap;

use rusqlite::{Connection, params_from_iter, types::Value};
use serde_json::value::RawValue;

use super::attributes;
use super::store::input_key;
use crate::plugins::bindings::types::{Attribute, AttributeValue};

/// Fills `temp.inputs` with key, start and id of the spans that `condition` selects.
pub(super) fn group(connection: &Connection, condition: &str, values: &[Value], field: &str) -> rusqlite::Result<()> {
    connection.execute_batch(
        "DROP TABLE IF EXISTS temp.inputs;
         CREATE TEMP TABLE inputs (key INTEGER, start_time_ns INTEGER, id INTEGER,
                                   PRIMARY KEY (key, start_time_ns, id)) WITHOUT ROWID;",
    )?;
    let mut spans =
        connection.prepare(&format!("SELECT id, start_time_ns, span_id, attributes FROM spans WHERE {condition}"))?;
    let mut insert = connection.prepare("INSERT INTO temp.inputs VALUES (?1, ?2, ?3)")?;
    let mut rows = spans.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        let attributes = attributes::decode(row.get_ref(3)?.as_str()?).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(error))
        })?;
        let text = text(&attributes, field).filter(|text| !text.trim().is_empty());
        let key = input_key(text.as_deref(), row.get_ref(2)?.as_str()?);
        insert.execute((key, row.get::<_, i64>(1)?, row.get::<_, i64>(0)?))?;
    }
    Ok(())
}

/// As the built-in extractor reads an input: the field of a JSON object that has it, else the whole; where there is no
/// `input.value`, the field of a source that nests instead of writing JSON.
fn text(attributes: &[Attribute], field: &str) -> Option<String> {
    let find = |key: &str| attributes.iter().find(|attribute| attribute.key == key).map(|found| &found.value);
    match find("input.value") {
        Some(AttributeValue::Text(whole)) => Some(json_field(whole, field).unwrap_or_else(|| whole.clone())),
        _ => match find(&format!("input.value.{field}"))? {
            AttributeValue::Text(text) => Some(text.clone()),
            AttributeValue::Integer(number) => Some(number.to_string()),
            AttributeValue::Number(number) => serde_json::to_string(number).ok(),
            AttributeValue::Boolean(value) => Some(value.to_string()),
            _ => None,
        },
    }
}

/// A string's text; of anything else the JSON as the agent wrote it; of null the empty text.
fn json_field(text: &str, field: &str) -> Option<String> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    match fields.get(field)?.get() {
        "null" => Some(String::new()),
        raw => serde_json::from_str(raw).ok().or_else(|| Some(raw.to_owned())),
    }
}
