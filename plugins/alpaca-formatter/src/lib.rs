//! Alpaca text records: the format of the reference pipeline and of many instruction data sets.

use formatter_kit::formatting::{Formatted, FormatterConfig, Guest, TextRecord, TrainingRecord};
use formatter_kit::types::{Example, InstructionExample, PluginError};
use formatter_kit::{Settings, alpaca_preference, alpaca_prompt, format_each};

struct AlpacaFormatter;

impl Guest for AlpacaFormatter {
    fn format(config: FormatterConfig, examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
        Settings::new(&config.settings, &[]).map_err(PluginError::Configuration)?;
        Ok(format_each(examples, text_record, alpaca_preference))
    }
}

formatter_kit::export!(AlpacaFormatter);

fn text_record(example: InstructionExample) -> TrainingRecord {
    let mut text = alpaca_prompt(&example.instruction, &example.input);
    let response_start = u32::try_from(text.len()).ok();
    text.push_str(&example.output);
    TrainingRecord::Text(TextRecord { text, response_start })
}

#[cfg(test)]
mod tests;
