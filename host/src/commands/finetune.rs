//! `tunesmith finetune`

use super::Answer;
use crate::config::RunConfig;
use crate::error::HostError;
use crate::pipeline;
use crate::progress::Progress;

pub(super) fn run(config: &RunConfig, progress: &Progress) -> Result<Answer, HostError> {
    let report = pipeline::finetune(config, progress)?;
    Ok(Answer::new(&report, &report))
}
