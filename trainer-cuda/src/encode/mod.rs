//! Training records to token ids and labels, as TRL's `SFTTrainer` does it.

mod pairs;
mod triplets;

pub use pairs::{EncodedPairs, PairRecord, Prompt, encode_dpo};
pub use triplets::{EncodedTriplets, TripletRecord, encode_triplets};

use crate::batch::TokenExample;
use crate::formats::{ChatMessage, TextTokenizer};
use crate::{Result, TrainerError};
use serde::{Deserialize, Serialize};
use std::ops::Range;

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
    /// Rendered by the model's chat template; every assistant turn is trained, the last is scored.
    Chat(Vec<ChatMessage>),
}

impl Record {
    /// A response that says nothing would teach the model to stop at once.
    fn has_empty_response(&self) -> bool {
        let is_empty = |text: &str| text.trim().is_empty();
        match self {
            Self::Text { text, response_start } => {
                is_empty(text) || response_start.and_then(|at| text.get(at..)).is_some_and(is_empty)
            }
            Self::PromptCompletion { completion, .. } => is_empty(completion),
            Self::Chat(messages) => {
                messages.iter().any(|message| message.role == "assistant" && is_empty(&message.content))
            }
        }
    }
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
        let at = |error| of_record(index, error);
        if record.has_empty_response() {
            encoded.skipped.push(Skipped { index, reason: EMPTY });
            continue;
        }
        let text = Rendered::new(tokenizer, record).map_err(at)?;
        let mut ids = text.encode(tokenizer, &text.whole).map_err(at)?;
        let responses = text.responses(tokenizer, &ids).map_err(at)?;
        let completion_only = match config.loss_on {
            LossOn::Auto => !matches!(record, Record::Text { .. }),
            LossOn::Completion => true,
            LossOn::Whole => false,
        };
        if completion_only && responses.is_empty() {
            let what = "the formatter did not say where the response starts, so the loss cannot be on it alone; \
                        use loss_on = \"whole\" or a formatter that says"
                .into();
            return Err(TrainerError::Encode { index, what });
        }
        let over_length = ids.len() > config.max_length;
        if over_length {
            match config.over_length {
                OverLength::Drop => {
                    encoded.skipped.push(Skipped { index, reason: LONGER });
                    continue;
                }
                OverLength::Truncate => ids.truncate(config.max_length),
            }
        }
        let is_label = |i: usize| !completion_only || responses.iter().any(|response| response.contains(&i));
        let labels: Vec<bool> = (0..ids.len()).map(is_label).collect();
        let response_start = responses.last().map_or(0, |response| response.start);
        let example = TokenExample { input_ids: ids, labels, response_start };
        if example.n_labels() == 0 {
            encoded.skipped.push(Skipped { index, reason: if over_length { NO_LABEL_LEFT } else { EMPTY } });
            continue;
        }
        encoded.n_truncated += usize::from(over_length);
        encoded.examples.push(example);
        encoded.record_index.push(index);
    }
    Ok(encoded)
}

/// A tokenizer's error, of this record.
fn of_record(index: usize, error: TrainerError) -> TrainerError {
    match error {
        TrainerError::Encode { what, .. } => TrainerError::Encode { index, what },
        other => other,
    }
}

const LONGER: &str = "longer than max_length";
const EMPTY: &str = "empty completion";
const NO_LABEL_LEFT: &str = "no label left after truncation";

/// A record as text.
struct Rendered {
    whole: String,
    /// Texts before and through each response; both are beginnings of `whole`.
    responses: Vec<(String, String)>,
    /// True for a conversation: its template spells the special tokens.
    is_chat: bool,
}

impl Rendered {
    fn new(tokenizer: &TextTokenizer, record: &Record) -> Result<Self> {
        let eos = tokenizer.eos_token();
        Ok(match record {
            Record::Text { text, response_start } => {
                let whole = with_eos(text.clone(), eos);
                let prompt = response_start.and_then(|at| text.get(..at));
                Self {
                    responses: prompt.map(|prompt| (prompt.to_owned(), whole.clone())).into_iter().collect(),
                    whole,
                    is_chat: false,
                }
            }
            Record::PromptCompletion { prompt, completion } => {
                let whole = with_eos(format!("{prompt}{completion}"), eos);
                Self { responses: vec![(prompt.clone(), whole.clone())], whole, is_chat: false }
            }
            Record::Chat(messages) => Self::chat(tokenizer, messages)?,
        })
    }

    /// An assistant turn runs from where the template would let the model go on, to what ends the turn.
    fn chat(tokenizer: &TextTokenizer, messages: &[ChatMessage]) -> Result<Self> {
        let whole = render_whole(tokenizer, messages)?;
        let mut responses = Vec::new();
        for (turn, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let before = tokenizer.render_chat(&messages[..turn], true)?;
            let through = match turn + 1 == messages.len() {
                true => whole.clone(),
                false => tokenizer.render_chat(&messages[..=turn], false)?.trim_end().to_owned(),
            };
            if !whole.starts_with(&before) || !whole.starts_with(&through) {
                let what = format!(
                    "the chat template renders turn {} in another way once the conversation goes on, so it can't be \
                     trained within it; give each assistant turn a record of its own, or use loss_on = \"whole\"",
                    turn + 1
                );
                return Err(TrainerError::Encode { index: 0, what });
            }
            responses.push((before, through));
        }
        Ok(Self { whole, responses, is_chat: true })
    }

    fn encode(&self, tokenizer: &TextTokenizer, text: &str) -> Result<Vec<u32>> {
        if self.is_chat { tokenizer.encode_rendered(text) } else { tokenizer.encode(text) }
    }

    /// The tokens of each response: from where the tokens of the text before it and of the whole stop agreeing.
    fn responses(&self, tokenizer: &TextTokenizer, ids: &[u32]) -> Result<Vec<Range<usize>>> {
        let end_of = |text: &str| -> Result<usize> {
            if text.len() == self.whole.len() {
                return Ok(ids.len());
            }
            Ok(common_prefix(&self.encode(tokenizer, text)?, ids))
        };
        self.responses.iter().map(|(before, through)| Ok(end_of(before)?..end_of(through)?)).collect()
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A conversation that ends where its last turn does. The end-of-sequence token is added where the template writes
/// nothing after the last message.
fn render_whole(tokenizer: &TextTokenizer, messages: &[ChatMessage]) -> Result<String> {
    let text = tokenizer.render_chat(messages, false)?.trim_end().to_owned();
    let is_open = messages.last().is_some_and(|last| text.ends_with(last.content.trim_end()));
    Ok(if is_open { with_eos(text, tokenizer.eos_token()) } else { text })
}

fn with_eos(mut text: String, eos: Option<&str>) -> String {
    if let Some(eos) = eos.filter(|eos| !text.ends_with(eos)) {
        text.push_str(eos);
    }
    text
}
