//! One JSON value of an export to spans and annotations, whatever tool wrote it.

use serde_json::{Map, Value};

use super::flatten::{flatten, pairs};
use super::{names, otlp_json, time};
use crate::plugins::bindings::types::{
    Annotation, Attribute, AttributeValue, DocumentAnnotation, Span, SpanKind, SpanStatus,
};

/// OpenInference's name of the attribute.
const SPAN_KIND: &str = "openinference.span.kind";

/// What an export holds.
#[derive(Debug, PartialEq)]
pub(crate) enum Record {
    /// A span, with the annotations that its line carries. `project` is the one that the export names.
    Span { project: Option<String>, span: Span },
    /// An annotation apart from its span; `document` is the position of the annotated document.
    Annotation { project: Option<String>, span_id: String, document: Option<u32>, annotation: Annotation },
}

/// Gives `out` every record of `value`, and the reason for everything that is none:
///
/// - a span, as Phoenix's REST API and its data frames write it (`context.span_id`, `attributes` flat or nested,
///   `annotations` and `document_annotations` optional), or as OTLP-JSON does;
/// - a span or document annotation in Phoenix's shape;
/// - an OTLP export request (`resourceSpans`);
/// - a list of these, or a page of Phoenix's API (`{"data": [...]}`).
pub(crate) fn records(value: &Value, out: &mut dyn FnMut(Result<Record, String>)) {
    let object = match value {
        Value::Array(items) => return items.iter().for_each(|item| records(item, out)),
        Value::Object(object) => object,
        _ => return out(Err("not a JSON object".to_owned())),
    };
    if let Some(Value::Array(items)) = object.get("data") {
        items.iter().for_each(|item| records(item, out));
    } else if let Some(resources) = field(object, &["resourceSpans", "resource_spans"]) {
        otlp_json::resource_spans(resources, out);
    } else if field(object, &["startTimeUnixNano", "start_time_unix_nano"]).is_some() {
        out(otlp_json::span(object, usize::MAX).map(|span| Record::Span { project: project(object), span }));
    } else if field(object, &["start_time", "context", "context.span_id"]).is_some() {
        span(object, out);
    } else if field(object, &["annotator_kind", "annotatorKind", "result"]).is_some() {
        out(annotation_line(object));
    } else {
        out(Err("neither a span (`context.span_id`, `start_time`) nor an annotation (`span_id`, `annotator_kind`)"
            .to_owned()));
    }
}

fn span(object: &Map<String, Value>, out: &mut dyn FnMut(Result<Record, String>)) {
    let mut span = match bare_span(object) {
        Ok(span) => span,
        Err(reason) => return out(Err(reason)),
    };
    for (key, document) in [("annotations", false), ("document_annotations", true)] {
        let Some(items) = field(object, &[key]) else { continue };
        for (i, item) in items.as_array().map_or(&[][..], Vec::as_slice).iter().enumerate() {
            let parsed = item.as_object().ok_or_else(|| "not a JSON object".to_owned()).and_then(|item| {
                let position = document_position(item)?;
                Ok((position, annotation(item)?))
            });
            match parsed {
                Ok((None, _)) if document => out(Err(format!("`{key}[{i}]` has no `document_position`"))),
                Ok((None, annotation)) => span.annotations.push(annotation),
                Ok((Some(position), annotation)) => {
                    span.document_annotations.push(DocumentAnnotation { position, annotation });
                }
                Err(reason) => out(Err(format!("`{key}[{i}]`: {reason}"))),
            }
        }
    }
    out(Ok(Record::Span { project: project(object), span }));
}

fn bare_span(object: &Map<String, Value>) -> Result<Span, String> {
    let mut attributes = match field(object, &["attributes"]) {
        Some(Value::Object(attributes)) => flatten(pairs(attributes)),
        Some(_) => return Err("`attributes` is not an object".to_owned()),
        None => flatten(pairs(object).filter_map(|(key, value)| Some((key.strip_prefix("attributes.")?, value)))),
    };
    let start_time_ns = time_field(object, &["start_time"])?.ok_or("no `start_time`")?;
    let kind = field(object, &["span_kind", "kind"]).and_then(Value::as_str);
    let status = text(object, &["status_code", "status.code"])?;
    // Phoenix takes the attribute out and gives the field instead; rules match the attribute.
    let known = kind.filter(|kind| names::span_kind(kind) != SpanKind::Unknown);
    if let Some(kind) = known.filter(|_| attributes.iter().all(|attribute| attribute.key != SPAN_KIND)) {
        attributes
            .push(Attribute { key: SPAN_KIND.to_owned(), value: AttributeValue::Text(kind.to_ascii_uppercase()) });
    }
    Ok(Span {
        span_id: id(object, &["context.span_id", "span_id"], 16)?.ok_or("no `context.span_id`")?,
        trace_id: id(object, &["context.trace_id", "trace_id"], 32)?.ok_or("no `context.trace_id`")?,
        parent_id: id(object, &["parent_id", "parent_span_id"], 16)?,
        name: text(object, &["name"])?.ok_or("no `name`")?,
        kind: span_kind(&attributes, kind),
        status: status.and_then(|status| names::span_status(&status)).unwrap_or(SpanStatus::Unset),
        start_time_ns,
        end_time_ns: time_field(object, &["end_time"])?.unwrap_or(start_time_ns),
        attributes,
        annotations: Vec::new(),
        document_annotations: Vec::new(),
    })
}

/// OpenInference's attribute says it; where it is absent, the export's own field.
pub(super) fn span_kind(attributes: &[Attribute], field: Option<&str>) -> SpanKind {
    let attribute = attributes.iter().find_map(|attribute| match &attribute.value {
        AttributeValue::Text(kind) if attribute.key == SPAN_KIND => Some(kind.as_str()),
        _ => None,
    });
    attribute.or(field).map_or(SpanKind::Unknown, names::span_kind)
}

fn annotation_line(object: &Map<String, Value>) -> Result<Record, String> {
    let span_id = id(object, &["span_id", "context.span_id", "spanId"], 16)?
        .ok_or("an annotation without `span_id`: those of traces and sessions are not used")?;
    Ok(Record::Annotation {
        project: project(object),
        span_id,
        document: document_position(object)?,
        annotation: annotation(object)?,
    })
}

fn annotation(object: &Map<String, Value>) -> Result<Annotation, String> {
    let name = text(object, &["name"])?.ok_or("an annotation without `name`")?;
    let kind = text(object, &["annotator_kind", "annotatorKind"])?.ok_or("an annotation without `annotator_kind`")?;
    let score = match field(object, &["result.score", "score"]) {
        Some(score) => Some(score.as_f64().ok_or_else(|| format!("`score` {score} is not a number"))?),
        None => None,
    };
    let created_at_ns = time_field(object, &["created_at", "createdAt"])?;
    let updated_at_ns = time_field(object, &["updated_at", "updatedAt"])?.or(created_at_ns).unwrap_or(0);
    Ok(Annotation {
        annotator_kind: names::annotator_kind(&kind)
            .ok_or_else(|| format!("`annotator_kind` `{kind}` is none of HUMAN, LLM, CODE"))?,
        label: text(object, &["result.label", "label"])?,
        score,
        explanation: text(object, &["result.explanation", "explanation"])?,
        identifier: text(object, &["identifier"])?.unwrap_or_default(),
        metadata: match field(object, &["metadata"]) {
            Some(Value::Object(metadata)) => annotation_metadata(metadata),
            Some(_) => return Err("an annotation's `metadata` is not an object".to_owned()),
            None => Vec::new(),
        },
        created_at_ns: created_at_ns.unwrap_or(updated_at_ns),
        updated_at_ns,
        name,
    })
}

/// Flattened, as attributes are; and what is an object or a list of different things, as JSON too: what a person
/// corrected is often that. An empty one is nothing, as everywhere.
fn annotation_metadata(metadata: &Map<String, Value>) -> Vec<Attribute> {
    let mut found = flatten(pairs(metadata));
    for (key, value) in metadata {
        let is_whole = found.iter().any(|attribute| attribute.key == *key);
        let is_full = value.as_object().is_some_and(|object| !object.is_empty())
            || value.as_array().is_some_and(|list| !list.is_empty());
        if is_full && !is_whole {
            found.push(Attribute { key: key.clone(), value: AttributeValue::Text(value.to_string()) });
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    found
}

fn document_position(object: &Map<String, Value>) -> Result<Option<u32>, String> {
    let Some(position) = field(object, &["document_position", "documentPosition"]) else { return Ok(None) };
    let number = position.as_u64().and_then(|position| u32::try_from(position).ok());
    number.map(Some).ok_or_else(|| format!("`document_position` {position} is not a position"))
}

fn project(object: &Map<String, Value>) -> Option<String> {
    field(object, &["project", "project_name"])?.as_str().map(str::to_owned)
}

/// The first of these fields that is there and not null; a dotted name is also looked up as a path.
pub(super) fn field<'a>(object: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    let path = |name: &str| {
        let (head, rest) = name.split_once('.')?;
        object.get(head)?.get(rest)
    };
    names.iter().find_map(|name| object.get(*name).or_else(|| path(name)).filter(|value| !value.is_null()))
}

/// A text field; an empty one is there, and empty.
pub(super) fn text(object: &Map<String, Value>, names: &[&str]) -> Result<Option<String>, String> {
    match field(object, names) {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("`{}` {other} is not a text", names[0])),
        None => Ok(None),
    }
}

/// A hex id of this many digits, in lower case; an empty one is absent.
pub(super) fn id(object: &Map<String, Value>, names: &[&str], digits: usize) -> Result<Option<String>, String> {
    text(object, names)?.map_or(Ok(None), |id| checked_id(names[0], id, digits))
}

/// As [`id`], of a text that is there.
pub(super) fn checked_id(name: &str, id: String, digits: usize) -> Result<Option<String>, String> {
    match id.as_str() {
        "" => Ok(None),
        id if id.len() == digits && id.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(Some(id.to_ascii_lowercase())),
        id => Err(format!("`{name}` `{id}` is not {digits} hex digits")),
    }
}

fn time_field(object: &Map<String, Value>, names: &[&str]) -> Result<Option<u64>, String> {
    field(object, names)
        .map(|value| time::parse(value).map_err(|reason| format!("`{}`: {reason}", names[0])))
        .transpose()
}
