//! A formatter that logs: a line at each level, or more than its share, as its setting `behaviour` says.

wit_bindgen::generate!({ world: "formatter", path: "../../../wit", generate_all });

use exports::tunesmith::plugin::formatting::{Formatted, FormatterConfig, Guest, PromptCompletion, TrainingRecord};
use tunesmith::plugin::log::{Level, write};
use tunesmith::plugin::types::{Example, PluginError};

struct Logging;

impl Guest for Logging {
    fn format(config: FormatterConfig, examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
        let behaviour = config.settings.iter().find(|(key, _)| key == "behaviour").map_or("", |(_, value)| value);
        match behaviour {
            "lines" => (0..5000).for_each(|line| write(Level::Warn, &format!("line {line}"))),
            "bytes" => (0..100).for_each(|_| write(Level::Warn, &"x".repeat(4000))),
            "giant" => write(Level::Warn, &"y".repeat(8 << 20)),
            "over-the-output-cap" => write(Level::Warn, &"y".repeat(20 << 20)),
            "forge" => write(Level::Warn, "\x1b[2Jdone\nerror: tenant b is broken\r\u{9b}31m"),
            _ => {
                write(Level::Debug, "looked closely");
                write(Level::Info, &format!("{} examples", examples.len()));
                write(Level::Warn, "few examples");
                write(Level::Error, "no examples");
            }
        }
        let record = |example: &Example| match example {
            Example::Instruction(example) => {
                let (prompt, completion) = (example.input.clone(), example.output.clone());
                Formatted::Ready(TrainingRecord::PromptCompletion(PromptCompletion { prompt, completion }))
            }
            _ => Formatted::Skipped("no instruction".into()),
        };
        Ok(examples.iter().map(record).collect())
    }
}

export!(Logging);
