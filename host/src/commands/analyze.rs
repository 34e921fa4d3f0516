//! `tunesmith analyze`: what the data is good for, without training.

use super::Answer;
use crate::config::RunConfig;
use crate::error::HostError;
use crate::pipeline::{self, Analysis, RunPlugins};
use crate::progress::Progress;
use crate::report;

pub(super) fn run(config: &RunConfig, progress: &Progress) -> Result<Answer, HostError> {
    let plugins = RunPlugins::load(config)?;
    let source = pipeline::open_source(config, progress)?;
    let analysis = pipeline::analyze(config, &source, &plugins.extractor, &plugins.policy, progress)?;
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
