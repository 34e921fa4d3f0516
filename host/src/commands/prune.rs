//! `tunesmith prune`

use super::Answer;
use crate::cli::PruneArgs;
use crate::config::{self, Options};
use crate::error::HostError;
use crate::telemetry::TelemetryStore;
use crate::tenants::Scope;

pub(super) fn run(scope: &Scope, args: &PruneArgs) -> Result<Answer, HostError> {
    let flags = Options { project: args.project.clone(), ..args.store.options() };
    let (options, _) = scope.load(args.store.config.as_deref(), &flags)?;
    let mut store = TelemetryStore::open(&config::store_path(&options)?)?;
    let before_ns = u64::try_from(args.before.as_nanosecond()).unwrap_or(0);
    let pruned = store.prune(options.project.as_deref(), before_ns, args.dry_run)?;
    let what = if args.dry_run { "would go" } else { "are gone" };
    let text = format!(
        "{} spans that began before {}, and their {} annotations, {what}\n\nstore: {}",
        pruned.spans,
        args.before,
        pruned.annotations,
        store.path().display()
    );
    let json = serde_json::json!({ "store": store.path(), "removed": pruned, "dry_run": args.dry_run });
    Ok(Answer::new(text, &json))
}
