//! Answers of a model: a pass over the prompt, then a token at a time over the key-value cache.

mod block_decode;
pub mod buffers;
pub mod sampling;

use crate::config::{DecoderConfig, Precision};
use crate::decoder::Parameters;
use crate::decoder::modules::MODULE_NAMES;
use crate::device::{AttentionShape, Device, Trainable};
use crate::formats::text_stream::TextStream;
use crate::formats::{Adapter, BaseModel, TextTokenizer};
use crate::generator::buffers::{GeneratorBuffers, LastRow, TOKENS_PER_PASS};
use crate::generator::sampling::{Sampler, Sampling};
use crate::linear::{Pass, Updates};
use crate::loader::{Loader, Source, Training};
use crate::{Result, TrainerError, rope};
use serde::Serialize;
use std::ops::ControlFlow;

/// What an answer may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerConfig {
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// How its tokens are chosen.
    pub sampling: Sampling,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The model said so.
    EndOfSequence,
    /// [`AnswerConfig::max_new_tokens`].
    MaxNewTokens,
    /// The sequence has the length that the generator was loaded for.
    MaxLength,
    /// The caller wanted no more.
    Stopped,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Its tokens, without the one that ended it.
    pub token_ids: Vec<u32>,
    /// Its text, without special tokens.
    pub text: String,
    /// Why it ended.
    pub end: End,
}

/// A model that answers, with or without an adapter.
pub struct Generator<D: Device> {
    device: D,
    config: DecoderConfig,
    parameters: Parameters<D>,
    /// The adapter's factors; nothing here is trained.
    adapter: Vec<Trainable<D>>,
    buffers: GeneratorBuffers<D>,
    end_token_ids: Vec<u32>,
    max_length: usize,
    /// Tokens in the cache.
    n_past: usize,
}

/// Refuses a prompt that has no answer in a sequence of `max_length` tokens.
///
/// # Errors
/// [`TrainerError::Prompt`].
pub fn check_prompt(config: &DecoderConfig, prompt: &[u32], max_length: usize) -> Result<()> {
    let (length, vocab) = (prompt.len(), config.vocab_size);
    let refuse = |what: String| Err(TrainerError::Prompt(what));
    if prompt.is_empty() {
        return refuse("the prompt is empty: there is no token to go on from".into());
    }
    if length >= max_length {
        return refuse(format!(
            "the prompt has {length} tokens, which leaves no room for an answer in the model's {max_length} positions; \
             shorten it"
        ));
    }
    match prompt.iter().find(|&&id| id as usize >= vocab) {
        Some(id) => refuse(format!(
            "token id {id} is outside the model's vocabulary of {vocab}; the tokenizer is not this model's"
        )),
        None => Ok(()),
    }
}

impl<D: Device> Generator<D> {
    /// Loads `base`, with `adapter` beside it and its matrices held in `precision`, and allocates for sequences of up to `max_length` tokens, prompt and
    /// answer together; no more than the model's positions.
    ///
    /// # Errors
    /// Those of reading the model and of [`Adapter::check_fits`].
    pub fn load(
        device: D,
        base: &BaseModel,
        adapter: Option<&Adapter>,
        precision: Precision,
        max_length: usize,
    ) -> Result<Self> {
        let config = base.decoder()?.clone();
        let max_length = max_length.min(config.max_position_embeddings);
        let training = match adapter {
            Some(adapter) => {
                adapter.check_fits(base)?;
                Training::Lora { config: &adapter.lora, seed: 0, precision }
            }
            None => Training::Nothing { precision },
        };
        let source = Source::new(base, training, &MODULE_NAMES)?;
        let mut plan = buffers::plan(&config, max_length, source.plan_options());
        plan.parameters = source.planned_decoder(&config)?;
        device.reserve(&plan)?;
        let mut loader = Loader::new(&device, source);
        let parameters = Parameters::load(&mut loader, &config)?;
        let mut trained = loader.into_trained();
        if let Some(adapter) = adapter {
            adapter.write_to(&device, &mut trained);
        }
        let mut buffers = GeneratorBuffers::new(&device, &plan, config.num_hidden_layers);
        let (cos, sin) = rope::tables(&config.rope(), max_length);
        device.write_f32(&mut buffers.step.rope_cos, &cos);
        device.write_f32(&mut buffers.step.rope_sin, &sin);
        device.check()?;
        let end_token_ids = base.end_token_ids();
        Ok(Self { device, config, parameters, adapter: trained, buffers, end_token_ids, max_length, n_past: 0 })
    }

    /// Answers `prompt`, giving out the text as it grows, until `on_text` breaks.
    ///
    /// # Errors
    /// Those of [`check_prompt`] and [`Sampling::validate`]; [`TrainerError::Logits`]; the tokenizer's.
    pub fn answer(
        &mut self,
        tokenizer: &TextTokenizer,
        prompt: &[u32],
        config: AnswerConfig,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer> {
        check_prompt(&self.config, prompt, self.max_length)?;
        let mut sampler = Sampler::new(config.sampling)?;
        let mut stream = TextStream::new(tokenizer);
        let mut answer = Answer { token_ids: Vec::new(), text: String::new(), end: End::MaxNewTokens };
        let room = self.max_length - prompt.len();
        if room < config.max_new_tokens {
            answer.end = End::MaxLength;
        }
        self.forget();
        for step in 0..config.max_new_tokens.min(room) {
            let new = match step {
                0 => prompt,
                _ => &answer.token_ids[step - 1..],
            };
            let logits = self.append(new);
            self.device.check()?;
            let id = sampler.pick(&logits)?;
            if self.end_token_ids.contains(&id) {
                answer.end = End::EndOfSequence;
                break;
            }
            answer.token_ids.push(id);
            let text = stream.push(id)?;
            answer.text.push_str(&text);
            if !text.is_empty() && on_text(&text).is_break() {
                answer.end = End::Stopped;
                return Ok(answer);
            }
        }
        let rest = stream.finish()?;
        answer.text.push_str(&rest);
        if !rest.is_empty() && on_text(&rest).is_break() {
            answer.end = End::Stopped;
        }
        Ok(answer)
    }

    /// Empties the cache: the next token is the first of a sequence.
    pub fn forget(&mut self) {
        self.n_past = 0;
    }

    /// Appends tokens, at least one, to the sequence and gives the scores of what follows the last: `[vocab]`.
    ///
    /// The ids are in the vocabulary and the sequence within the length that the generator was loaded for: see
    /// [`check_prompt`].
    pub fn append(&mut self, token_ids: &[u32]) -> Vec<f32> {
        let length = self.n_past + token_ids.len();
        assert!(length <= self.max_length, "a sequence of {length} tokens exceeds {}", self.max_length);
        for token_ids in token_ids.chunks(TOKENS_PER_PASS) {
            self.pass(token_ids);
        }
        self.logits((token_ids.len() - 1) % TOKENS_PER_PASS)
    }

    /// Tokens through all blocks, into the cache.
    fn pass(&mut self, token_ids: &[u32]) {
        let Self { device, config, parameters, adapter, buffers, n_past, .. } = self;
        let GeneratorBuffers { cache, step, .. } = buffers;
        let n_tokens = token_ids.len();
        let shape = AttentionShape {
            n_tokens,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        };
        let position: Vec<u32> = (*n_past as u32..).take(n_tokens).collect();
        device.write_index(&mut step.token_ids, token_ids);
        device.write_index(&mut step.position, &position);
        let table = parameters.embedding.weight(adapter);
        device.embedding_forward(&mut step.x, &[(&step.token_ids, table)], n_tokens);
        let pass = Pass { device: &*device, updates: Updates::On, shape };
        for (block, cache) in parameters.blocks.iter().zip(cache) {
            block.decode(&pass, adapter, step, cache, *n_past);
        }
        *n_past += n_tokens;
    }

    /// Final norm and projection of one row of the last pass.
    fn logits(&mut self, row: usize) -> Vec<f32> {
        let Self { device, config, parameters, adapter, buffers, .. } = self;
        let GeneratorBuffers { step, last: LastRow { row: index, x, normed, rstd, logits }, .. } = buffers;
        device.write_index(index, &[row as u32]);
        device.gather_rows(x, &step.x, index, config.hidden_size, 1, row + 1);
        device.rms_norm_forward(normed, rstd, x, parameters.final_norm.weight(adapter), config.rms_norm_eps, 1);
        device.project(logits, normed, parameters.head().weight(adapter), 1);
        device.read_act(logits, config.vocab_size)
    }
}
