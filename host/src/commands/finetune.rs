//! `tunesmith finetune`

use super::{Answer, interrupt};
use crate::config::RunConfig;
use crate::error::HostError;
use crate::pipeline;
use crate::progress::Progress;

pub(super) fn run(config: &RunConfig, resume: bool, progress: &Progress) -> Result<Answer, HostError> {
    let progress = progress.clone().stopped_by(interrupt::watch());
    let report = pipeline::finetune(config, resume, &progress)?;
    if let Some(phoenix) = config.telemetry.phoenix.as_ref().filter(|phoenix| phoenix.write_back)
        && let Err(error) = pipeline::mark_used(phoenix, &report.adapter_path, &progress)
    {
        // The adapter is there all the same.
        let folder = report.adapter_path.display();
        tracing::warn!("{error}; mark the spans later with `tunesmith mark --adapter {folder}`");
    }
    Ok(Answer::new(&report, &report))
}
