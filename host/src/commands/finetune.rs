//! `tunesmith finetune`

use super::{Answer, interrupt};
use crate::config::RunConfig;
use crate::error::HostError;
use crate::pipeline;
use crate::progress::Progress;

pub(super) fn run(config: &RunConfig, resume: bool, progress: &Progress) -> Result<Answer, HostError> {
    let progress = progress.clone().stopped_by(interrupt::watch());
    let report = pipeline::finetune(config, resume, &progress)?;
    Ok(Answer::new(&report, &report))
}
