//! OTLP-JSON: export requests as the OpenTelemetry collector's file exporter and SDKs write them
//! (opentelemetry-proto, `trace/v1/trace.proto`), in the camelCase of the JSON mapping or in snake_case.

use serde_json::{Map, Value};

use super::flatten::flatten;
use super::jsonl::{Record, field, id, span_kind, text};
use super::names;
use crate::plugins::bindings::types::{Span, SpanStatus};

/// The resource attribute by which OpenInference exporters name the project.
const PROJECT_ATTRIBUTE: &str = "openinference.project.name";

/// Gives `out` every span below `resourceSpans`, and with its path the reason for everything that is none.
pub(super) fn resource_spans(resources: &Value, out: &mut dyn FnMut(Result<Record, String>)) {
    let Some(resources) = resources.as_array() else {
        return out(Err("`resourceSpans` is not a list".to_owned()));
    };
    for (r, resource) in resources.iter().enumerate() {
        let attributes = resource.get("resource").and_then(|resource| resource.get("attributes"));
        let project = plain_pairs(attributes)
            .into_iter()
            .find_map(|(key, value)| (key == PROJECT_ATTRIBUTE).then(|| value.as_str().map(str::to_owned)).flatten());
        let scopes = list(resource, &["scopeSpans", "scope_spans", "instrumentationLibrarySpans"]);
        for (s, scope) in scopes.iter().enumerate() {
            for (i, value) in list(scope, &["spans"]).iter().enumerate() {
                let parsed = value.as_object().ok_or_else(|| "not a JSON object".to_owned()).and_then(span);
                out(match parsed {
                    Ok(span) => Ok(Record::Span { project: project.clone(), span }),
                    Err(reason) => Err(format!("`resourceSpans[{r}].scopeSpans[{s}].spans[{i}]`: {reason}")),
                });
            }
        }
    }
}

/// One OTLP span.
///
/// # Errors
/// The reason why it is none.
pub(super) fn span(object: &Map<String, Value>) -> Result<Span, String> {
    let attributes = plain_pairs(field(object, &["attributes"]));
    let attributes = flatten(attributes.iter().map(|(key, value)| (key.as_str(), value)));
    let start_time_ns =
        nanoseconds(object, &["startTimeUnixNano", "start_time_unix_nano"])?.ok_or("no `startTimeUnixNano`")?;
    Ok(Span {
        span_id: id(object, &["spanId", "span_id"], 16)?.ok_or("no `spanId`")?,
        trace_id: id(object, &["traceId", "trace_id"], 32)?.ok_or("no `traceId`")?,
        parent_id: id(object, &["parentSpanId", "parent_span_id"], 16)?,
        name: text(object, &["name"])?.ok_or("no `name`")?,
        kind: span_kind(&attributes, None),
        status: status(field(object, &["status.code"])),
        start_time_ns,
        end_time_ns: nanoseconds(object, &["endTimeUnixNano", "end_time_unix_nano"])?.unwrap_or(start_time_ns),
        attributes,
        annotations: Vec::new(),
        document_annotations: Vec::new(),
    })
}

/// The enum's number, or its name.
fn status(code: Option<&Value>) -> SpanStatus {
    match code {
        Some(Value::Number(number)) if number.as_u64() == Some(1) => SpanStatus::Ok,
        Some(Value::Number(number)) if number.as_u64() == Some(2) => SpanStatus::Error,
        Some(Value::String(name)) => names::span_status(name).unwrap_or(SpanStatus::Unset),
        _ => SpanStatus::Unset,
    }
}

fn nanoseconds(object: &Map<String, Value>, names: &[&str]) -> Result<Option<u64>, String> {
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    field(object, names)
        .map(|value| {
            number(value)
                .filter(|&ns| ns <= i64::MAX as u64)
                .ok_or_else(|| format!("`{}` {value} is no unix time in nanoseconds", names[0]))
        })
        .transpose()
}

fn list<'a>(value: &'a Value, names: &[&str]) -> &'a [Value] {
    names.iter().find_map(|name| value.get(*name)?.as_array()).map_or(&[], Vec::as_slice)
}

/// A list of KeyValue as plain JSON pairs.
fn plain_pairs(key_values: Option<&Value>) -> Vec<(String, Value)> {
    let key_values = key_values.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let pair = |each: &Value| Some((each.get("key")?.as_str()?.to_owned(), plain(each.get("value")?)));
    key_values.iter().filter_map(pair).collect()
}

/// An AnyValue as plain JSON; null where it is empty or not finite.
fn plain(any_value: &Value) -> Value {
    let Some(object) = any_value.as_object() else { return Value::Null };
    let value = |camel: &str, snake: &str| field(object, &[camel, snake]);
    if let Some(text) = value("stringValue", "string_value").or_else(|| value("bytesValue", "bytes_value")) {
        text.clone()
    } else if let Some(boolean) = value("boolValue", "bool_value") {
        boolean.clone()
    } else if let Some(integer) = value("intValue", "int_value") {
        // The JSON mapping writes 64-bit integers as texts.
        integer.as_str().and_then(|text| text.parse::<i64>().ok()).map_or_else(|| integer.clone(), Value::from)
    } else if let Some(number) = value("doubleValue", "double_value") {
        // "NaN" and "Infinity" are texts there.
        number.as_f64().map_or(Value::Null, Value::from)
    } else if let Some(array) = value("arrayValue", "array_value") {
        Value::Array(list(array, &["values"]).iter().map(plain).collect())
    } else if let Some(map) = value("kvlistValue", "kvlist_value") {
        Value::Object(plain_pairs(map.get("values")).into_iter().collect())
    } else {
        Value::Null
    }
}
