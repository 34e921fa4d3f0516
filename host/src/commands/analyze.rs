//! `tunesmith analyze`: what the data is good for, without training.

use serde::Serialize;

use super::Answer;
use crate::config::RunConfig;
use crate::dataset::{RedactionCounts, SkipTable};
use crate::error::HostError;
use crate::pipeline::{self, RunPlugins};
use crate::progress::Progress;
use crate::report::{self, Decision, ExampleCounts};

#[derive(Serialize)]
struct Analysis {
    project: String,
    agent_type: String,
    spans: u64,
    /// Distinct examples, less those that would be held out.
    examples: ExampleCounts,
    skipped: SkipTable,
    redacted: RedactionCounts,
    decision: Decision,
}

pub(super) fn run(config: &RunConfig, progress: &Progress) -> Result<Answer, HostError> {
    let plugins = RunPlugins::load(config)?;
    let source = pipeline::open_source(config, progress)?;
    let collected = pipeline::collect(config, &source, &plugins.extractor, progress)?;
    let statistics = pipeline::statistics(config, &collected);
    let decision = plugins.policy.decide(&config.policy, &statistics)?;
    let analysis = Analysis {
        project: collected.project,
        agent_type: config.agent_type.clone(),
        spans: collected.spans,
        examples: (&statistics).into(),
        skipped: collected.skipped,
        redacted: collected.redacted,
        decision: decision.into(),
    };
    Ok(Answer::new(text(&analysis), &analysis))
}

fn text(analysis: &Analysis) -> String {
    let mut table = report::table();
    table.add_row(["spans".to_owned(), analysis.spans.to_string()]);
    table.add_row(["approved examples".to_owned(), analysis.examples.approved_examples.to_string()]);
    table.add_row(["preference pairs".to_owned(), analysis.examples.preference_pairs.to_string()]);
    table.add_row(["triplets".to_owned(), analysis.examples.triplets.to_string()]);
    format!(
        "{}\n\nto train, after the held-out set is taken out:\n{table}\n\n{}",
        report::left_out(&analysis.skipped, &analysis.redacted),
        analysis.decision
    )
}
