//! `tunesmith annotate`

use super::Answer;
use crate::cli::AnnotateArgs;
use crate::config::{self, Options};
use crate::error::HostError;
use crate::plugins::bindings::types::{Annotation, Attribute, AttributeValue};
use crate::telemetry::{TelemetryError, TelemetryStore, Upsert};
use crate::tenants::Scope;

/// Where the default extractor looks for a better answer first.
const CORRECTION_KEY: &str = "corrected_output";

pub(super) fn run(scope: &Scope, args: AnnotateArgs) -> Result<Answer, HostError> {
    let flags = Options { project: args.project, ..args.store.options() };
    let (options, _) = scope.load(args.store.config.as_deref(), &flags)?;
    let mut store = TelemetryStore::open(&config::store_path(&options)?)?.with_quota(options.granted.store_quota)?;
    let path = store.path().to_owned();
    let now = jiff::Timestamp::now().as_nanosecond() as u64; // until the year 2554
    let correction = |text| Attribute { key: CORRECTION_KEY.to_owned(), value: AttributeValue::Text(text) };
    let annotation = Annotation {
        name: args.name,
        annotator_kind: args.annotator_kind.into(),
        label: args.label,
        score: args.score,
        explanation: args.explanation,
        identifier: args.identifier,
        metadata: args.correction.map(correction).into_iter().collect(),
        created_at_ns: now,
        updated_at_ns: now,
    };
    let span_id = args.span_id.to_ascii_lowercase();
    let unknown = || TelemetryError::UnknownSpan { path: path.clone(), span_id: span_id.clone() };
    let mut writer = store.writer();
    let project = match options.project {
        Some(project) => project,
        None => writer.project_of(&span_id)?.ok_or_else(unknown)?,
    };
    let upsert = writer.put_annotation(&project, &span_id, args.document, &annotation, None)?.ok_or_else(unknown)?;
    writer.finish()?;
    let what = if upsert == Upsert::New { "added to" } else { "replaced at" };
    let text = format!("`{}` {what} span {span_id} of `{project}`", annotation.name);
    let json = serde_json::json!({ "project": project, "span_id": span_id, "new": upsert == Upsert::New });
    Ok(Answer::new(text, &json))
}
