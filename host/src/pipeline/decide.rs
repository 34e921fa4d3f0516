//! Which method trains, and on which side of the split each example is.

use crate::config::{Method, ModelType, RunConfig};
use crate::dataset::{self, SkipTable, Split};
use crate::error::HostError;
use crate::plugins::Policy;
use crate::plugins::bindings::selection_policy::{
    DatasetStatistics, Decision, Insufficiency, Shortfall, TrainingChoice,
};
use crate::plugins::bindings::types::{Example, ExampleKind, TrainingMethod};
use crate::report;

use super::{Admitted, Collected};

/// Asks the policy what the data is good for; where a method is named, its threshold alone decides.
///
/// # Errors
/// [`HostError::NoExamples`], [`HostError::MethodOfOtherModel`] or the policy's.
pub fn choose_method(
    config: &RunConfig,
    policy: &Policy,
    statistics: &DatasetStatistics,
    collected: &Collected,
) -> Result<Decision, HostError> {
    if collected.examples.is_empty() {
        return Err(HostError::NoExamples { remedy: no_examples_remedy(config, collected) });
    }
    let decision = match config.method {
        Method::Sft => forced(config, statistics, TrainingMethod::Sft),
        Method::Dpo => forced(config, statistics, TrainingMethod::Dpo),
        Method::Triplet => forced(config, statistics, TrainingMethod::Triplet),
        Method::Auto => policy.decide(&config.policy, statistics)?,
    };
    let choice = match decision {
        Decision::Train(choice) => choice,
        short => return Ok(short),
    };
    // The built-in policy never does that; a tenant's own may.
    let trains = match choice.method {
        TrainingMethod::Sft | TrainingMethod::Dpo => ModelType::Llm,
        TrainingMethod::Triplet => ModelType::Embedding,
    };
    if trains != config.model_type {
        return Err(HostError::MethodOfOtherModel {
            method: report::method_name(choice.method),
            reason: choice.reason,
        });
    }
    Ok(Decision::Train(choice))
}

/// For a run whose examples were all left out between the split and the trainer.
pub(super) fn nothing_to_train(skipped: &SkipTable) -> HostError {
    let remedy = format!("All were left out ({}): change the formatter, or raise `max_length`", most_frequent(skipped));
    HostError::NoExamples { remedy }
}

/// What a method trains on and is judged by.
pub struct Sides {
    /// Of spans, then what was approved.
    pub train: Vec<Admitted>,
    /// Of spans alone.
    pub held_out: Vec<Admitted>,
}

/// The examples that a method trains, those that share an input, a trace or a session on one side, and with them what was made from
/// them.
///
/// # Errors
/// [`HostError::Dataset`] where they hang together too much to hold any out.
pub fn split(config: &RunConfig, collected: &Collected, method: TrainingMethod) -> Result<Sides, HostError> {
    split_kind(config, collected, kind_of(method))
}

/// As [`split`], of one kind of example.
///
/// # Errors
/// As there.
pub fn split_kind(config: &RunConfig, collected: &Collected, kind: ExampleKind) -> Result<Sides, HostError> {
    let examples = dataset::of_kind(&collected.examples, kind);
    let approved = collected.approved.iter().filter(|approved| dataset::kind(approved.example()) == kind).cloned();
    let approved: Vec<Admitted> = approved.collect();
    let (seed, ties) = (config.training.seed, config.dataset.ties());
    let Split { train, held_out } = dataset::split(examples, &collected.origins, seed, ties, &approved)?;
    let extracted = |examples: Vec<Example>| examples.into_iter().map(Admitted::extracted);
    Ok(Sides { train: extracted(train).chain(approved).collect(), held_out: extracted(held_out).collect() })
}

/// What a method trains on.
pub(super) fn kind_of(method: TrainingMethod) -> ExampleKind {
    match method {
        TrainingMethod::Sft => ExampleKind::ApprovedExample,
        TrainingMethod::Dpo => ExampleKind::PreferencePair,
        TrainingMethod::Triplet => ExampleKind::Triplet,
    }
}

/// The texts are those that users of the Python system know.
fn forced(config: &RunConfig, statistics: &DatasetStatistics, method: TrainingMethod) -> Decision {
    let (have, need, what, wanted) = match method {
        TrainingMethod::Sft => {
            (statistics.approved_examples, config.policy.min_sft_examples, "approved examples", None)
        }
        TrainingMethod::Dpo => (
            statistics.preference_pairs,
            config.policy.min_dpo_pairs,
            "preference pairs",
            Some("spans with both approved and rejected annotations"),
        ),
        TrainingMethod::Triplet => (
            statistics.triplets,
            config.policy.min_triplets,
            "triplets",
            Some("search spans with both relevant and irrelevant documents"),
        ),
    };
    if have < need {
        let wanted = wanted.map_or_else(String::new, |wanted| format!(". Need {wanted}"));
        let reason = format!("Insufficient {what}: {have} < {need}{wanted}");
        let shortfalls = vec![Shortfall { kind: kind_of(method), have, need }];
        return Decision::Insufficient(Insufficiency { shortfalls, reason });
    }
    let reason = format!("asked for by `method = \"{}\"`, with {have} {what}", report::method_name(method));
    Decision::Train(TrainingChoice { method, confidence: 1.0, reason })
}

pub(super) fn insufficient(config: &RunConfig, reason: String) -> HostError {
    let more = match config.model_type {
        ModelType::Llm => "Approve more traces",
        ModelType::Embedding => "Label more documents of searches",
    };
    let reason = format!("{}. {more} of `{}`, or lower the threshold", reason.trim_end_matches('.'), config.agent_type);
    HostError::Insufficient { reason }
}

fn no_examples_remedy(config: &RunConfig, collected: &Collected) -> String {
    let (agent, project) = (&config.agent_type, &collected.project);
    if collected.spans == 0 {
        return format!("No span of project `{project}` is the `{agent}` agent's: check `match` in `[agents.{agent}]`");
    }
    if config.model_type == ModelType::Embedding {
        return format!(
            "Of {} spans of `{agent}` in project `{project}` none gave a triplet ({}): annotate retrieved documents as \
             `relevant` and `irrelevant`, or record clicks in `search.clicked_documents`",
            collected.spans,
            most_frequent(&collected.skipped)
        );
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

pub(super) fn most_frequent(skipped: &SkipTable) -> String {
    let rows = skipped.rows().into_iter().take(3);
    rows.map(|(why, n)| format!("{why}: {n}")).collect::<Vec<_>>().join(", ")
}
