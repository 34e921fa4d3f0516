//! What every policy must do. That a confidence is from 0 to 1, and that a shortfall is named, is checked on every call.

use super::super::samples::{self, Settings};
use super::super::subject::json;
use super::{Outcome, outcome, text};
use crate::plugins::PluginError;
use crate::plugins::bindings::selection_policy::{DatasetStatistics, Decision, PolicyConfig};
use crate::plugins::bindings::types::{ModelType, TrainingMethod};
use crate::report::method_name;

type Decide<'a> = &'a dyn Fn(&PolicyConfig, &DatasetStatistics) -> Result<Decision, PluginError>;

/// Tenths of the thresholds, up to three times what they ask.
const SWEEP: std::ops::RangeInclusive<u32> = 0..=30;

pub(super) fn checks(decide: Decide, agent_type: &str, settings: &Settings) -> Vec<Outcome> {
    let config = samples::policy_config(settings);
    let decide =
        &|model_type, tenths: u32| decide(&config, &samples::statistics(agent_type, model_type, tenths)).map_err(text);
    let both = |check: &dyn Fn(ModelType) -> Result<(), String>| {
        [ModelType::Llm, ModelType::Embedding].into_iter().try_for_each(check)
    };
    vec![
        outcome("with no data at all, it asks for more", both(&|model| nothing(decide, model))),
        outcome("at each threshold, it decides", both(&|model| decide(model, 10).map(|_| ()))),
        outcome("with ten times the thresholds, it trains", both(&|model| plenty(decide, model))),
        outcome("it chooses a method of the kind of model", both(&|model| of_the_model(decide, model))),
        outcome("more data never turns training into asking for more", both(&|model| monotone(decide, model))),
        outcome("a shortfall is one: less is there than is needed", both(&|model| short(decide, model))),
        outcome("counts of four thousand million are taken", both(&|model| decide(model, u32::MAX / 10).map(|_| ()))),
        outcome("the same call twice gives the same", both(&|model| twice(decide, model))),
    ]
}

type DecideAt<'a> = &'a dyn Fn(ModelType, u32) -> Result<Decision, String>;

fn nothing(decide: DecideAt, model_type: ModelType) -> Result<(), String> {
    match decide(model_type, 0)? {
        Decision::Train(choice) => Err(format!("it trains on nothing: {}", choice.reason)),
        Decision::Insufficient(_) => Ok(()),
    }
}

fn plenty(decide: DecideAt, model_type: ModelType) -> Result<(), String> {
    match decide(model_type, 100)? {
        Decision::Train(_) => Ok(()),
        Decision::Insufficient(lack) => Err(format!("it asks for more: {}", lack.reason)),
    }
}

fn of_the_model(decide: DecideAt, model_type: ModelType) -> Result<(), String> {
    for tenths in SWEEP {
        if let Decision::Train(choice) = decide(model_type, tenths)? {
            let is_triplet = choice.method == TrainingMethod::Triplet;
            if is_triplet != (model_type == ModelType::Embedding) {
                let model = if is_triplet { "a language model" } else { "an embedding model" };
                return Err(format!("it chooses {} for {model}: {}", method_name(choice.method), choice.reason));
            }
        }
    }
    Ok(())
}

fn monotone(decide: DecideAt, model_type: ModelType) -> Result<(), String> {
    let mut trained = None;
    for tenths in SWEEP {
        match (decide(model_type, tenths)?, trained) {
            (Decision::Train(_), _) => trained = trained.or(Some(tenths)),
            (Decision::Insufficient(lack), Some(before)) => {
                let percent = |tenths| 10 * tenths;
                return Err(format!(
                    "it trains with {}% of the thresholds, and asks for more with {}%: {}",
                    percent(before),
                    percent(tenths),
                    lack.reason
                ));
            }
            (Decision::Insufficient(_), None) => {}
        }
    }
    Ok(())
}

fn short(decide: DecideAt, model_type: ModelType) -> Result<(), String> {
    for tenths in SWEEP {
        if let Decision::Insufficient(lack) = decide(model_type, tenths)?
            && let Some(none) = lack.shortfalls.iter().find(|shortfall| shortfall.have >= shortfall.need)
        {
            return Err(format!("of one, {} are there and {} needed", none.have, none.need));
        }
    }
    Ok(())
}

fn twice(decide: DecideAt, model_type: ModelType) -> Result<(), String> {
    for tenths in SWEEP {
        let (first, second) = (decide(model_type, tenths)?, decide(model_type, tenths)?);
        if let Some(difference) = super::super::compare::first_difference(&json(&first), &json(&second)) {
            return Err(difference);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::bindings::selection_policy::{Insufficiency, Shortfall, TrainingChoice};
    use crate::plugins::bindings::types::ExampleKind;

    fn train(method: TrainingMethod) -> Decision {
        Decision::Train(TrainingChoice { method, confidence: 1.0, reason: "enough".into() })
    }

    fn lack(have: u32, need: u32) -> Decision {
        let shortfalls = vec![Shortfall { kind: ExampleKind::ApprovedExample, have, need }];
        Decision::Insufficient(Insufficiency { shortfalls, reason: "too few".into() })
    }

    fn method(statistics: &DatasetStatistics) -> TrainingMethod {
        if statistics.model_type == ModelType::Embedding { TrainingMethod::Triplet } else { TrainingMethod::Sft }
    }

    fn failures(decide: Decide) -> Vec<(&'static str, String)> {
        let outcomes = checks(decide, "routing", &[]).into_iter();
        outcomes.filter_map(|outcome| Some((outcome.check, outcome.failure?))).collect()
    }

    #[test]
    fn a_policy_that_keeps_the_contract_passes() {
        let by_count = |config: &PolicyConfig, statistics: &DatasetStatistics| {
            let (have, need) = (statistics.approved_examples, config.min_sft_examples);
            Ok(if have >= need { train(method(statistics)) } else { lack(have, need) })
        };
        assert_eq!(failures(&by_count), []);
    }

    #[test]
    fn a_policy_that_trains_on_nothing_is_caught() {
        let always = |_: &PolicyConfig, statistics: &DatasetStatistics| Ok(train(method(statistics)));
        assert_eq!(
            failures(&always),
            [("with no data at all, it asks for more", "it trains on nothing: enough".to_owned())]
        );
    }

    #[test]
    fn a_policy_that_has_enough_and_then_not_is_caught() {
        let window = |_: &PolicyConfig, statistics: &DatasetStatistics| {
            let train_now = (50..100).contains(&statistics.approved_examples) || statistics.approved_examples > 400;
            Ok(if train_now { train(method(statistics)) } else { lack(1, 2) })
        };
        let expected = "it trains with 100% of the thresholds, and asks for more with 200%: too few";
        assert_eq!(failures(&window), [("more data never turns training into asking for more", expected.to_owned())]);
    }

    #[test]
    fn a_method_of_the_other_kind_of_model_is_caught() {
        let sft = |_: &PolicyConfig, statistics: &DatasetStatistics| match statistics.approved_examples {
            0 => Ok(lack(0, 1)),
            _ => Ok(train(TrainingMethod::Sft)),
        };
        let found = failures(&sft);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "it chooses a method of the kind of model");
        assert_eq!(found[0].1, "it chooses sft for an embedding model: enough");
    }
}
