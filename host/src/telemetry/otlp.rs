//! Export requests of OTLP as a receiver takes them: from somebody else, a span at a time.
//!
//! A request is never a tree in memory. Two bytes of protobuf are an empty span, which is a struct of 300; two of JSON are a
//! number in a list, which is a value of 72.

use super::{otlp_json, otlp_proto};
use crate::plugins::bindings::types::Span;

/// The resource attribute by which OpenInference exporters name the project.
pub(super) const PROJECT_ATTRIBUTE: &str = "openinference.project.name";

/// How a request is written, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`
    Protobuf,
    /// `application/json`
    Json,
}

/// A span and the project that its resource names, or why it can't be stored, with its path in the request.
pub(crate) type Received = Result<(Option<String>, Span), String>;

/// Gives `out` every span of an export request. One that is longer than `max_span_bytes`, as it came or with its nested
/// attributes flattened, can't be stored.
///
/// # Errors
/// The reason why it is no export request.
pub(crate) fn received(
    encoding: Encoding,
    body: &[u8],
    max_span_bytes: usize,
    out: &mut dyn FnMut(Received),
) -> Result<(), String> {
    match encoding {
        Encoding::Protobuf => otlp_proto::request(body, max_span_bytes, out),
        Encoding::Json => otlp_json::request(body, max_span_bytes, out),
    }
}

/// Where a span is in its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) resource: usize,
    pub(super) scope: usize,
    pub(super) span: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`resourceSpans[{}].scopeSpans[{}].spans[{}]`", self.resource, self.scope, self.span)
    }
}

pub(super) fn check_length(bytes: usize, max_span_bytes: usize) -> Result<(), String> {
    match bytes <= max_span_bytes {
        true => Ok(()),
        false => Err(format!("its {bytes} bytes are more than the {max_span_bytes} of a span")),
    }
}

/// The reason for attributes that [`flatten_within`](super::flatten::flatten_within) refuses.
pub(super) fn too_large(max_span_bytes: usize) -> String {
    format!("its attributes, flattened, are more than the {max_span_bytes} bytes of a span")
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status};
    use prost::Message;
    use serde_json::{Value, json};

    use super::*;
    use crate::telemetry::jsonl::{Record, records};

    const NO_LIMIT: usize = usize::MAX;

    fn all(encoding: Encoding, body: &[u8], max_span_bytes: usize) -> Result<Vec<Received>, String> {
        let mut found = Vec::new();
        received(encoding, body, max_span_bytes, &mut |each| found.push(each))?;
        Ok(found)
    }

    fn any(value: Any) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    fn pair(key: &str, value: Any) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(any(value)), ..KeyValue::default() }
    }

    fn text(value: &str) -> Any {
        Any::StringValue(value.to_owned())
    }

    fn list(values: Vec<Any>) -> Any {
        Any::ArrayValue(ArrayValue { values: values.into_iter().map(any).collect() })
    }

    fn map(values: Vec<KeyValue>) -> Any {
        Any::KvlistValue(KeyValueList { values })
    }

    /// Each type of value, nested ones too; and spans with something wrong.
    fn protobuf() -> Vec<u8> {
        let span = OtlpSpan {
            trace_id: (0x10..0x20).collect(),
            span_id: (0xa8..0xb0).collect(),
            parent_span_id: (0..8).collect(),
            name: "RoutingAgent.route".to_owned(),
            start_time_unix_nano: 1_793_722_924_801_000_192,
            end_time_unix_nano: 1_793_722_925_223_045_120,
            attributes: vec![
                pair("openinference.span.kind", text("AGENT")),
                pair("input.value", text("will it \"rain\"?\n\u{0}")),
                pair("output.value", map(vec![pair("agent", text("weather")), pair("n", Any::IntValue(1))])),
                pair("tokens", Any::IntValue((1 << 53) + 1)),
                pair("confidence", Any::DoubleValue(0.1 + 0.2)),
                pair("whole", Any::DoubleValue(1.0)),
                pair("nan", Any::DoubleValue(f64::NAN)),
                pair("cached", Any::BoolValue(false)),
                pair("bytes", Any::BytesValue(vec![0xfb, 0xff, 0x00, 0x01])),
                pair("tags", list(vec![text("a"), text("b")])),
                pair("mixed", list(vec![text("a"), Any::IntValue(-3)])),
                pair("empty", list(vec![])),
                pair(
                    "retrieval.documents",
                    list(vec![
                        map(vec![pair("document.id", text("d0")), pair("document.score", Any::DoubleValue(1.5))]),
                        map(vec![pair("document.id", text("d1"))]),
                    ]),
                ),
                pair("metadata", text("{\"attempt\": 1}")),
                KeyValue { key: "nothing".to_owned(), ..KeyValue::default() },
            ],
            status: Some(Status { code: 1, message: String::new() }),
            ..OtlpSpan::default()
        };
        let failed = OtlpSpan {
            parent_span_id: vec![],
            span_id: vec![7; 8],
            end_time_unix_nano: 0,
            status: Some(Status { code: 2, message: "no".to_owned() }),
            attributes: vec![],
            ..span.clone()
        };
        let spans = vec![
            span.clone(),
            failed,
            OtlpSpan { span_id: vec![], ..span.clone() },
            OtlpSpan { trace_id: vec![1; 15], ..span.clone() },
            OtlpSpan { start_time_unix_nano: 0, ..span.clone() },
            OtlpSpan { start_time_unix_nano: u64::MAX, ..span },
        ];
        let resource = Resource { attributes: vec![pair(PROJECT_ATTRIBUTE, text("acme"))], ..Resource::default() };
        let scope_spans = vec![ScopeSpans::default(), ScopeSpans { spans, ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }

    /// The same in OTLP's JSON mapping, written by hand.
    fn json_request() -> Value {
        let span = json!({
            "traceId": "101112131415161718191a1b1c1d1e1f", "spanId": "A8A9AAABACADAEAF",
            "parentSpanId": "0001020304050607", "name": "RoutingAgent.route",
            "startTimeUnixNano": "1793722924801000192", "endTimeUnixNano": "1793722925223045120",
            "attributes": [
                { "key": "openinference.span.kind", "value": { "stringValue": "AGENT" } },
                { "key": "input.value", "value": { "stringValue": "will it \"rain\"?\n\u{0}" } },
                { "key": "output.value", "value": { "kvlistValue": { "values": [
                    { "key": "agent", "value": { "stringValue": "weather" } }, { "key": "n", "value": { "intValue": "1" } }
                ] } } },
                { "key": "tokens", "value": { "intValue": "9007199254740993" } },
                { "key": "confidence", "value": { "doubleValue": 0.30000000000000004 } },
                { "key": "whole", "value": { "doubleValue": 1 } },
                { "key": "nan", "value": { "doubleValue": "NaN" } },
                { "key": "cached", "value": { "boolValue": false } },
                { "key": "bytes", "value": { "bytesValue": "+/8AAQ==" } },
                { "key": "tags", "value": { "arrayValue": { "values": [{ "stringValue": "a" }, { "stringValue": "b" }] } } },
                { "key": "mixed", "value": { "arrayValue": { "values": [{ "stringValue": "a" }, { "intValue": "-3" }] } } },
                { "key": "empty", "value": { "arrayValue": {} } },
                { "key": "retrieval.documents", "value": { "arrayValue": { "values": [
                    { "kvlistValue": { "values": [
                        { "key": "document.id", "value": { "stringValue": "d0" } },
                        { "key": "document.score", "value": { "doubleValue": 1.5 } }
                    ] } },
                    { "kvlistValue": { "values": [{ "key": "document.id", "value": { "stringValue": "d1" } }] } }
                ] } } },
                { "key": "metadata", "value": { "stringValue": "{\"attempt\": 1}" } },
                { "key": "nothing" }
            ],
            "status": { "code": 1 }
        });
        let with = |changes: Value| {
            let mut span = span.clone();
            for (key, value) in changes.as_object().unwrap() {
                span[key] = value.clone();
            }
            span
        };
        let failed = json!({ "parentSpanId": "", "spanId": "0707070707070707", "endTimeUnixNano": "0", "attributes": [],
                             "status": { "code": "STATUS_CODE_ERROR", "message": "no" } });
        let spans = [
            span.clone(),
            with(failed),
            with(json!({ "spanId": "" })),
            with(json!({ "traceId": "01".repeat(15) })),
            with(json!({ "startTimeUnixNano": "0" })),
            with(json!({ "startTimeUnixNano": u64::MAX.to_string() })),
        ];
        let project = json!({ "attributes": [{ "key": PROJECT_ATTRIBUTE, "value": { "stringValue": "acme" } }] });
        json!({ "resourceSpans": [{ "scopeSpans": [{}, { "spans": spans }], "resource": project }] })
    }

    #[test]
    fn protobuf_and_json_and_an_import_give_the_same_spans_and_the_same_reasons() {
        let of_protobuf = all(Encoding::Protobuf, &protobuf(), NO_LIMIT).unwrap();
        let of_json = all(Encoding::Json, json_request().to_string().as_bytes(), NO_LIMIT).unwrap();
        let mut imported = Vec::new();
        records(&json_request(), &mut |record| {
            imported.push(record.map(|record| match record {
                Record::Span { project, span } => (project, span),
                Record::Annotation { .. } => panic!("no annotation is there"),
            }));
        });
        assert_eq!(of_protobuf, of_json);
        assert_eq!(of_protobuf, imported);

        let (project, span) = of_protobuf[0].clone().unwrap();
        assert_eq!(project.as_deref(), Some("acme"));
        assert_eq!((span.span_id.as_str(), span.attributes.len()), ("a8a9aaabacadaeaf", 15));
        let at = "`resourceSpans[0].scopeSpans[1]";
        let reasons: Vec<_> = of_protobuf[2..].iter().map(|each| each.clone().unwrap_err()).collect();
        assert_eq!(
            reasons,
            [
                format!("{at}.spans[2]`: no `spanId`"),
                format!("{at}.spans[3]`: `traceId` `{}` is not 32 hex digits", "01".repeat(15)),
                format!("{at}.spans[4]`: no `startTimeUnixNano`"),
                format!("{at}.spans[5]`: `startTimeUnixNano` 18446744073709551615 is no unix time in nanoseconds"),
            ]
        );
    }

    #[test]
    fn a_span_over_the_limit_is_refused_and_the_others_are_not() {
        for (encoding, body) in
            [(Encoding::Protobuf, protobuf()), (Encoding::Json, json_request().to_string().into_bytes())]
        {
            let found = all(encoding, &body, 300).unwrap();
            let reason = found[0].clone().unwrap_err();
            assert!(reason.starts_with("`resourceSpans[0].scopeSpans[1].spans[0]`: its "), "{reason}");
            assert!(reason.ends_with(" bytes are more than the 300 of a span"), "{reason}");
            assert_eq!(found[1].clone().unwrap().1.span_id, "0707070707070707");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_whole() {
        let reason = |encoding, body: &[u8]| all(encoding, body, NO_LIMIT).unwrap_err();
        for body in [&b"\xff\xff\xff"[..], b"\x0a\x7f", b"\x0a\x04\x12\x02\x12\x09", b"hello"] {
            let reason = reason(Encoding::Protobuf, body);
            assert!(reason.starts_with("not an ExportTraceServiceRequest in protobuf ("), "{reason}");
        }
        for body in ["", "{", "[]", "{\"resourceSpans\": {}}", "{\"resourceSpans\": [3]}"] {
            let reason = reason(Encoding::Json, body.as_bytes());
            assert!(reason.starts_with("not an ExportTraceServiceRequest in JSON ("), "{reason}");
        }
        assert_eq!(all(Encoding::Protobuf, b"", NO_LIMIT), Ok(vec![]));
        assert_eq!(all(Encoding::Json, b"{}", NO_LIMIT), Ok(vec![]));
    }
}
