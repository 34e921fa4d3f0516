//! What a review in Phoenix is made of: a project, a span for each item, and what people said of it.

use serde_json::{Value, json};

use super::api::{Cursors, PAGE, Phoenix, Project};
use super::error::PhoenixError;

/// The verdict that the annotation has: the name that extractors take for one.
const VERDICT_NAME: &str = "human_approval";
/// Keys of an annotation's metadata that hold what the answer should have been.
const CORRECTION_KEYS: [&str; 4] = ["corrected_output", "correction", "corrected_response", "expected_output"];
/// Spans of one request.
const CHUNK: usize = 200;
/// What Phoenix's own pages call a verdict whose person they do not know.
const OF_A_PAGE: &str = "px-app";

/// A span that shows an item to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewSpan {
    /// 16 hex digits.
    pub span_id: String,
    /// 32 hex digits.
    pub trace_id: String,
    /// The item.
    pub item: i64,
    /// The version that is shown.
    pub version: u32,
    /// Of the content that is shown.
    pub content_sha256: String,
    /// What the model is given.
    pub input: String,
    /// What it should answer.
    pub output: String,
    /// What it is told to do.
    pub instruction: String,
}

/// What a person said of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HumanVerdict {
    /// The item, its version and its digest, as the span has them.
    pub seen: (i64, u32, String),
    /// Who, where that is known.
    pub user: Option<String>,
    /// The verdict.
    pub label: String,
    /// What the answer should have been.
    pub correction: Option<String>,
    /// Why.
    pub explanation: Option<String>,
}

/// What was shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct PushReport {
    /// Spans that were made.
    pub new: usize,
    /// Spans that were there.
    pub there: usize,
}

/// Shows spans in the project `name`, which is made where it is not there. Doing it again changes nothing.
///
/// # Errors
/// [`PhoenixError`]: some may be there then.
pub fn push(phoenix: &Phoenix, name: &str, spans: &[ReviewSpan]) -> Result<PushReport, PhoenixError> {
    let project = match phoenix.project(name) {
        Err(PhoenixError::UnknownProject { .. }) => {
            phoenix.create_project(name, "Generated examples for people to review, shown by tunesmith")?;
            phoenix.project(name)?
        }
        project => project?,
    };
    let ids: Vec<_> = spans.iter().map(|span| span.span_id.clone()).collect();
    let there = phoenix.existing(&project, &ids)?;
    let new: Vec<_> = spans.iter().filter(|span| !there.contains(&span.span_id)).collect();
    for chunk in new.chunks(CHUNK) {
        let data: Vec<_> = chunk.iter().map(|span| of_span(span)).collect();
        phoenix.create_spans(&project, &json!({ "data": data }))?;
    }
    Ok(PushReport { new: new.len(), there: there.len() })
}

fn of_span(span: &ReviewSpan) -> Value {
    let now = jiff::Timestamp::now().to_string();
    json!({
        "name": "tunesmith.review",
        "context": { "trace_id": span.trace_id, "span_id": span.span_id },
        "span_kind": "CHAIN",
        "start_time": now,
        "end_time": now,
        "status_code": "OK",
        "attributes": {
            "openinference.span.kind": "CHAIN",
            "tunesmith.item": span.item,
            "tunesmith.version": span.version,
            "tunesmith.content_sha256": span.content_sha256,
            "tunesmith.instruction": span.instruction,
            "input.value": span.input,
            "output.value": span.output,
        },
    })
}

/// Everything that people said of the items in project `name`, the first given first.
///
/// # Errors
/// [`PhoenixError`].
pub fn poll(phoenix: &Phoenix, name: &str) -> Result<Vec<HumanVerdict>, PhoenixError> {
    let project = phoenix.project(name)?;
    let shown = shown(phoenix, &project)?;
    let mut users = None;
    let mut verdicts = Vec::new();
    for chunk in shown.chunks(PAGE) {
        let ids: Vec<_> = chunk.iter().map(|(id, _)| id.clone()).collect();
        for annotation in phoenix.annotations(&project, &ids)? {
            if annotation["name"] != VERDICT_NAME || annotation["annotator_kind"] != "HUMAN" {
                continue;
            }
            let Some((_, seen)) = chunk.iter().find(|(id, _)| annotation["span_id"] == id.as_str()) else { continue };
            let at = annotation["updated_at"].as_str().unwrap_or_default().to_owned();
            verdicts.push((at, verdict(phoenix, &annotation, seen.clone(), &mut users)?));
        }
    }
    verdicts.sort_by(|one, other| one.0.cmp(&other.0)); // stable: those of one second stay in their order
    Ok(verdicts.into_iter().map(|(_, verdict)| verdict).collect())
}

type Shown = Vec<(String, (i64, u32, String))>;

/// The spans that show items, and which.
fn shown(phoenix: &Phoenix, project: &Project) -> Result<Shown, PhoenixError> {
    let (mut shown, mut cursors) = (Vec::new(), Cursors::default());
    loop {
        let page = phoenix.spans(project, cursors.current(), &[])?;
        for span in &page.items {
            let attributes = &span["attributes"];
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let item = attributes["tunesmith.item"].as_i64();
            let version = attributes["tunesmith.version"].as_u64().and_then(|version| u32::try_from(version).ok());
            let sha256 = text(&attributes["tunesmith.content_sha256"]);
            if let (Some(id), Some(item), Some(version), Some(sha256)) =
                (text(&span["context"]["span_id"]), item, version, sha256)
            {
                shown.push((id, (item, version, sha256)));
            }
        }
        if !cursors.advance(page.next, phoenix)? {
            return Ok(shown);
        }
    }
}

fn verdict(
    phoenix: &Phoenix,
    annotation: &Value,
    seen: (i64, u32, String),
    users: &mut Option<Vec<(String, String)>>,
) -> Result<HumanVerdict, PhoenixError> {
    let text = |value: &Value| value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let user = match text(&annotation["user_id"]) {
        Some(id) => {
            let users = match users {
                Some(users) => users,
                None => users.insert(phoenix.users()?),
            };
            users.iter().find(|(known, _)| *known == id).map(|(_, name)| name.clone())
        }
        None => None,
    };
    let identifier = || text(&annotation["identifier"]).filter(|identifier| !identifier.starts_with(OF_A_PAGE));
    let metadata = &annotation["metadata"];
    Ok(HumanVerdict {
        seen,
        user: user.or_else(identifier),
        label: text(&annotation["result"]["label"]).unwrap_or_default(),
        correction: CORRECTION_KEYS.into_iter().find_map(|key| text(&metadata[key])),
        explanation: text(&annotation["result"]["explanation"]),
    })
}
