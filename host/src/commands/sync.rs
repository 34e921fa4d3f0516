//! `tunesmith sync`

use super::Answer;
use crate::cli::SyncArgs;
use crate::config::{self, PhoenixConfig};
use crate::error::HostError;
use crate::phoenix::Range;
use crate::pipeline;
use crate::progress::Progress;
use crate::tenants::Scope;

pub(super) fn run(scope: &Scope, args: SyncArgs, progress: &Progress) -> Result<Answer, HostError> {
    let flags = args.server.over(args.store.options());
    let (options, _) = scope.load(args.store.config.as_deref(), &flags)?;
    let phoenix = PhoenixConfig::required(&options)?;
    let mut store =
        pipeline::open_or_create(&config::store_path(&options)?, &[])?.with_quota(options.granted.store_quota)?;
    let range = Range { since: args.since, until: args.until };
    let report = pipeline::sync_phoenix(&mut store, &phoenix, &range, progress)?;
    let text = format!("store: {}", store.path().display());
    let json = serde_json::json!({ "store": store.path(), "project": phoenix.project, "sync": report });
    Ok(Answer::new(text, &json))
}
