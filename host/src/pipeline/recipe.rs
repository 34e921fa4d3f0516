//! What differs between the methods: their examples, how records become tokens, what trains on them.

use std::path::Path;

use trainer_cuda::Result;
use trainer_cuda::batch::TokenExample;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::encode::{
    EncodeConfig, PairRecord, Prompt, Record, Skipped, TripletRecord, encode_dpo, encode_sft, encode_triplets,
};
use trainer_cuda::estimate::BatchSize;
use trainer_cuda::formats::{BaseModel, ChatMessage};
use trainer_cuda::method::{Dpo, Evaluation, Method, MethodMetrics, PairExample, Sft, TripletExample, Triplets};

use crate::plugins::bindings::formatting::{self, ChatRole, TrainingRecord};
use crate::plugins::bindings::types::TrainingMethod;

/// How one method trains.
pub(super) trait Recipe {
    /// What it trains on.
    type Example;
    /// What trains.
    type Method<D: Device>: Method<Device = D, Example = Self::Example>;

    /// The policy's name for it.
    const METHOD: TrainingMethod;

    /// Records that are valid for this method to tokens.
    fn encode(base: &BaseModel, records: Vec<TrainingRecord>, config: &EncodeConfig)
    -> Result<Encoding<Self::Example>>;

    /// Tokens of an example.
    fn n_tokens(example: &Self::Example) -> usize;

    /// What the buffers of a run must hold.
    fn batch_size(config: &TrainConfig, train: &[Self::Example], held_out: &[Self::Example]) -> BatchSize;

    /// Loads the model; `scratch` is a file that a resumed run finds again.
    fn load<D: Device>(
        base: &BaseModel,
        config: &TrainConfig,
        device: D,
        train: &[Self::Example],
        held_out: &[Self::Example],
        scratch: &Path,
    ) -> Result<Self::Method<D>>;

    /// The base's scores, of a model that is still the base.
    fn base_scores<D: Device>(method: &mut Self::Method<D>, held_out: &[Self::Example]) -> Result<Evaluation> {
        method.evaluate(held_out)
    }
}

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
    type Example = TokenExample;
    type Method<D: Device> = Sft<D>;
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

    fn batch_size(config: &TrainConfig, train: &[TokenExample], held_out: &[TokenExample]) -> BatchSize {
        BatchSize::Forest(Sft::<Cpu>::budget(config, train, held_out))
    }

    fn load<D: Device>(
        base: &BaseModel,
        config: &TrainConfig,
        device: D,
        train: &[TokenExample],
        held_out: &[TokenExample],
        _: &Path,
    ) -> Result<Self::Method<D>> {
        Sft::new(device, base, config, train, held_out)
    }
}

/// Direct preference optimisation.
pub(super) struct DpoRecipe;

impl Recipe for DpoRecipe {
    type Example = PairExample;
    type Method<D: Device> = Dpo<D>;
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

    fn batch_size(config: &TrainConfig, train: &[PairExample], held_out: &[PairExample]) -> BatchSize {
        BatchSize::Pairs(Dpo::<Cpu>::budget(config, train, held_out))
    }

    fn load<D: Device>(
        base: &BaseModel,
        config: &TrainConfig,
        device: D,
        train: &[PairExample],
        held_out: &[PairExample],
        scratch: &Path,
    ) -> Result<Self::Method<D>> {
        Dpo::new(device, base, config, train, held_out, Some(scratch))
    }

    /// By definition: the reference is the base, so that rewards are 0 and the loss is ln 2, without the noise of a
    /// second pass.
    fn base_scores<D: Device>(_: &mut Self::Method<D>, held_out: &[PairExample]) -> Result<Evaluation> {
        let metrics =
            MethodMetrics::Dpo { reward_accuracy: 0.0, reward_margin: 0.0, chosen_reward: 0.0, rejected_reward: 0.0 };
        let n_labels = held_out.iter().map(|pair| pair.chosen.n_labels() + pair.rejected.n_labels()).sum();
        Ok(Evaluation { loss: std::f64::consts::LN_2, n_examples: held_out.len(), n_labels, metrics })
    }
}

/// Triplet training of an embedding model.
pub(super) struct TripletRecipe;

impl Recipe for TripletRecipe {
    type Example = TripletExample;
    type Method<D: Device> = Triplets<D>;
    const METHOD: TrainingMethod = TrainingMethod::Triplet;

    /// A text that is too long loses its end, whatever `over_length` says, as in sentence-transformers: documents are
    /// often longer than an encoder reads.
    fn encode(
        base: &BaseModel,
        records: Vec<TrainingRecord>,
        config: &EncodeConfig,
    ) -> Result<Encoding<TripletExample>> {
        let records: Vec<_> = records.into_iter().filter_map(triplet_record).collect();
        let max_length = config.max_length.min(base.config.max_length());
        let encoded = encode_triplets(&base.tokenizer, &records, max_length)?;
        Ok(Encoding {
            examples: encoded.examples,
            record_index: encoded.record_index,
            skipped: encoded.skipped,
            n_truncated: encoded.n_truncated,
        })
    }

    fn n_tokens(triplet: &TripletExample) -> usize {
        triplet.anchor.len() + triplet.positive.len() + triplet.negative.len()
    }

    fn batch_size(config: &TrainConfig, train: &[TripletExample], held_out: &[TripletExample]) -> BatchSize {
        BatchSize::Texts(Triplets::<Cpu>::budget(config, train, held_out))
    }

    fn load<D: Device>(
        base: &BaseModel,
        config: &TrainConfig,
        device: D,
        train: &[TripletExample],
        held_out: &[TripletExample],
        _: &Path,
    ) -> Result<Self::Method<D>> {
        Triplets::new(device, base, config, train, held_out)
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

/// The trainer's form of a triplet; validation has refused other records.
fn triplet_record(record: TrainingRecord) -> Option<TripletRecord> {
    let TrainingRecord::Triplet(formatting::TripletRecord { anchor, positive, negative }) = record else { return None };
    Some(TripletRecord { anchor, positive, negative })
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
