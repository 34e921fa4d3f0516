//! What a run trained on, told to the server that it came from: an annotation `used_in_training` on each span.

use serde_json::json;

use super::api::{PAGE, Phoenix};
use super::error::PhoenixError;

/// The annotation's name.
pub const USED_IN_TRAINING: &str = "used_in_training";

/// A span and the part of the run's data that it went into: `train` or `held_out`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Used {
    /// 16 hex digits.
    pub span_id: String,
    /// The part.
    pub set: String,
}

/// What was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MarkReport {
    /// Spans that have the annotation now.
    pub marked: u64,
    /// Spans that the server does not have any more.
    pub missing: u64,
}

/// Annotates the spans of run `run`, whose adapter's weights have this digest. Doing it again changes nothing.
///
/// # Errors
/// [`PhoenixError`]: some may be annotated then.
pub fn mark_used(
    phoenix: &Phoenix,
    run: &str,
    adapter_sha256: Option<&str>,
    used: &[Used],
) -> Result<MarkReport, PhoenixError> {
    let mut report = MarkReport::default();
    for page in used.chunks(PAGE) {
        let mut left: Vec<&Used> = page.iter().collect();
        // The server refuses a page for one span that it does not have, and names those that are lacking.
        while !left.is_empty() {
            let annotation = |used: &&Used| {
                json!({
                    "span_id": used.span_id,
                    "name": USED_IN_TRAINING,
                    "annotator_kind": "CODE",
                    "identifier": run,
                    "result": { "label": used.set },
                    "metadata": {
                        "run": run, "adapter_sha256": adapter_sha256, "tunesmith": env!("CARGO_PKG_VERSION"),
                    },
                })
            };
            let data: Vec<_> = left.iter().map(annotation).collect();
            match phoenix.annotate(&json!({ "data": data })) {
                Ok(()) => {
                    report.marked += left.len() as u64;
                    break;
                }
                Err(PhoenixError::Refused { status: 404, answer, url }) => {
                    let before = left.len();
                    left.retain(|used| !answer.contains(&used.span_id));
                    if left.len() == before {
                        return Err(PhoenixError::Refused { status: 404, answer, url });
                    }
                    report.missing += (before - left.len()) as u64;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(report)
}
