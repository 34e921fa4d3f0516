//! `tunesmith annotate`

use super::Answer;
use crate::cli::AnnotateArgs;
use crate::config::{self, Options};
use crate::error::HostError;
use crate::telemetry::{Feedback, TelemetryError, TelemetryStore};
use crate::tenants::Scope;

pub(super) fn run(scope: &Scope, args: AnnotateArgs) -> Result<Answer, HostError> {
    let flags = Options { project: args.project, ..args.store.options() };
    let (options, _) = scope.load(args.store.config.as_deref(), &flags)?;
    let mut store = TelemetryStore::open(&config::store_path(&options)?)?.with_quota(options.granted.store_quota)?;
    let path = store.path().to_owned();
    let feedback = [Feedback {
        span_id: args.span_id,
        name: args.name,
        label: args.label,
        score: args.score,
        explanation: args.explanation,
        correction: args.correction,
        document: args.document,
        annotator_kind: args.annotator_kind.into(),
        identifier: args.identifier,
        project: options.project,
    }];
    let mut writer = store.writer();
    let annotated = writer.annotate(&feedback)?;
    writer.finish()?;
    let [feedback] = feedback;
    let Some(annotated) = annotated.ok().and_then(|mut all| all.pop()) else {
        return Err(TelemetryError::UnknownSpan { path, span_id: feedback.span_id }.into());
    };
    let what = if annotated.new { "added to" } else { "replaced at" };
    let text = format!("`{}` {what} span {} of `{}`", feedback.name, annotated.span_id, annotated.project);
    Ok(Answer::new(text, &annotated))
}
