use crate::bindings::exports::tunesmith::plugin::selection_policy::{Insufficiency, Shortfall, TrainingChoice};
use crate::bindings::tunesmith::plugin::types::{ExampleKind, ModelType, TrainingMethod};

use super::*;

fn config() -> PolicyConfig {
    PolicyConfig { min_sft_examples: 50, min_dpo_pairs: 20, min_triplets: 100, settings: vec![] }
}

fn llm(approved_examples: u32, preference_pairs: u32) -> DatasetStatistics {
    let agent_type = "routing".into();
    // Plenty of triplets: an LLM's decision must not see them.
    DatasetStatistics { agent_type, model_type: ModelType::Llm, approved_examples, preference_pairs, triplets: 1000 }
}

fn embedding(triplets: u32) -> DatasetStatistics {
    DatasetStatistics { model_type: ModelType::Embedding, triplets, ..llm(1000, 1000) }
}

fn choice(statistics: DatasetStatistics) -> TrainingChoice {
    match ThresholdPolicy::decide(config(), statistics).unwrap() {
        Decision::Train(choice) => choice,
        Decision::Insufficient(lack) => panic!("{}", lack.reason),
    }
}

fn lack(statistics: DatasetStatistics) -> Insufficiency {
    match ThresholdPolicy::decide(config(), statistics).unwrap() {
        Decision::Insufficient(lack) => lack,
        Decision::Train(choice) => panic!("{}", choice.reason),
    }
}

#[test]
fn enough_pairs_are_dpo_even_with_enough_approved_examples() {
    let choice = choice(llm(500, 20));
    assert_eq!(choice.method, TrainingMethod::Dpo);
    assert_eq!(choice.confidence, 0.5);
    assert_eq!(choice.reason, "Sufficient preference pairs: 20 >= 20. Recommend DPO (more sample-efficient).");
}

#[test]
fn too_few_pairs_and_enough_approved_examples_are_sft() {
    let choice = choice(llm(60, 19));
    assert_eq!(choice.method, TrainingMethod::Sft);
    assert_eq!(choice.confidence, 0.6);
    assert_eq!(choice.reason, "Sufficient approved examples: 60 >= 50. Recommend SFT.");
}

#[test]
fn confidence_grows_to_one_at_twice_the_threshold() {
    assert_eq!(choice(llm(0, 30)).confidence, 0.75);
    assert_eq!(choice(llm(0, 40)).confidence, 1.0);
    assert_eq!(choice(llm(0, 4000)).confidence, 1.0);
    assert_eq!(choice(llm(100, 0)).confidence, 1.0);
}

#[test]
fn insufficiency_names_each_shortfall_in_the_known_words() {
    let lack = lack(llm(49, 15));
    let (pairs, approved) = (ExampleKind::PreferencePair, ExampleKind::ApprovedExample);
    let shortfalls = [Shortfall { kind: pairs, have: 15, need: 20 }, Shortfall { kind: approved, have: 49, need: 50 }];
    assert_eq!(lack.shortfalls, shortfalls);
    assert_eq!(
        lack.reason,
        "Insufficient preference pairs: 15 < 20. Need spans with both approved and rejected annotations. \
         Insufficient approved examples: 49 < 50. Need spans with approved annotations."
    );
}

#[test]
fn embedding_counts_triplets_only() {
    let choice = choice(embedding(150));
    assert_eq!((choice.method, choice.confidence), (TrainingMethod::Triplet, 0.75));
    let lack = lack(embedding(99));
    assert_eq!(lack.shortfalls, [Shortfall { kind: ExampleKind::Triplet, have: 99, need: 100 }]);
    assert_eq!(
        lack.reason,
        "Insufficient triplets: 99 < 100. Need search spans with both relevant and irrelevant documents."
    );
}

#[test]
fn zero_threshold_is_a_configuration_error() {
    let config = PolicyConfig { min_sft_examples: 0, ..config() };
    let error = ThresholdPolicy::decide(config, llm(0, 0)).unwrap_err();
    assert_eq!(error, PluginError::Configuration("`min_sft_examples` is 0; give at least 1".into()));
}

#[test]
fn thresholds_of_the_other_model_type_do_not_matter() {
    let config = PolicyConfig { min_sft_examples: 0, ..config() };
    assert!(matches!(ThresholdPolicy::decide(config, embedding(100)), Ok(Decision::Train(_))));
}

#[test]
fn unknown_setting_is_a_configuration_error() {
    let config = PolicyConfig { settings: vec![("bias".into(), "dpo".into())], ..config() };
    let error = ThresholdPolicy::decide(config, llm(0, 0)).unwrap_err();
    assert_eq!(error, PluginError::Configuration("unknown setting `bias`; this plugin has no settings".into()));
}
