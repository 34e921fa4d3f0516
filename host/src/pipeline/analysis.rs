//! What the data is good for, without training.

use serde::Serialize;

use crate::config::RunConfig;
use crate::dataset::{RedactionCounts, SkipTable};
use crate::error::HostError;
use crate::plugins::{Extractor, Policy};
use crate::progress::Progress;
use crate::report::{Decision, ExampleCounts};

use super::{Source, collect, statistics};

/// What a run would find.
#[derive(Debug, Serialize)]
pub struct Analysis {
    /// The telemetry project.
    pub project: String,
    /// The agent.
    pub agent_type: String,
    /// Spans that the extractor saw.
    pub spans: u64,
    /// Distinct examples, less those that would be held out.
    pub examples: ExampleCounts,
    /// What was left out, and why.
    pub skipped: SkipTable,
    /// What was taken out of texts.
    pub redacted: RedactionCounts,
    /// What the policy makes of it.
    pub decision: Decision,
}

/// Extracts what is in `source`, and asks the policy.
///
/// # Errors
/// [`HostError::Telemetry`] and [`HostError::Plugin`].
pub fn analyze(
    config: &RunConfig,
    source: &Source,
    extractor: &Extractor,
    policy: &Policy,
    progress: &Progress,
) -> Result<Analysis, HostError> {
    let mut collected = collect(config, source, extractor, progress)?;
    collected.admit_approved(config)?;
    let statistics = statistics(config, &collected);
    let decision = policy.decide(&config.policy, &statistics)?;
    Ok(Analysis {
        project: collected.project,
        agent_type: config.agent_type.clone(),
        spans: collected.spans,
        examples: (&statistics).into(),
        skipped: collected.skipped,
        redacted: collected.redacted,
        decision: decision.into(),
    })
}
