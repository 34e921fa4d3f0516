//! A policy that breaks its contract as its setting `behaviour` says.

wit_bindgen::generate!({ world: "policy", path: "../../../wit", generate_all });

use exports::tunesmith::plugin::selection_policy::{
    DatasetStatistics, Decision, Guest, Insufficiency, PolicyConfig, Shortfall, TrainingChoice,
};
use std::hint::black_box;
use tunesmith::plugin::types::{ExampleKind, PluginError, TrainingMethod};

struct Hostile;

impl Guest for Hostile {
    fn decide(config: PolicyConfig, _: DatasetStatistics) -> Result<Decision, PluginError> {
        let behaviour = config.settings.iter().find(|(key, _)| key == "behaviour").map_or("", |(_, value)| value);
        let train = |confidence| {
            let reason = "because".into();
            Ok(Decision::Train(TrainingChoice { method: TrainingMethod::Sft, confidence, reason }))
        };
        let insufficient =
            |shortfalls, reason: &str| Ok(Decision::Insufficient(Insufficiency { shortfalls, reason: reason.into() }));
        match behaviour {
            "nan" => train(f64::NAN),
            "infinite" => train(f64::INFINITY),
            "negative" => train(-0.5),
            "no-shortfall" => insufficient(vec![], "because"),
            "forge-reason" => {
                let shortfall = Shortfall { kind: ExampleKind::ApprovedExample, have: 0, need: 1 };
                insufficient(vec![shortfall], "\x1b[2Jenough\nerror: of another kind")
            }
            "spin" => loop {
                black_box(0);
            },
            _ => train(1.0),
        }
    }
}

export!(Hostile);
