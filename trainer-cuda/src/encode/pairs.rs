//! Preference pairs to token ids and labels, as TRL's `DPOTrainer` does it.

use super::{
    EMPTY, EncodeConfig, LONGER, NO_LABEL_LEFT, OverLength, Skipped, common_prefix, of_record, render_whole, with_eos,
};
use crate::Result;
use crate::batch::TokenExample;
use crate::formats::{ChatMessage, TextTokenizer};
use crate::method::PairExample;

/// Two responses to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRecord {
    /// What both answer.
    pub prompt: Prompt,
    /// The preferred response.
    pub chosen: String,
    /// The other.
    pub rejected: String,
}

/// What comes before a response.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// As it stands.
    Text(String),
    /// Rendered by the model's chat template; the responses are assistant turns.
    Chat(Vec<ChatMessage>),
}

/// The pairs of a set of records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncodedPairs {
    /// In the order of the records.
    pub examples: Vec<PairExample>,
    /// For each pair, the index of its record.
    pub record_index: Vec<usize>,
    /// The other records.
    pub skipped: Vec<Skipped>,
    /// How many pairs lost the end of a side to [`OverLength::Truncate`].
    pub n_truncated: usize,
}

/// Tokenises preference pairs as TRL 1.16's `DPOTrainer` does: the end-of-sequence token belongs to the response, and
/// both responses start at the same token, the earlier of the two places where prompt and whole stop agreeing.
///
/// # Errors
/// [`TrainerError::Encode`] where the tokenizer or the chat template refuses a record.
pub fn encode_dpo(tokenizer: &TextTokenizer, records: &[PairRecord], config: &EncodeConfig) -> Result<EncodedPairs> {
    let mut encoded = EncodedPairs::default();
    for (index, record) in records.iter().enumerate() {
        let at = |error| of_record(index, error);
        if record.chosen == record.rejected {
            encoded.skipped.push(Skipped { index, reason: "chosen equals rejected" });
            continue;
        }
        if record.chosen.trim().is_empty() || record.rejected.trim().is_empty() {
            encoded.skipped.push(Skipped { index, reason: EMPTY });
            continue;
        }
        let (prompt, chosen) = side(tokenizer, &record.prompt, &record.chosen).map_err(at)?;
        let (_, rejected) = side(tokenizer, &record.prompt, &record.rejected).map_err(at)?;
        let start = common_prefix(&prompt, &chosen).min(common_prefix(&prompt, &rejected));
        let over_length = chosen.len().max(rejected.len()) > config.max_length;
        if over_length && (config.over_length == OverLength::Drop || start >= config.max_length) {
            encoded.skipped.push(Skipped { index, reason: LONGER });
            continue;
        }
        let example = |mut ids: Vec<u32>| {
            ids.truncate(config.max_length);
            let labels = (0..ids.len()).map(|i| i >= start).collect();
            TokenExample { input_ids: ids, labels, response_start: start }
        };
        let pair = PairExample { chosen: example(chosen), rejected: example(rejected) };
        if pair.chosen.n_labels() == 0 || pair.rejected.n_labels() == 0 {
            encoded.skipped.push(Skipped { index, reason: NO_LABEL_LEFT });
            continue;
        }
        if pair.chosen.input_ids == pair.rejected.input_ids {
            encoded.skipped.push(Skipped { index, reason: "chosen equals rejected after truncation" });
            continue;
        }
        encoded.n_truncated += usize::from(over_length);
        encoded.examples.push(pair);
        encoded.record_index.push(index);
    }
    Ok(encoded)
}

/// Token ids of the prompt, and of the prompt with the response.
fn side(tokenizer: &TextTokenizer, prompt: &Prompt, response: &str) -> Result<(Vec<u32>, Vec<u32>)> {
    match prompt {
        Prompt::Text(prompt) => {
            let whole = with_eos(format!("{prompt}{response}"), tokenizer.eos_token());
            Ok((tokenizer.encode(prompt)?, tokenizer.encode(&whole)?))
        }
        Prompt::Chat(messages) => {
            let answer = ChatMessage { role: "assistant".into(), content: response.to_owned() };
            let all: Vec<ChatMessage> = messages.iter().cloned().chain([answer]).collect();
            let prompt = tokenizer.render_chat(messages, true)?;
            Ok((tokenizer.encode_rendered(&prompt)?, tokenizer.encode_rendered(&render_whole(tokenizer, &all)?)?))
        }
    }
}
