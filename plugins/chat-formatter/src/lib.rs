//! Chat records, which the base model's own template renders. The instruction is the system message; the setting
//! `system_prompt` replaces it. An input that is a conversation itself, as JSON, stays one: `[{"role": ..., "content":
//! ...}, ...]`, or such a list under `messages`.

mod conversation;

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
    let user = |content: String| vec![ChatMessage { role: ChatRole::User, content }];
    let (system, turns) = match conversation::parse(&input) {
        Some(turns) => (instruction, turns),
        None if input.is_empty() => (String::new(), user(instruction)),
        None => (instruction, user(input)),
    };
    let system = system_prompt.map_or(system, str::to_string);
    let begins_with_system = turns.first().is_some_and(|turn| turn.role == ChatRole::System);
    let mut messages = Vec::with_capacity(turns.len() + 2);
    // A conversation's own system message is the one that the agent had.
    if !system.is_empty() && !begins_with_system {
        messages.push(ChatMessage { role: ChatRole::System, content: system });
    }
    messages.extend(turns);
    messages
}

#[cfg(test)]
mod tests;
