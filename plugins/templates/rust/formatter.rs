//! A formatter: examples in, training records out.

wit_bindgen::generate!({ world: "formatter", path: "wit" });

use exports::tunesmith::plugin::formatting::{
    Formatted, FormatterConfig, Guest, PreferenceRecord, PromptCompletion, TrainingRecord, TripletRecord,
};
use tunesmith::plugin::types::{Example, PluginError};

struct Plugin;

impl Guest for Plugin {
    fn format(config: FormatterConfig, examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
        // A setting that is misspelt is told, rather than ignored.
        if let Some((key, _)) = config.settings.first() {
            return Err(PluginError::Configuration(format!("unknown setting `{key}`; this plugin has no settings")));
        }
        Ok(examples.into_iter().map(format_one).collect())
    }
}

fn format_one(example: Example) -> Formatted {
    Formatted::Ready(match example {
        Example::Instruction(e) if e.output.trim().is_empty() => return Formatted::Skipped("empty output".into()),
        Example::Instruction(e) => TrainingRecord::PromptCompletion(PromptCompletion {
            prompt: format!("{}\n{}\n", e.instruction, e.input),
            completion: e.output,
        }),
        Example::Preference(e) => TrainingRecord::Preference(PreferenceRecord {
            prompt: format!("{}\n{}\n", e.instruction, e.input),
            chosen: e.chosen,
            rejected: e.rejected,
        }),
        Example::Triplet(e) => {
            TrainingRecord::Triplet(TripletRecord { anchor: e.anchor, positive: e.positive, negative: e.negative })
        }
    })
}

export!(Plugin);
