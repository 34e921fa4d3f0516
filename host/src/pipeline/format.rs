//! Examples to records to tokens, and which example each of them came from.

use trainer_cuda::batch::TokenExample;
use trainer_cuda::encode::{Record, encode_sft};
use trainer_cuda::formats::{BaseModel, ChatMessage};

use crate::config::RunConfig;
use crate::dataset::{self, SkipTable};
use crate::error::HostError;
use crate::plugins::Formatter;
use crate::plugins::bindings::formatting::{ChatRole, Formatted, FormatterConfig, TrainingRecord};
use crate::plugins::bindings::types::{Example, TrainingMethod};
use crate::progress::Progress;

/// Records, and beside each the example that it came from.
#[derive(Debug, Default)]
pub struct Formatting {
    /// What the formatter made.
    pub records: Vec<TrainingRecord>,
    /// The example of each record.
    pub sources: Vec<Example>,
}

/// Tokens to train or to score, and beside each the example that they came from.
pub(super) struct TokenSet {
    pub(super) tokens: Vec<TokenExample>,
    pub(super) sources: Vec<Example>,
}

/// Formats examples; those that the formatter leaves out are counted in `skipped`.
///
/// # Errors
/// [`HostError::Plugin`].
pub fn format(
    config: &RunConfig,
    formatter: &Formatter,
    examples: Vec<Example>,
    skipped: &mut SkipTable,
) -> Result<Formatting, HostError> {
    let settings = config.plugins.formatter_settings.clone();
    let formatter_config = FormatterConfig { agent_type: config.agent_type.clone(), settings };
    let formatted = formatter.format(&formatter_config, &examples)?;
    let mut formatting = Formatting::default();
    for (result, example) in formatted.into_iter().zip(examples) {
        match result {
            Formatted::Ready(record) => {
                formatting.records.push(record);
                formatting.sources.push(example);
            }
            Formatted::Skipped(reason) => skipped.add(&reason),
        }
    }
    Ok(formatting)
}

/// Formats and encodes one side of the split; what falls out on the way is counted in `skipped`.
///
/// # Errors
/// [`HostError::Plugin`], [`HostError::Dataset`] for records that SFT can't train, and [`HostError::Trainer`] for
/// ones that the tokenizer refuses.
pub(super) fn sft_examples(
    config: &RunConfig,
    formatter: &Formatter,
    base: &BaseModel,
    examples: Vec<Example>,
    skipped: &mut SkipTable,
    progress: &Progress,
) -> Result<TokenSet, HostError> {
    let stage = progress.stage("encode", examples.len() as u64);
    if examples.is_empty() {
        return Ok(TokenSet { tokens: Vec::new(), sources: Vec::new() });
    }
    let Formatting { records, sources } = format(config, formatter, examples, skipped)?;
    if records.is_empty() {
        return Ok(TokenSet { tokens: Vec::new(), sources: Vec::new() });
    }
    dataset::validate(&records, TrainingMethod::Sft)?;
    let records: Vec<_> = records.into_iter().filter_map(sft_record).collect();
    let encoded = encode_sft(&base.tokenizer, &records, &config.encoding)?;
    for left_out in &encoded.skipped {
        skipped.add(left_out.reason);
    }
    let n_tokens: usize = encoded.examples.iter().map(|example| example.input_ids.len()).sum();
    let cut = match encoded.n_truncated {
        0 => String::new(),
        n => format!(", {n} cut at {} tokens", config.encoding.max_length),
    };
    stage.finish(&format!("{} examples, {n_tokens} tokens{cut}", encoded.examples.len()));
    let sources = encoded.record_index.iter().map(|&index| sources[index].clone()).collect();
    Ok(TokenSet { tokens: encoded.examples, sources })
}

/// The trainer's form of a record that SFT trains; validation has refused the others.
fn sft_record(record: TrainingRecord) -> Option<Record> {
    Some(match record {
        TrainingRecord::Text(record) => {
            Record::Text { text: record.text, response_start: record.response_start.map(|start| start as usize) }
        }
        TrainingRecord::PromptCompletion(record) => {
            Record::PromptCompletion { prompt: record.prompt, completion: record.completion }
        }
        TrainingRecord::Chat(messages) => Record::Chat(
            messages
                .into_iter()
                .map(|message| ChatMessage { role: role(message.role).to_owned(), content: message.content })
                .collect(),
        ),
        TrainingRecord::Preference(_) | TrainingRecord::ChatPreference(_) | TrainingRecord::Triplet(_) => return None,
    })
}

/// The word for a role in chat templates.
pub fn role(role: ChatRole) -> &'static str {
    match role {
        ChatRole::System => "system",
        ChatRole::User => "user",
        ChatRole::Assistant => "assistant",
    }
}
