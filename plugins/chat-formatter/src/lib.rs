//! Chat records, which the base model's own template renders. The instruction is the system message; the setting
//! `system_prompt` replaces it.

use formatter_kit::formatting::{
    ChatMessage, ChatPreference, ChatRole, Formatted, FormatterConfig, Guest, TrainingRecord,
};
use formatter_kit::types::{Example, InstructionExample, PluginError, PreferencePair};
use formatter_kit::{Settings, format_each};

struct ChatFormatter;

impl Guest for ChatFormatter {
    fn format(config: FormatterConfig, examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
        let settings = Settings::new(&config.settings, &["system_prompt"]).map_err(PluginError::Configuration)?;
        let system_prompt = settings.text("system_prompt");
        Ok(format_each(examples, |example| chat(example, system_prompt), |pair| preference(pair, system_prompt)))
    }
}

formatter_kit::export!(ChatFormatter);

fn chat(example: InstructionExample, system_prompt: Option<&str>) -> TrainingRecord {
    let mut messages = prompt(example.instruction, example.input, system_prompt);
    messages.push(ChatMessage { role: ChatRole::Assistant, content: example.output });
    TrainingRecord::Chat(messages)
}

fn preference(pair: PreferencePair, system_prompt: Option<&str>) -> TrainingRecord {
    let PreferencePair { instruction, input, chosen, rejected, .. } = pair;
    TrainingRecord::ChatPreference(ChatPreference {
        prompt: prompt(instruction, input, system_prompt),
        chosen,
        rejected,
    })
}

/// Templates want a user turn: without an input, the instruction is the user's message.
fn prompt(instruction: String, input: String, system_prompt: Option<&str>) -> Vec<ChatMessage> {
    let (system, user) = match (system_prompt, input.is_empty()) {
        (Some(system), false) => (system.to_string(), input),
        (Some(system), true) => (system.to_string(), instruction),
        (None, false) => (instruction, input),
        (None, true) => (String::new(), instruction),
    };
    let mut messages = Vec::with_capacity(3);
    if !system.is_empty() {
        messages.push(ChatMessage { role: ChatRole::System, content: system });
    }
    messages.push(ChatMessage { role: ChatRole::User, content: user });
    messages
}

#[cfg(test)]
mod tests;
