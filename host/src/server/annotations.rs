//! `POST /v1/annotations`: what answers were worth, as `tunesmith annotate` takes it: a JSON object, or a list of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::Shared;
use super::body::{self, Compression};
use super::counters::Counters;
use super::refusal::Refusal;
use super::store_writer::{Work, Written};
use crate::config::Annotator;
use crate::telemetry::{Encoding, Feedback, VERDICT_NAME, feedback_span_id};

/// 1 MiB of JSON is at most 36 MiB in memory, and some thousand verdicts.
const MOST_BYTES: usize = 1 << 20;

pub(super) async fn receive(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    take(&shared, request).await.unwrap_or_else(|refusal| {
        Counters::add(&shared.counters.refused, 1);
        refusal.response(Some(Encoding::Json))
    })
}

async fn take(shared: &Shared, request: Request) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let max = MOST_BYTES.min(shared.config.max_body);
    let admitted = shared.tenants.of(&head.headers).and_then(|tenant| {
        let compression = Compression::of(&head.headers)?;
        tenant.writer()?.check_disk(0)?;
        Ok((tenant, compression))
    });
    let (tenant, compression) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            body::discard(body, max).await;
            return Err(refusal);
        }
    };
    let mut room = tenant.writer()?.budget.room();
    let bytes = body::read(body, max, shared.config.request_timeout, &mut room).await?;
    let bytes = body::inflate(bytes, compression, max, &mut room)?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not JSON ({error})")))?;
    let (feedback, is_list) = match &value {
        Value::Array(items) => {
            let each = |(index, item)| feedback(item).map_err(|wrong| wrong.at(&format!("[{index}].")));
            (items.iter().enumerate().map(each).collect::<Result<Vec<_>, _>>(), true)
        }
        item => (feedback(item).map(|feedback| vec![feedback]).map_err(|wrong| wrong.at("")), false),
    };
    let feedback = feedback?;
    let span_ids: Vec<_> = feedback.iter().map(|each| each.span_id.clone()).collect();
    match tenant.writer()?.write(Work::Feedback(feedback), room).await? {
        Written::Feedback(annotated) if is_list => Ok(Json(annotated).into_response()),
        Written::Feedback(annotated) => Ok(Json(annotated.first()).into_response()),
        Written::UnknownSpan(index) => Err(unknown_span(&span_ids[index])),
        Written::Spans => unreachable!("feedback was to be written"),
    }
}

fn unknown_span(span_id: &str) -> Refusal {
    let message = format!(
        "span `{span_id}` has not been received yet, or several projects have it; nothing of this request is stored: exporters \
         send spans some seconds after their end, so send it again later, check the id, or name its `project`"
    );
    Refusal::new(StatusCode::NOT_FOUND, message)
}

/// A field that is wrong, and how.
struct Wrong {
    field: String,
    what: String,
}

impl Wrong {
    fn new(field: &str, what: impl Into<String>) -> Self {
        Self { field: field.to_owned(), what: what.into() }
    }

    fn at(self, place: &str) -> Refusal {
        let field = format!("{place}{}", self.field);
        let message = format!("`{field}`: {}", self.what);
        Refusal { field: Some(field), ..Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message) }
    }
}

const FIELDS: [&str; 10] = [
    "span_id",
    "name",
    "label",
    "score",
    "explanation",
    "correction",
    "document",
    "annotator_kind",
    "identifier",
    "project",
];

fn feedback(value: &Value) -> Result<Feedback, Wrong> {
    let object = value.as_object().ok_or_else(|| Wrong::new("span_id", "not in a JSON object"))?;
    if let Some(unknown) = object.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let what = format!("is no field of feedback; there are `{}`", FIELDS.join("`, `"));
        return Err(Wrong::new(unknown, what));
    }
    let span_id =
        text(object, "span_id")?.ok_or_else(|| Wrong::new("span_id", "is not there: which span is judged"))?;
    let feedback = Feedback {
        span_id: feedback_span_id(&span_id).map_err(|what| Wrong::new("span_id", format!("`{span_id}` is {what}")))?,
        name: text(object, "name")?.unwrap_or_else(|| VERDICT_NAME.to_owned()),
        label: text(object, "label")?,
        score: number(object, "score", Value::as_f64, "a number")?,
        explanation: text(object, "explanation")?,
        correction: text(object, "correction")?,
        document: number(object, "document", document, "the position of a document, counted from 0")?,
        annotator_kind: annotator_kind(object)?.into(),
        identifier: text(object, "identifier")?.unwrap_or_default(),
        project: text(object, "project")?,
    };
    match (&feedback.label, &feedback.score, &feedback.correction) {
        (None, None, None) => {
            Err(Wrong::new("label", "is not there, and no `score` or `correction`: what is the verdict"))
        }
        _ => Ok(feedback),
    }
}

/// Null is absent.
fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

fn text(object: &Map<String, Value>, name: &str) -> Result<Option<String>, Wrong> {
    match field(object, name) {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(Wrong::new(name, format!("{other} is not a text"))),
        None => Ok(None),
    }
}

fn number<T>(
    object: &Map<String, Value>,
    name: &str,
    parse: impl Fn(&Value) -> Option<T>,
    want: &str,
) -> Result<Option<T>, Wrong> {
    let parsed = |value| parse(value).ok_or_else(|| Wrong::new(name, format!("{value} is not {want}")));
    field(object, name).map(parsed).transpose()
}

fn document(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|position| u32::try_from(position).ok())
}

/// As the command line takes it, or as Phoenix writes it.
fn annotator_kind(object: &Map<String, Value>) -> Result<Annotator, Wrong> {
    let Some(kind) = text(object, "annotator_kind")? else { return Ok(Annotator::Human) };
    match kind.to_ascii_lowercase().as_str() {
        "human" => Ok(Annotator::Human),
        "llm" => Ok(Annotator::Llm),
        "code" => Ok(Annotator::Code),
        _ => Err(Wrong::new("annotator_kind", format!("`{kind}` is none of `human`, `llm`, `code`"))),
    }
}
