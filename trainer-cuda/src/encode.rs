//! Training records to token ids and labels, as TRL's `SFTTrainer` does it.

use crate::batch::TokenExample;
use crate::formats::{ChatMessage, TextTokenizer};
use crate::{Result, TrainerError};
use serde::{Deserialize, Serialize};

/// One SFT record, as a formatter made it.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A whole text; every token is trained unless [`LossOn::Completion`] is asked for.
    Text {
        /// The text.
        text: String,
        /// Byte offset where the response starts.
        response_start: Option<usize>,
    },
    /// Only the completion is trained.
    PromptCompletion {
        /// Given.
        prompt: String,
        /// Trained.
        completion: String,
    },
    /// Rendered by the model's chat template; the last assistant turn is trained.
    Chat(Vec<ChatMessage>),
}

/// Which tokens carry loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// The whole of a text record, the completion of every other.
    Auto,
    /// The completion only.
    Completion,
    /// Every token.
    Whole,
}

/// What happens to an example longer than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverLength {
    /// It is left out and counted.
    Drop,
    /// Its start is kept, and it is counted; where no label is left, it is left out.
    Truncate,
}

/// How records become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EncodeConfig {
    /// Longest example in tokens.
    pub max_length: usize,
    /// Which tokens carry loss.
    pub loss_on: LossOn,
    /// What happens to longer ones.
    pub over_length: OverLength,
}

impl Default for EncodeConfig {
    fn default() -> Self {
        Self { max_length: 1024, loss_on: LossOn::Auto, over_length: OverLength::Drop }
    }
}

/// A record that gave no example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Index of the record.
    pub index: usize,
    /// Why: a row of the run's table.
    pub reason: &'static str,
}

/// The examples of a set of records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// In the order of the records.
    pub examples: Vec<TokenExample>,
    /// For each example, the index of its record.
    pub record_index: Vec<usize>,
    /// The other records.
    pub skipped: Vec<Skipped>,
    /// How many examples lost their end to [`OverLength::Truncate`].
    pub n_truncated: usize,
}

/// Tokenises `records`.
///
/// The end-of-sequence token is appended as text unless the text ends so already. The completion starts where the
/// tokens of the prompt and of the whole stop agreeing, so a token merged across the boundary belongs to the
/// completion. Both are TRL 1.16's rules.
///
/// # Errors
/// [`TrainerError::Encode`] where the tokenizer or the chat template refuses a record, or where
/// [`LossOn::Completion`] is asked of a text whose formatter did not say where the response starts: the mask never
/// falls back silently.
pub fn encode_sft(tokenizer: &TextTokenizer, records: &[Record], config: &EncodeConfig) -> Result<Encoded> {
    let mut encoded = Encoded::default();
    for (index, record) in records.iter().enumerate() {
        let at = |what: String| TrainerError::Encode { index, what };
        let (whole, prompt) = parts(tokenizer, record).map_err(|error| at(error.to_string()))?;
        let whole = with_eos(whole, tokenizer.eos_token());
        let mut ids = tokenizer.encode(&whole).map_err(|error| at(error.to_string()))?;
        let response_start = match &prompt {
            Some(prompt) => {
                let prompt = tokenizer.encode(prompt).map_err(|error| at(error.to_string()))?;
                prompt.iter().zip(&ids).take_while(|(a, b)| a == b).count()
            }
            None => 0,
        };
        let completion_only = match config.loss_on {
            LossOn::Auto => !matches!(record, Record::Text { .. }),
            LossOn::Completion => true,
            LossOn::Whole => false,
        };
        if completion_only && prompt.is_none() {
            let what = "the formatter did not say where the response starts, so the loss cannot be on it alone; \
                        use loss_on = \"whole\" or a formatter that says"
                .into();
            return Err(at(what));
        }
        let over_length = ids.len() > config.max_length;
        if over_length {
            match config.over_length {
                OverLength::Drop => {
                    encoded.skipped.push(Skipped { index, reason: "longer than max_length" });
                    continue;
                }
                OverLength::Truncate => ids.truncate(config.max_length),
            }
        }
        let labelled_from = if completion_only { response_start } else { 0 };
        let labels: Vec<bool> = (0..ids.len()).map(|i| i >= labelled_from).collect();
        let example = TokenExample { input_ids: ids, labels, response_start };
        if example.n_labels() == 0 {
            encoded.skipped.push(Skipped { index, reason: "no label left after truncation" });
            continue;
        }
        encoded.n_truncated += usize::from(over_length);
        encoded.examples.push(example);
        encoded.record_index.push(index);
    }
    Ok(encoded)
}

/// The whole text of a record, and its prompt where it has one.
fn parts(tokenizer: &TextTokenizer, record: &Record) -> Result<(String, Option<String>)> {
    Ok(match record {
        Record::Text { text, response_start } => {
            (text.clone(), response_start.and_then(|at| text.get(..at)).map(str::to_owned))
        }
        Record::PromptCompletion { prompt, completion } => (format!("{prompt}{completion}"), Some(prompt.clone())),
        Record::Chat(messages) => {
            let before_answer = messages.len().saturating_sub(1);
            let prompt = tokenizer.render_chat(&messages[..before_answer], true)?;
            (tokenizer.render_chat(messages, false)?.trim_end().to_owned(), Some(prompt))
        }
    })
}

fn with_eos(mut text: String, eos: Option<&str>) -> String {
    if let Some(eos) = eos.filter(|eos| !text.ends_with(eos)) {
        text.push_str(eos);
    }
    text
}
