//! Conversations as agents write them into their input.

use formatter_kit::formatting::{ChatMessage, ChatRole};
use serde_json::Value;

/// The turns of a conversation that waits for an answer; `None` for every other text, which is a message as it stands.
pub(crate) fn parse(input: &str) -> Option<Vec<ChatMessage>> {
    // Most inputs are no JSON: told by their first character.
    if !input.trim_start().starts_with(['[', '{']) {
        return None;
    }
    let value: Value = serde_json::from_str(input).ok()?;
    let turns = value.get("messages").unwrap_or(&value).as_array()?;
    let turns: Vec<ChatMessage> = turns.iter().map(turn).collect::<Option<_>>()?;
    turns.last().is_some_and(|last| last.role == ChatRole::User).then_some(turns)
}

fn turn(value: &Value) -> Option<ChatMessage> {
    let role = match value.get("role")?.as_str()? {
        "system" => ChatRole::System,
        "user" => ChatRole::User,
        "assistant" => ChatRole::Assistant,
        _ => return None,
    };
    Some(ChatMessage { role, content: value.get("content")?.as_str()?.to_string() })
}
