use crate::bindings::exports::tunesmith::plugin::selection_policy::{
    DatasetStatistics, Decision, Insufficiency, PolicyConfig, Shortfall, TrainingChoice,
};
use crate::bindings::tunesmith::plugin::types::{ExampleKind, ModelType, PluginError, TrainingMethod};

/// One way to train: what it needs, how much of it is there, and how to say that it is too little.
struct Requirement {
    method: TrainingMethod,
    kind: ExampleKind,
    have: u32,
    need: u32,
    /// The threshold's name in the configuration.
    threshold: &'static str,
    plural: &'static str,
    wanted: &'static str,
}

/// The first requirement that is met decides; where none is, every shortfall is reported.
///
/// # Errors
/// `configuration` where a threshold is 0: training on nothing would be sufficient.
pub(crate) fn decide(config: &PolicyConfig, statistics: &DatasetStatistics) -> Result<Decision, PluginError> {
    let requirements = requirements(config, statistics);
    if let Some(zero) = requirements.iter().find(|requirement| requirement.need == 0) {
        return Err(PluginError::Configuration(format!("`{}` is 0; give at least 1", zero.threshold)));
    }
    let met = requirements.iter().find(|requirement| requirement.have >= requirement.need);
    Ok(match met {
        Some(requirement) => Decision::Train(requirement.choice()),
        None => Decision::Insufficient(Insufficiency {
            shortfalls: requirements.iter().map(Requirement::shortfall).collect(),
            reason: requirements.iter().map(Requirement::complaint).collect::<Vec<_>>().join(" "),
        }),
    })
}

/// In order of preference.
fn requirements(config: &PolicyConfig, statistics: &DatasetStatistics) -> Vec<Requirement> {
    match statistics.model_type {
        ModelType::Llm => vec![
            Requirement {
                method: TrainingMethod::Dpo,
                kind: ExampleKind::PreferencePair,
                have: statistics.preference_pairs,
                need: config.min_dpo_pairs,
                threshold: "min_dpo_pairs",
                plural: "preference pairs",
                wanted: "spans with both approved and rejected annotations",
            },
            Requirement {
                method: TrainingMethod::Sft,
                kind: ExampleKind::ApprovedExample,
                have: statistics.approved_examples,
                need: config.min_sft_examples,
                threshold: "min_sft_examples",
                plural: "approved examples",
                wanted: "spans with approved annotations",
            },
        ],
        ModelType::Embedding => vec![Requirement {
            method: TrainingMethod::Triplet,
            kind: ExampleKind::Triplet,
            have: statistics.triplets,
            need: config.min_triplets,
            threshold: "min_triplets",
            plural: "triplets",
            wanted: "search spans with both relevant and irrelevant documents",
        }],
    }
}

impl Requirement {
    fn choice(&self) -> TrainingChoice {
        let method = match self.method {
            TrainingMethod::Dpo => "DPO (more sample-efficient)",
            TrainingMethod::Sft => "SFT",
            TrainingMethod::Triplet => "triplet training",
        };
        TrainingChoice {
            method: self.method,
            confidence: (f64::from(self.have) / (2.0 * f64::from(self.need))).min(1.0),
            reason: format!("Sufficient {}: {} >= {}. Recommend {method}.", self.plural, self.have, self.need),
        }
    }

    fn shortfall(&self) -> Shortfall {
        Shortfall { kind: self.kind, have: self.have, need: self.need }
    }

    /// The wording that users of the reference pipeline know.
    fn complaint(&self) -> String {
        format!("Insufficient {}: {} < {}. Need {}.", self.plural, self.have, self.need, self.wanted)
    }
}
