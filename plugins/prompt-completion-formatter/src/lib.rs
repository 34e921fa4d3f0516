//! Prompt and completion records: the Alpaca headings as the prompt, and only the answer is trained.

use formatter_kit::formatting::{Formatted, FormatterConfig, Guest, PromptCompletion, TrainingRecord};
use formatter_kit::types::{Example, InstructionExample, PluginError};
use formatter_kit::{Settings, alpaca_preference, alpaca_prompt, format_each};

struct PromptCompletionFormatter;

impl Guest for PromptCompletionFormatter {
    fn format(config: FormatterConfig, examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
        Settings::new(&config.settings, &[]).map_err(PluginError::Configuration)?;
        Ok(format_each(examples, prompt_completion, alpaca_preference))
    }
}

formatter_kit::export!(PromptCompletionFormatter);

fn prompt_completion(example: InstructionExample) -> TrainingRecord {
    let prompt = alpaca_prompt(&example.instruction, &example.input);
    TrainingRecord::PromptCompletion(PromptCompletion { prompt, completion: example.output })
}

#[cfg(test)]
mod tests;
