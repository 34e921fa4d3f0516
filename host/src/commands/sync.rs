//! `tunesmith sync`

use super::Answer;
use crate::cli::SyncArgs;
use crate::config::{self, Options, PhoenixConfig, TelemetryOptions};
use crate::error::HostError;
use crate::phoenix::Range;
use crate::pipeline;
use crate::progress::Progress;

pub(super) fn run(args: SyncArgs, progress: &Progress) -> Result<Answer, HostError> {
    let flags = Options {
        tenant_id: args.tenant_id,
        project: args.project,
        telemetry: TelemetryOptions {
            store: args.store,
            phoenix_url: args.phoenix_url,
            phoenix_api_key_file: args.phoenix_api_key_file,
            ..TelemetryOptions::default()
        },
        ..Options::default()
    };
    let (options, _) = config::load(args.config.as_deref(), &flags)?;
    let phoenix = PhoenixConfig::required(&options)?;
    let mut store = pipeline::open_or_create(&config::store_path(&options)?, &[])?;
    let range = Range { since: args.since, until: args.until };
    let report = pipeline::sync_phoenix(&mut store, &phoenix, &range, progress)?;
    let text = format!("store: {}", store.path().display());
    let json = serde_json::json!({ "store": store.path(), "project": phoenix.project, "sync": report });
    Ok(Answer::new(text, &json))
}
