//! `tunesmith mark`

use super::Answer;
use crate::cli::MarkArgs;
use crate::config::{Options, PhoenixConfig};
use crate::error::HostError;
use crate::pipeline;
use crate::progress::Progress;
use crate::tenants::Scope;

pub(super) fn run(scope: &Scope, args: MarkArgs, progress: &Progress) -> Result<Answer, HostError> {
    let flags = args.server.over(Options::default());
    let (options, _) = scope.load(args.config.as_deref(), &flags)?;
    scope.check_read("--adapter", &args.adapter)?;
    let report = pipeline::mark_used(&PhoenixConfig::required(&options)?, &args.adapter, progress)?;
    Ok(Answer::new("", &report))
}
