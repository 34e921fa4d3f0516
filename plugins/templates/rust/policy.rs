//! A policy: dataset statistics in, decision out. It trains what there is enough of.

wit_bindgen::generate!({ world: "policy", path: "wit" });

use exports::tunesmith::plugin::selection_policy::{
    DatasetStatistics, Decision, Guest, Insufficiency, PolicyConfig, Shortfall, TrainingChoice,
};
use tunesmith::plugin::types::{ExampleKind, ModelType, PluginError, TrainingMethod};

struct Plugin;

impl Guest for Plugin {
    fn decide(config: PolicyConfig, statistics: DatasetStatistics) -> Result<Decision, PluginError> {
        let (method, kind, have, need) = match statistics.model_type {
            ModelType::Llm => (
                TrainingMethod::Sft,
                ExampleKind::ApprovedExample,
                statistics.approved_examples,
                config.min_sft_examples,
            ),
            ModelType::Embedding => {
                (TrainingMethod::Triplet, ExampleKind::Triplet, statistics.triplets, config.min_triplets)
            }
        };
        let need = need.max(1);
        if have < need {
            let reason = format!("{have} of at least {need} examples");
            let shortfalls = vec![Shortfall { kind, have, need }];
            return Ok(Decision::Insufficient(Insufficiency { shortfalls, reason }));
        }
        let confidence = (f64::from(have) / (2.0 * f64::from(need))).min(1.0);
        Ok(Decision::Train(TrainingChoice { method, confidence, reason: format!("{have} examples, {need} needed") }))
    }
}

export!(Plugin);
