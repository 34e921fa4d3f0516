//! A tenant's own formatter: `Q: … A:` instead of the Alpaca headings. Chosen by one line of configuration:
//! `formatter = "path/to/terse-formatter.wasm"`.

wit_bindgen::generate!({ world: "formatter", path: "../../../wit", generate_all });

use exports::tunesmith::plugin::formatting::{Formatted, FormatterConfig, Guest, PromptCompletion, TrainingRecord};
use tunesmith::plugin::types::{Example, PluginError};

struct Terse;

impl Guest for Terse {
    fn format(_: FormatterConfig, examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
        Ok(examples.into_iter().map(terse).collect())
    }
}

fn terse(example: Example) -> Formatted {
    match example {
        Example::Instruction(example) => Formatted::Ready(TrainingRecord::PromptCompletion(PromptCompletion {
            prompt: format!("Q: {}\nA:", example.input),
            completion: format!(" {}", example.output),
        })),
        Example::Preference(_) | Example::Triplet(_) => Formatted::Skipped("not an instruction example".into()),
    }
}

export!(Terse);
