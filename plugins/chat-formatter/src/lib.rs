//! Chat records, which the base model's own template renders. The instruction is the system message; the setting
//! `system_prompt` replaces it.

use formatter_kit::formatting::{ChatMessage, ChatRole, Formatted, FormatterConfig, Guest, TrainingRecord};
use formatter_kit::types::{Example, InstructionExample, PluginError};
use formatter_kit::{Settings, format_each};

struct ChatFormatter;

impl Guest for ChatFormatter {
    fn format(config: FormatterConfig, examples: Vec<Example>) -> Result<Vec<Formatted>, PluginError> {
        let settings = Settings::new(&config.settings, &["system_prompt"]).map_err(PluginError::Configuration)?;
        let system_prompt = settings.text("system_prompt");
        // A preference record's prompt is plain text, and a chat model must not be trained on another form of prompt
        // than the one it will see.
        let preference = |_| Formatted::Skipped("preference pairs have no chat form".into());
        Ok(format_each(examples, |example| chat(example, system_prompt), preference))
    }
}

formatter_kit::export!(ChatFormatter);

/// Templates want a user turn: without an input, the instruction is the user's message.
fn chat(example: InstructionExample, system_prompt: Option<&str>) -> TrainingRecord {
    let InstructionExample { instruction, input, output, .. } = example;
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
    messages.push(ChatMessage { role: ChatRole::Assistant, content: output });
    TrainingRecord::Chat(messages)
}

#[cfg(test)]
mod tests;
