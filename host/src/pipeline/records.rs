//! What a formatter made, as JSON in the fields that TRL and sentence-transformers read, and as digests.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::plugins::bindings::formatting::{
    ChatMessage, ChatPreference, ChatRole, PreferenceRecord, PromptCompletion, TextRecord, TrainingRecord,
    TripletRecord,
};

use super::role;

/// What is told of a record after the trainer has taken it.
#[derive(Debug, Clone)]
pub struct RecordText {
    /// [`fields`] in one line.
    pub line: String,
    /// What the model is given before it has to answer.
    pub prompt: String,
}

impl RecordText {
    /// Of a record.
    pub fn new(record: &TrainingRecord) -> Self {
        Self { line: fields(record).to_string(), prompt: prompt(record) }
    }
}

/// SHA-256 over the lines of records, a line's end after each, in hexadecimal: what `extract` writes, without `set` and
/// `lineage`.
pub fn digest<'a>(records: impl IntoIterator<Item = &'a RecordText>) -> String {
    let mut sha256 = Sha256::new();
    for record in records {
        sha256.update(&record.line);
        sha256.update("\n");
    }
    sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The record's fields.
pub fn fields(record: &TrainingRecord) -> Value {
    match record {
        TrainingRecord::Text(record) => json!({ "text": record.text, "response_start": record.response_start }),
        TrainingRecord::PromptCompletion(record) => {
            json!({ "prompt": record.prompt, "completion": record.completion })
        }
        TrainingRecord::Chat(messages) => json!({ "messages": turns(messages) }),
        TrainingRecord::Preference(record) => {
            json!({ "prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected })
        }
        // The assistant's turns as messages too, as TRL's conversational preference records have them.
        TrainingRecord::ChatPreference(record) => {
            let answer = |content: &str| json!([{ "role": "assistant", "content": content }]);
            json!({
                "prompt": turns(&record.prompt),
                "chosen": answer(&record.chosen),
                "rejected": answer(&record.rejected),
            })
        }
        TrainingRecord::Triplet(record) => {
            json!({ "anchor": record.anchor, "positive": record.positive, "negative": record.negative })
        }
    }
}

/// The record of [`fields`]; `None` for what no formatter makes.
pub(super) fn parse(fields: &Value) -> Option<TrainingRecord> {
    let text = |name: &str| fields.get(name)?.as_str().map(str::to_owned);
    // An answer of a conversational preference is the assistant's one turn.
    let answer = |name: &str| match messages(fields.get(name)?)?.as_slice() {
        [ChatMessage { role: ChatRole::Assistant, content }] => Some(content.clone()),
        _ => None,
    };
    if let Some(list) = fields.get("messages") {
        return Some(TrainingRecord::Chat(messages(list)?));
    }
    if let Some(text) = text("text") {
        let response_start = match fields.get("response_start") {
            None | Some(Value::Null) => None,
            Some(start) => Some(u32::try_from(start.as_u64()?).ok()?),
        };
        return Some(TrainingRecord::Text(TextRecord { text, response_start }));
    }
    if let Some(anchor) = text("anchor") {
        let (positive, negative) = (text("positive")?, text("negative")?);
        return Some(TrainingRecord::Triplet(TripletRecord { anchor, positive, negative }));
    }
    match (fields.get("prompt")?, text("completion")) {
        (Value::String(prompt), Some(completion)) => {
            Some(TrainingRecord::PromptCompletion(PromptCompletion { prompt: prompt.clone(), completion }))
        }
        (Value::String(prompt), None) => {
            let (chosen, rejected) = (text("chosen")?, text("rejected")?);
            Some(TrainingRecord::Preference(PreferenceRecord { prompt: prompt.clone(), chosen, rejected }))
        }
        (prompt, _) => {
            let (chosen, rejected) = (answer("chosen")?, answer("rejected")?);
            Some(TrainingRecord::ChatPreference(ChatPreference { prompt: messages(prompt)?, chosen, rejected }))
        }
    }
}

fn messages(list: &Value) -> Option<Vec<ChatMessage>> {
    let message = |turn: &Value| {
        let role = match turn.get("role")?.as_str()? {
            "system" => ChatRole::System,
            "user" => ChatRole::User,
            "assistant" => ChatRole::Assistant,
            _ => return None,
        };
        Some(ChatMessage { role, content: turn.get("content")?.as_str()?.to_owned() })
    };
    list.as_array()?.iter().map(message).collect()
}

/// Of a text without a response, all of it.
fn prompt(record: &TrainingRecord) -> String {
    match record {
        TrainingRecord::Text(record) => {
            let end = record.response_start.map_or(record.text.len(), |start| start as usize);
            record.text.get(..end).unwrap_or(&record.text).to_owned()
        }
        TrainingRecord::PromptCompletion(record) => record.prompt.clone(),
        TrainingRecord::Chat(messages) => {
            let end = messages.iter().rposition(|message| message.role == ChatRole::Assistant);
            Value::from(turns(&messages[..end.unwrap_or(messages.len())])).to_string()
        }
        TrainingRecord::Preference(record) => record.prompt.clone(),
        TrainingRecord::ChatPreference(record) => Value::from(turns(&record.prompt)).to_string(),
        TrainingRecord::Triplet(record) => record.anchor.clone(),
    }
}

fn turns(messages: &[ChatMessage]) -> Vec<Value> {
    let turn = |message: &ChatMessage| json!({ "role": role(message.role), "content": message.content });
    messages.iter().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_what_its_fields_say() {
        let message = |role, content: &str| ChatMessage { role, content: content.to_owned() };
        let asked = vec![message(ChatRole::System, "route"), message(ChatRole::User, "weather?")];
        let answered = [asked.clone(), vec![message(ChatRole::Assistant, "weather_agent")]].concat();
        let text = |text: &str| text.to_owned();
        let (prompt, chosen, rejected) = (text("q"), text("a"), text("b"));
        for record in [
            TrainingRecord::Text(TextRecord { text: text("q a"), response_start: Some(2) }),
            TrainingRecord::Text(TextRecord { text: text("q a"), response_start: None }),
            TrainingRecord::PromptCompletion(PromptCompletion { prompt: prompt.clone(), completion: text("a") }),
            TrainingRecord::Chat(answered),
            TrainingRecord::Preference(PreferenceRecord { prompt, chosen: chosen.clone(), rejected: rejected.clone() }),
            TrainingRecord::ChatPreference(ChatPreference { prompt: asked, chosen, rejected }),
            TrainingRecord::Triplet(TripletRecord { anchor: text("q"), positive: text("+"), negative: text("-") }),
        ] {
            let fields = fields(&record);
            assert_eq!(parse(&fields).as_ref().map(super::fields), Some(fields), "{record:?}");
        }
        for nonsense in [json!({}), json!({"prompt": "q"}), json!({"messages": [{"role": "tool", "content": ""}]})] {
            assert!(parse(&nonsense).is_none(), "{nonsense}");
        }
    }
}
