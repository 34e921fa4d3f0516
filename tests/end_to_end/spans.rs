//! Telemetry of a routing agent, as Phoenix and as OpenTelemetry export it.

use serde_json::{Value, json};

/// The agents that queries are routed to, in turn.
const AGENTS: [&str; 3] = ["weather_agent", "calendar_agent", "code_agent"];

/// What a person said of an answer.
pub(crate) enum Verdict {
    Approved,
    Rejected,
    /// Rejected, with the answer that it should have been.
    Corrected(&'static str),
    None,
}

/// A span that was answered with `answer(index)`, and its annotations within it.
pub(crate) fn span(index: usize, verdict: Verdict) -> Value {
    let annotation = |label: &str, metadata: Value| {
        json!([{
            "name": "human_approval", "annotator_kind": "HUMAN", "identifier": "", "metadata": metadata,
            "result": { "label": label }, "created_at": "2025-03-04T06:26:01Z", "updated_at": "2025-03-04T06:26:01Z",
        }])
    };
    let annotations = match verdict {
        Verdict::Approved => annotation("approved", json!({})),
        Verdict::Rejected => annotation("rejected", json!({})),
        Verdict::Corrected(output) => annotation("rejected", json!({ "corrected_output": output })),
        Verdict::None => json!([]),
    };
    json!({
        "name": "RoutingAgent.route",
        "context": { "trace_id": format!("{index:032x}"), "span_id": span_id(index) },
        "span_kind": "AGENT", "status_code": "OK",
        "start_time": "2025-03-03T08:01:16Z", "end_time": "2025-03-03T08:01:17Z",
        "attributes": { "input.value": query(index), "output.value": answer(index) },
        "annotations": annotations,
    })
}

/// The same span, unjudged, within an OTLP-JSON export of `indices`.
pub(crate) fn otlp(indices: std::ops::Range<usize>) -> Value {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let span = |index: usize| {
        json!({
            "name": "RoutingAgent.route", "traceId": format!("{index:032x}"), "spanId": span_id(index),
            "startTimeUnixNano": "1740988876000000000", "endTimeUnixNano": "1740988877000000000",
            "status": { "code": "STATUS_CODE_OK" },
            "attributes": [
                text("openinference.span.kind", "AGENT"),
                text("input.value", &query(index)),
                text("output.value", answer(index)),
            ],
        })
    };
    let spans: Vec<_> = indices.map(span).collect();
    json!({ "resourceSpans": [{ "resource": { "attributes": [] }, "scopeSpans": [{ "spans": spans }] }] })
}

pub(crate) fn span_id(index: usize) -> String {
    format!("{index:016x}")
}

pub(crate) fn query(index: usize) -> String {
    format!("query {index} for the {}", answer(index))
}

pub(crate) fn answer(index: usize) -> &'static str {
    AGENTS[index % 3]
}

/// JSON lines.
pub(crate) fn lines(values: impl IntoIterator<Item = Value>) -> String {
    values.into_iter().map(|value| format!("{value}\n")).collect()
}
