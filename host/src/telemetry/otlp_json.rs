//! OTLP-JSON: export requests as the OpenTelemetry collector's file exporter and SDKs write them
//! (opentelemetry-proto, `trace/v1/trace.proto`), in the camelCase of the JSON mapping or in snake_case.

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::flatten::flatten_within;
use super::jsonl::{Record, field, id, span_kind, text};
use super::names;
use super::otlp::{PROJECT_ATTRIBUTE, Place, Received, check_length, too_large};
use crate::plugins::bindings::types::{Span, SpanStatus};

/// Gives `out` every span below `resourceSpans`, and with its path the reason for everything that is none.
pub(super) fn resource_spans(resources: &Value, out: &mut dyn FnMut(Result<Record, String>)) {
    let Some(resources) = resources.as_array() else {
        return out(Err("`resourceSpans` is not a list".to_owned()));
    };
    for (r, resource) in resources.iter().enumerate() {
        let project = resource.get("resource").and_then(project);
        let scopes = list(resource, &["scopeSpans", "scope_spans", "instrumentationLibrarySpans"]);
        for (s, scope) in scopes.iter().enumerate() {
            for (i, value) in list(scope, &["spans"]).iter().enumerate() {
                let parsed = value
                    .as_object()
                    .ok_or_else(|| "not a JSON object".to_owned())
                    .and_then(|object| span(object, usize::MAX));
                out(match parsed {
                    Ok(span) => Ok(Record::Span { project: project.clone(), span }),
                    Err(reason) => Err(format!("{}: {reason}", Place { resource: r, scope: s, span: i })),
                });
            }
        }
    }
}

/// As [`super::otlp::received`].
pub(super) fn request(body: &[u8], max_span_bytes: usize, out: &mut dyn FnMut(Received)) -> Result<(), String> {
    walk(body, max_span_bytes, out).map_err(|error| format!("not an ExportTraceServiceRequest in JSON ({error})"))
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow, rename = "resourceSpans", alias = "resource_spans")]
    resource_spans: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ResourceSpans<'a> {
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
    #[serde(borrow, rename = "scopeSpans", alias = "scope_spans", alias = "instrumentationLibrarySpans")]
    scope_spans: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ScopeSpans<'a> {
    #[serde(borrow)]
    spans: Option<&'a RawValue>,
}

fn walk(body: &[u8], max_span_bytes: usize, out: &mut dyn FnMut(Received)) -> Result<(), serde_json::Error> {
    let request: Request = serde_json::from_slice(body)?;
    each(request.resource_spans, &mut |resource, text| {
        let spans: ResourceSpans = serde_json::from_str(text)?;
        let project = match spans.resource.map(RawValue::get) {
            Some(text) => {
                check_length(text.len(), max_span_bytes).map_err(|reason| {
                    <serde_json::Error as serde::de::Error>::custom(format!("a resource: {reason}"))
                })?;
                project(&serde_json::from_str(text)?)
            }
            None => None,
        };
        each(spans.scope_spans, &mut |scope, text| {
            let spans: ScopeSpans = serde_json::from_str(text)?;
            each(spans.spans, &mut |index, text| {
                out(match received_span(text, max_span_bytes) {
                    Ok(span) => Ok((project.clone(), span)),
                    Err(reason) => Err(format!("{}: {reason}", Place { resource, scope, span: index })),
                });
                Ok(())
            })
        })
    })
}

fn received_span(text: &str, max_span_bytes: usize) -> Result<Span, String> {
    check_length(text.len(), max_span_bytes)?;
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    span(value.as_object().ok_or("not a JSON object")?, max_span_bytes)
}

/// Gives `take` the text of every item of a list, with its index. There is never a list of them.
fn each(
    list: Option<&RawValue>,
    take: &mut dyn FnMut(usize, &str) -> Result<(), serde_json::Error>,
) -> Result<(), serde_json::Error> {
    struct Items<'t>(&'t mut dyn FnMut(usize, &str) -> Result<(), serde_json::Error>);

    impl<'de> Visitor<'de> for Items<'_> {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
            let mut index = 0;
            while let Some(item) = list.next_element::<&RawValue>()? {
                (self.0)(index, item.get()).map_err(serde::de::Error::custom)?;
                index += 1;
            }
            Ok(())
        }
    }

    let Some(list) = list else { return Ok(()) };
    serde_json::Deserializer::from_str(list.get()).deserialize_seq(Items(take))
}

fn project(resource: &Value) -> Option<String> {
    let named = |(key, value): (String, Value)| (key == PROJECT_ATTRIBUTE).then(|| value.as_str().map(str::to_owned));
    plain_pairs(resource.get("attributes")).into_iter().find_map(named).flatten()
}

/// One OTLP span, whose attributes may come to so many bytes.
///
/// # Errors
/// The reason why it is none.
pub(super) fn span(object: &Map<String, Value>, max_bytes: usize) -> Result<Span, String> {
    let attributes = plain_pairs(field(object, &["attributes"]));
    let attributes = flatten_within(max_bytes, attributes.iter().map(|(key, value)| (key.as_str(), value)))
        .ok_or_else(|| too_large(max_bytes))?;
    let start_time_ns =
        nanoseconds(object, &["startTimeUnixNano", "start_time_unix_nano"])?.ok_or("no `startTimeUnixNano`")?;
    Ok(Span {
        span_id: id(object, &["spanId", "span_id"], 16)?.ok_or("no `spanId`")?,
        trace_id: id(object, &["traceId", "trace_id"], 32)?.ok_or("no `traceId`")?,
        parent_id: id(object, &["parentSpanId", "parent_span_id"], 16)?,
        // Protobuf, and its JSON mapping, leave out what is empty.
        name: text(object, &["name"])?.unwrap_or_default(),
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

/// A time of 0 is absent, as in protobuf.
fn nanoseconds(object: &Map<String, Value>, names: &[&str]) -> Result<Option<u64>, String> {
    let Some(value) = field(object, names) else { return Ok(None) };
    match value.as_u64().or_else(|| value.as_str()?.parse().ok()) {
        Some(0) => Ok(None),
        Some(ns) => nanoseconds_in_range(names[0], ns).map(Some),
        None => Err(no_time(names[0], value)),
    }
}

pub(super) fn nanoseconds_in_range(name: &str, ns: u64) -> Result<u64, String> {
    if ns <= i64::MAX as u64 { Ok(ns) } else { Err(no_time(name, ns)) }
}

fn no_time(name: &str, value: impl std::fmt::Display) -> String {
    format!("`{name}` {value} is no unix time in nanoseconds")
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
