//! `tunesmith mark`

use super::Answer;
use crate::cli::MarkArgs;
use crate::config::{self, Options, PhoenixConfig};
use crate::error::HostError;
use crate::pipeline;
use crate::progress::Progress;

pub(super) fn run(args: MarkArgs, progress: &Progress) -> Result<Answer, HostError> {
    let flags = args.server.over(Options::default());
    let (options, _) = config::load(args.config.as_deref(), &flags)?;
    let report = pipeline::mark_used(&PhoenixConfig::required(&options)?, &args.adapter, progress)?;
    Ok(Answer::new("", &report))
}
