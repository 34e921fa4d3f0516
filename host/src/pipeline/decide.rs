//! Which method trains, and on which side of the split each example is.

use crate::config::{Method, RunConfig};
use crate::dataset::{self, SkipTable, Split};
use crate::error::HostError;
use crate::plugins::Policy;
use crate::plugins::bindings::selection_policy::{DatasetStatistics, Decision, TrainingChoice};
use crate::plugins::bindings::types::{ExampleKind, TrainingMethod};
use crate::report;

use super::Collected;

/// Asks the policy what the data is good for; with `method = "sft"` the threshold of SFT alone decides.
///
/// # Errors
/// [`HostError::NoExamples`], [`HostError::Insufficient`], [`HostError::MethodNotInThisBuild`] or the policy's.
pub fn choose_method(
    config: &RunConfig,
    policy: &Policy,
    statistics: &DatasetStatistics,
    collected: &Collected,
) -> Result<TrainingChoice, HostError> {
    if collected.examples.is_empty() {
        return Err(HostError::NoExamples { remedy: no_examples_remedy(config, collected) });
    }
    let choice = match config.method {
        Method::Sft => forced_sft(config, statistics)?,
        Method::Auto => match policy.decide(&config.policy, statistics)? {
            Decision::Train(choice) => choice,
            Decision::Insufficient(short) => return Err(insufficient(config, short.reason)),
        },
    };
    match choice.method {
        TrainingMethod::Sft => Ok(choice),
        other => Err(HostError::MethodNotInThisBuild {
            method: report::method_name(other).to_uppercase(),
            reason: choice.reason,
            approved: statistics.approved_examples as usize,
        }),
    }
}

/// For a run whose examples were all left out between the split and the trainer.
pub(super) fn nothing_to_train(skipped: &SkipTable) -> HostError {
    let remedy = format!("All were left out ({}): change the formatter, or raise `max_length`", most_frequent(skipped));
    HostError::NoExamples { remedy }
}

/// The approved examples, those that share an input, a trace or a session on one side.
///
/// # Errors
/// [`HostError::Dataset`] where they hang together too much to hold any out.
pub fn approved_split(config: &RunConfig, collected: &Collected) -> Result<Split, HostError> {
    let approved = dataset::of_kind(&collected.examples, ExampleKind::ApprovedExample);
    Ok(dataset::split(approved, &collected.origins, config.training.seed)?)
}

fn forced_sft(config: &RunConfig, statistics: &DatasetStatistics) -> Result<TrainingChoice, HostError> {
    let (have, need) = (statistics.approved_examples, config.policy.min_sft_examples);
    if have < need {
        return Err(insufficient(config, format!("Insufficient approved examples: {have} < {need}")));
    }
    let reason = format!("asked for by `method = \"sft\"`, with {have} approved examples");
    Ok(TrainingChoice { method: TrainingMethod::Sft, confidence: 1.0, reason })
}

fn insufficient(config: &RunConfig, reason: String) -> HostError {
    let synthetic = if config.generate_synthetic { " (this build generates no synthetic examples)" } else { "" };
    let reason = format!(
        "{}. Approve more traces of `{}`, or lower the threshold{synthetic}",
        reason.trim_end_matches('.'),
        config.agent_type
    );
    HostError::Insufficient { reason }
}

fn no_examples_remedy(config: &RunConfig, collected: &Collected) -> String {
    let (agent, project) = (&config.agent_type, &collected.project);
    if collected.spans == 0 {
        return format!("No span of project `{project}` is the `{agent}` agent's: check `match` in `[agents.{agent}]`");
    }
    let rules = &config.extraction.verdicts;
    let names = match rules.annotation_names.as_slice() {
        [] => "any annotation".to_owned(),
        names => format!("the annotation `{}`", names.join("` or `")),
    };
    let label = rules.approved_labels.first().map_or("approved", String::as_str);
    format!(
        "Of {} spans of `{agent}` in project `{project}` none is approved ({}): label {names} `{label}` on good answers, or \
         change `[extraction]`",
        collected.spans,
        most_frequent(&collected.skipped)
    )
}

fn most_frequent(skipped: &SkipTable) -> String {
    let rows = skipped.rows().into_iter().take(3);
    rows.map(|(why, n)| format!("{why}: {n}")).collect::<Vec<_>>().join(", ")
}
