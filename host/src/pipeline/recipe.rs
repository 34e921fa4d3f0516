//! What differs between the methods: their examples, how records become tokens, what trains on them.

use std::path::Path;

use trainer_cuda::Result;
use trainer_cuda::batch::TokenExample;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::encode::{EncodeConfig, PairRecord, Prompt, Record, Skipped, encode_dpo, encode_sft};
use trainer_cuda::formats::{BaseModel, ChatMessage};
use trainer_cuda::method::{Dpo, Evaluation, Method, MethodMetrics, PairExample, Sft};

use crate::plugins::bindings::formatting::{self, ChatRole, TrainingRecord};
use crate::plugins::bindings::types::TrainingMethod;

/// How one method trains.
pub(super) trait Recipe {
    /// What trains.
    type Method: Method<Device = Cpu>;

    /// The policy's name for it.
    const METHOD: TrainingMethod;

    /// Records that are valid for this method to tokens.
    fn encode(
        base: &BaseModel,
        records: Vec<TrainingRecord>,
        config: &EncodeConfig,
    ) -> Result<Encoding<ExampleOf<Self>>>;

    /// Tokens of an example.
    fn n_tokens(example: &ExampleOf<Self>) -> usize;

    /// Loads the model; `scratch` is a file that a resumed run finds again.
    fn load(
        base: &BaseModel,
        config: &TrainConfig,
        device: Cpu,
        train: &[ExampleOf<Self>],
        held_out: &[ExampleOf<Self>],
        scratch: &Path,
    ) -> Result<Self::Method>;

    /// The base's scores, of a model that is still the base.
    fn base_scores(method: &mut Self::Method, held_out: &[ExampleOf<Self>]) -> Evaluation {
        method.evaluate(held_out)
    }
}

/// What a recipe's method trains on.
pub(super) type ExampleOf<R> = <<R as Recipe>::Method as Method>::Example;

/// Tokens, and the record that each example came from.
pub(super) struct Encoding<E> {
    pub(super) examples: Vec<E>,
    pub(super) record_index: Vec<usize>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) n_truncated: usize,
}

/// Supervised fine-tuning.
pub(super) struct SftRecipe;

impl Recipe for SftRecipe {
    type Method = Sft<Cpu>;
    const METHOD: TrainingMethod = TrainingMethod::Sft;

    fn encode(base: &BaseModel, records: Vec<TrainingRecord>, config: &EncodeConfig) -> Result<Encoding<TokenExample>> {
        let records: Vec<_> = records.into_iter().filter_map(sft_record).collect();
        let encoded = encode_sft(&base.tokenizer, &records, config)?;
        Ok(Encoding {
            examples: encoded.examples,
            record_index: encoded.record_index,
            skipped: encoded.skipped,
            n_truncated: encoded.n_truncated,
        })
    }

    fn n_tokens(example: &TokenExample) -> usize {
        example.input_ids.len()
    }

    fn load(
        base: &BaseModel,
        config: &TrainConfig,
        device: Cpu,
        train: &[TokenExample],
        held_out: &[TokenExample],
        _: &Path,
    ) -> Result<Self::Method> {
        Sft::new(device, base, config, train, held_out)
    }
}

/// Direct preference optimisation.
pub(super) struct DpoRecipe;

impl Recipe for DpoRecipe {
    type Method = Dpo<Cpu>;
    const METHOD: TrainingMethod = TrainingMethod::Dpo;

    fn encode(base: &BaseModel, records: Vec<TrainingRecord>, config: &EncodeConfig) -> Result<Encoding<PairExample>> {
        let records: Vec<_> = records.into_iter().filter_map(pair_record).collect();
        let encoded = encode_dpo(&base.tokenizer, &records, config)?;
        Ok(Encoding {
            examples: encoded.examples,
            record_index: encoded.record_index,
            skipped: encoded.skipped,
            n_truncated: encoded.n_truncated,
        })
    }

    fn n_tokens(pair: &PairExample) -> usize {
        pair.chosen.input_ids.len() + pair.rejected.input_ids.len()
    }

    fn load(
        base: &BaseModel,
        config: &TrainConfig,
        device: Cpu,
        train: &[PairExample],
        held_out: &[PairExample],
        scratch: &Path,
    ) -> Result<Self::Method> {
        Dpo::new(device, base, config, train, held_out, Some(scratch))
    }

    /// By definition: the reference is the base, so that rewards are 0 and the loss is ln 2, without the noise of a
    /// second pass.
    fn base_scores(_: &mut Self::Method, held_out: &[PairExample]) -> Evaluation {
        let metrics =
            MethodMetrics::Dpo { reward_accuracy: 0.0, reward_margin: 0.0, chosen_reward: 0.0, rejected_reward: 0.0 };
        let n_labels = held_out.iter().map(|pair| pair.chosen.n_labels() + pair.rejected.n_labels()).sum();
        Evaluation { loss: std::f64::consts::LN_2, n_examples: held_out.len(), n_labels, metrics }
    }
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
        TrainingRecord::Chat(messages) => Record::Chat(turns(messages)),
        TrainingRecord::Preference(_) | TrainingRecord::ChatPreference(_) | TrainingRecord::Triplet(_) => return None,
    })
}

/// The trainer's form of a record that DPO trains; validation has refused the others.
fn pair_record(record: TrainingRecord) -> Option<PairRecord> {
    let (prompt, chosen, rejected) = match record {
        TrainingRecord::Preference(record) => (Prompt::Text(record.prompt), record.chosen, record.rejected),
        TrainingRecord::ChatPreference(record) => (Prompt::Chat(turns(record.prompt)), record.chosen, record.rejected),
        TrainingRecord::Text(_)
        | TrainingRecord::PromptCompletion(_)
        | TrainingRecord::Chat(_)
        | TrainingRecord::Triplet(_) => return None,
    };
    Some(PairRecord { prompt, chosen, rejected })
}

fn turns(messages: Vec<formatting::ChatMessage>) -> Vec<ChatMessage> {
    let turn = |message: formatting::ChatMessage| ChatMessage {
        role: role(message.role).to_owned(),
        content: message.content,
    };
    messages.into_iter().map(turn).collect()
}

/// The word for a role in chat templates.
pub fn role(role: ChatRole) -> &'static str {
    match role {
        ChatRole::System => "system",
        ChatRole::User => "user",
        ChatRole::Assistant => "assistant",
    }
}
