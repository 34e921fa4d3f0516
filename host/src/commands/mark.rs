//! `tunesmith mark`

use super::Answer;
use crate::cli::MarkArgs;
use crate::config::{self, Options, PhoenixConfig, TelemetryOptions};
use crate::error::HostError;
use crate::pipeline;
use crate::progress::Progress;

pub(super) fn run(args: MarkArgs, progress: &Progress) -> Result<Answer, HostError> {
    let flags = Options {
        project: args.project,
        telemetry: TelemetryOptions {
            phoenix_url: args.phoenix_url,
            phoenix_api_key_file: args.phoenix_api_key_file,
            ..TelemetryOptions::default()
        },
        ..Options::default()
    };
    let (options, _) = config::load(args.config.as_deref(), &flags)?;
    let report = pipeline::mark_used(&PhoenixConfig::required(&options)?, &args.adapter, progress)?;
    Ok(Answer::new("", &report))
}
