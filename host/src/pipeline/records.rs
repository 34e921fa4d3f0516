//! What a formatter made, as JSON in the fields that TRL and sentence-transformers read, and as digests.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::plugins::bindings::formatting::{ChatMessage, ChatRole, TrainingRecord};

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
