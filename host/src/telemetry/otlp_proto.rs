//! OTLP in protobuf. The lists around spans are walked where they lie, and each span is decoded, and let go, by itself.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span as OtlpSpan;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};
use serde_json::Value;

use super::flatten::flatten_within;
use super::jsonl::{checked_id, span_kind};
use super::otlp::{PROJECT_ATTRIBUTE, Place, Received, check_length, too_large};
use super::otlp_json::nanoseconds_in_range;
use crate::plugins::bindings::types::{Span, SpanStatus};

/// `ExportTraceServiceRequest.resource_spans`
const RESOURCE_SPANS: u32 = 1;
/// `ResourceSpans.resource`
const RESOURCE: u32 = 1;
/// `ResourceSpans.scope_spans`
const SCOPE_SPANS: u32 = 2;
/// `ScopeSpans.spans`
const SPANS: u32 = 2;

/// As [`super::otlp::received`].
pub(super) fn request(body: &[u8], max_span_bytes: usize, out: &mut dyn FnMut(Received)) -> Result<(), String> {
    let mut resource = 0;
    each(body, RESOURCE_SPANS, &mut |resource_spans| {
        let project = project(resource_spans, max_span_bytes)?;
        let mut scope = 0;
        each(resource_spans, SCOPE_SPANS, &mut |scope_spans| {
            let mut index = 0;
            each(scope_spans, SPANS, &mut |bytes| {
                let place = Place { resource, scope, span: index };
                index += 1;
                let parsed = match check_length(bytes.len(), max_span_bytes) {
                    Ok(()) => span(OtlpSpan::decode(bytes)?, max_span_bytes),
                    Err(reason) => Err(reason),
                };
                out(match parsed {
                    Ok(span) => Ok((project.clone(), span)),
                    Err(reason) => Err(format!("{place}: {reason}")),
                });
                Ok(())
            })?;
            scope += 1;
            Ok(())
        })?;
        resource += 1;
        Ok(())
    })
    .map_err(|Malformed(reason)| format!("not an ExportTraceServiceRequest in protobuf ({reason})"))
}

/// Why a message is none.
struct Malformed(String);

impl From<DecodeError> for Malformed {
    fn from(error: DecodeError) -> Self {
        Self(error.to_string())
    }
}

/// Gives `take` the bytes of every field `tag` of a message, in order.
fn each(mut message: &[u8], tag: u32, take: &mut dyn FnMut(&[u8]) -> Result<(), Malformed>) -> Result<(), Malformed> {
    while !message.is_empty() {
        let (field, wire_type) = decode_key(&mut message)?;
        if (field, wire_type) != (tag, WireType::LengthDelimited) {
            skip_field(wire_type, field, &mut message, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut message)?).unwrap_or(usize::MAX);
        let (bytes, rest) =
            message.split_at_checked(length).ok_or_else(|| Malformed("a field goes beyond its message".to_owned()))?;
        take(bytes)?;
        message = rest;
    }
    Ok(())
}

/// The project that a resource names. The resource may come behind its spans.
fn project(resource_spans: &[u8], max_span_bytes: usize) -> Result<Option<String>, Malformed> {
    let mut project = None;
    each(resource_spans, RESOURCE, &mut |bytes| {
        check_length(bytes.len(), max_span_bytes).map_err(|reason| Malformed(format!("a resource: {reason}")))?;
        let named = Resource::decode(bytes)?.attributes.into_iter().find(|pair| pair.key == PROJECT_ATTRIBUTE);
        if let Some(Any::StringValue(name)) = named.and_then(|pair| pair.value?.value) {
            project = Some(name);
        }
        Ok(())
    })?;
    Ok(project)
}

fn span(span: OtlpSpan, max_span_bytes: usize) -> Result<Span, String> {
    let attributes = plain_pairs(span.attributes);
    let attributes = flatten_within(max_span_bytes, attributes.iter().map(|(key, value)| (key.as_str(), value)))
        .ok_or_else(|| too_large(max_span_bytes))?;
    // A number that is absent is 0 in protobuf.
    let nanoseconds = |name, ns| (ns != 0).then(|| nanoseconds_in_range(name, ns)).transpose();
    let start_time_ns = nanoseconds("startTimeUnixNano", span.start_time_unix_nano)?.ok_or("no `startTimeUnixNano`")?;
    Ok(Span {
        span_id: id("spanId", &span.span_id, 16)?.ok_or("no `spanId`")?,
        trace_id: id("traceId", &span.trace_id, 32)?.ok_or("no `traceId`")?,
        parent_id: id("parentSpanId", &span.parent_span_id, 16)?,
        name: span.name,
        kind: span_kind(&attributes, None),
        status: match span.status.map_or(0, |status| status.code) {
            1 => SpanStatus::Ok,
            2 => SpanStatus::Error,
            _ => SpanStatus::Unset,
        },
        start_time_ns,
        end_time_ns: nanoseconds("endTimeUnixNano", span.end_time_unix_nano)?.unwrap_or(start_time_ns),
        attributes,
        annotations: Vec::new(),
        document_annotations: Vec::new(),
    })
}

fn id(name: &str, bytes: &[u8], digits: usize) -> Result<Option<String>, String> {
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            hex.extend(char::from_digit(digit.into(), 16));
        }
    }
    checked_id(name, hex, digits)
}

fn plain_pairs(key_values: Vec<KeyValue>) -> Vec<(String, Value)> {
    let pair = |each: KeyValue| Some((each.key, plain(each.value?)));
    key_values.into_iter().filter_map(pair).collect()
}

/// An AnyValue as plain JSON, as its JSON mapping gives it.
fn plain(any: AnyValue) -> Value {
    match any.value {
        Some(Any::StringValue(text)) => Value::String(text),
        Some(Any::BytesValue(bytes)) => Value::String(STANDARD.encode(bytes)),
        Some(Any::BoolValue(boolean)) => Value::Bool(boolean),
        Some(Any::IntValue(integer)) => Value::from(integer),
        Some(Any::DoubleValue(number)) => Value::from(number),
        Some(Any::ArrayValue(array)) => Value::Array(array.values.into_iter().map(plain).collect()),
        Some(Any::KvlistValue(map)) => Value::Object(plain_pairs(map.values).into_iter().collect()),
        Some(Any::StringValueStrindex(_)) | None => Value::Null,
    }
}
