//! Examples to records to tokens, and which example each of them came from.

use trainer_cuda::formats::BaseModel;

use crate::approval::Approval;
use crate::config::RunConfig;
use crate::dataset::{self, SkipTable};
use crate::error::HostError;
use crate::plugins::Formatter;
use crate::plugins::bindings::formatting::{Formatted, FormatterConfig, TrainingRecord};
use crate::plugins::bindings::types::Example;
use crate::progress::Progress;

use super::Admitted;
use super::failures::BatchFailures;
use super::recipe::Recipe;
use super::records::RecordText;

/// Records, and beside each the example that it came from.
#[derive(Debug, Default)]
pub struct Formatting {
    /// What the formatter made.
    pub records: Vec<TrainingRecord>,
    /// The example of each record.
    pub sources: Vec<Admitted>,
}

/// Tokens to train or to score, and beside each the example that they came from.
pub(super) struct TokenSet<E> {
    pub(super) tokens: Vec<E>,
    pub(super) sources: Vec<Admitted>,
    pub(super) records: Vec<RecordText>,
}

impl<E> TokenSet<E> {
    fn empty() -> Self {
        Self { tokens: Vec::new(), sources: Vec::new(), records: Vec::new() }
    }

    /// Of those that were generated.
    pub(super) fn approvals(&self) -> impl Iterator<Item = &Approval> {
        self.sources.iter().filter_map(Admitted::approval)
    }

    /// Prompts, each with its example.
    pub(super) fn prompts(&self) -> impl Iterator<Item = (&str, &Example)> {
        let sources = self.sources.iter().map(Admitted::example);
        self.records.iter().map(|record| record.prompt.as_str()).zip(sources)
    }
}

/// Formats examples; those that the formatter leaves out are counted in `skipped`.
///
/// # Errors
/// [`HostError::Plugin`].
pub fn format(
    config: &RunConfig,
    formatter: &Formatter,
    examples: Vec<Admitted>,
    skipped: &mut SkipTable,
) -> Result<Formatting, HostError> {
    let settings = config.plugins.formatter_settings.clone();
    let formatter_config = FormatterConfig { agent_type: config.agent_type.clone(), settings };
    // None for each example of a batch that was left out.
    let mut formatted: Vec<Option<Formatted>> = Vec::with_capacity(examples.len());
    let mut failures = BatchFailures::new(config.plugins.on_failure);
    let plain: Vec<Example> = examples.iter().map(|admitted| admitted.example().clone()).collect();
    for (index, batch) in formatter.batches(&plain).enumerate() {
        let outcome = formatter.format_batch(&formatter_config, batch, index + 1);
        match failures.settle(outcome, batch.len(), skipped)? {
            Some(results) => formatted.extend(results.into_iter().map(Some)),
            None => formatted.extend(batch.iter().map(|_| None)),
        }
    }
    failures.finish()?;
    let mut formatting = Formatting::default();
    for (result, example) in formatted.into_iter().zip(examples) {
        match result {
            Some(Formatted::Ready(record)) => {
                formatting.records.push(record);
                formatting.sources.push(example);
            }
            Some(Formatted::Skipped(reason)) => skipped.add_of_plugin(&reason),
            None => {}
        }
    }
    Ok(formatting)
}

/// Formats and encodes one side of the split; what falls out on the way is counted in `skipped`.
///
/// # Errors
/// [`HostError::Plugin`], [`HostError::Dataset`] for records that the method can't train, and [`HostError::Trainer`] for
/// ones that the tokenizer refuses.
pub(super) fn encode<R: Recipe>(
    config: &RunConfig,
    formatter: &Formatter,
    base: &BaseModel,
    examples: Vec<Admitted>,
    skipped: &mut SkipTable,
    progress: &Progress,
) -> Result<TokenSet<R::Example>, HostError> {
    let stage = progress.stage("encode", examples.len() as u64);
    if examples.is_empty() {
        return Ok(TokenSet::empty());
    }
    let Formatting { records, sources } = format(config, formatter, examples, skipped)?;
    if records.is_empty() {
        return Ok(TokenSet::empty());
    }
    dataset::validate(&records, R::METHOD)?;
    let texts: Vec<_> = records.iter().map(RecordText::new).collect();
    let encoded = R::encode(base, records, &config.encoding)?;
    for left_out in &encoded.skipped {
        skipped.add(left_out.reason);
        if left_out.reason.starts_with(IDENTICAL) {
            let spans = &dataset::lineage(sources[left_out.index].example()).span_ids;
            tracing::warn!("Skipping identical pair for span {}", spans.join(", "));
        }
    }
    let n_tokens: usize = encoded.examples.iter().map(R::n_tokens).sum();
    let cut = match encoded.n_truncated {
        0 => String::new(),
        n => format!(", {n} cut at {} tokens", config.encoding.max_length),
    };
    stage.finish(&format!("{} examples, {n_tokens} tokens{cut}", encoded.examples.len()));
    let sources = encoded.record_index.iter().map(|&index| sources[index].clone()).collect();
    let records = encoded.record_index.iter().map(|&index| texts[index].clone()).collect();
    Ok(TokenSet { tokens: encoded.examples, sources, records })
}

/// How the trainer's reasons for a pair whose sides became the same begin; a person should look at the span.
const IDENTICAL: &str = "chosen equals rejected";
