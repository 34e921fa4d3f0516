//! The training loop, and the held-out evaluation that judges it.

use crate::batch::{Budget, Forest, TokenExample};
use crate::config::TrainConfig;
use crate::decoder::Decoder;
use crate::device::{AdamW, Device};
use crate::formats::{BaseModel, peft};
use crate::loader::Training;
use crate::schedule::LearningRate;
use crate::{Result, TrainerError, adapter};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// AdamW's constants, `torch.optim.AdamW`'s defaults.
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// One optimiser step, a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// From 1.
    pub step: usize,
    /// Steps of the run.
    pub total_steps: usize,
    /// Passes over the data so far, in fractions.
    pub epoch: f64,
    /// Mean negative log-likelihood over the step's labelled tokens, in nats.
    pub loss: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f32,
    /// Rate of this step.
    pub learning_rate: f32,
    /// Tokens computed: unique ones of the forests.
    pub n_tokens: usize,
    /// Tokens that separate sequences would have.
    pub n_tokens_flat: usize,
    /// Tokens that carry loss.
    pub n_labels: usize,
    /// Wall time, in milliseconds.
    pub step_ms: f64,
}

/// What a run tells while it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An optimiser step is done.
    Step(StepMetrics),
    /// The held-out set was scored at the end of an epoch.
    Evaluation {
        /// Epochs done.
        epoch: usize,
        /// The scores.
        evaluation: Evaluation,
    },
}

/// Scores on a set of examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean negative log-likelihood over labelled tokens, in nats.
    pub loss: f64,
    /// Share of examples whose greedy answer is the expected one, to the last token: each response token is the
    /// likeliest after those before it, which holds for all of them exactly where greedy decoding gives the response.
    pub exact_match: f64,
    /// Examples scored.
    pub n_examples: usize,
    /// Labelled tokens.
    pub n_labels: usize,
}

/// Trains one model on one set.
pub struct Trainer<D: Device> {
    decoder: Decoder<D>,
    config: TrainConfig,
    budget: Budget,
}

impl<D: Device> Trainer<D> {
    /// Loads `base`, with buffers for the batches of `train` and for scoring `held_out`.
    ///
    /// # Errors
    /// [`TrainerError::EmptyDataset`]; [`TrainerError::Config`] where the configuration makes no sense or an example is
    /// longer than the model's positions; those of [`Decoder::load`].
    pub fn new(
        device: D,
        base: &BaseModel,
        config: TrainConfig,
        train: &[TokenExample],
        held_out: &[TokenExample],
    ) -> Result<Self> {
        if train.is_empty() {
            return Err(TrainerError::EmptyDataset);
        }
        config.validate()?;
        LearningRate::new(config.learning_rate, config.lr_scheduler, config.warmup_ratio, total_steps(&config, train))?;
        check_examples(base, train.iter().chain(held_out))?;
        let of_steps = (0..config.epochs).flat_map(|epoch| micro_batches(&config, train, epoch));
        let of_scoring = held_out.iter().map(|example| vec![example]);
        let budget = of_steps
            .chain(of_scoring)
            .map(|examples| Forest::new(&examples).budget())
            .fold(Budget::default(), Budget::max);
        // A scored batch of the held-out set may fill the token budget with rows and edges that no training batch had.
        let budget = Budget { n_rows: budget.n_tokens, n_edges: budget.n_edges.max(budget.n_tokens), ..budget };
        Self::with_budget(device, base, config, budget)
    }

    /// Loads `base`, with buffers for batches up to `budget`.
    ///
    /// # Errors
    /// Those of [`TrainConfig::validate`] and [`Decoder::load`].
    pub fn with_budget(device: D, base: &BaseModel, config: TrainConfig, budget: Budget) -> Result<Self> {
        config.validate()?;
        let training = match config.use_lora {
            true => Training::Lora { config: &config.lora, seed: config.seed, precision: config.precision },
            false => Training::Full,
        };
        let decoder = Decoder::load(device, base, training, budget)?;
        Ok(Self { decoder, config, budget })
    }

    /// The model.
    pub fn decoder(&self) -> &Decoder<D> {
        &self.decoder
    }

    /// The model, to overwrite its adapter.
    pub fn decoder_mut(&mut self) -> &mut Decoder<D> {
        &mut self.decoder
    }

    /// Trains over `train`, scoring `held_out` after each epoch. Stops early, between steps, where `on_event` breaks.
    ///
    /// # Errors
    /// [`TrainerError::NotFinite`] where the loss or the gradient is no number; the weights are those before that step.
    pub fn train(
        &mut self,
        train: &[TokenExample],
        held_out: &[TokenExample],
        on_event: &mut dyn FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<()> {
        let config = self.config.clone();
        let total_steps = total_steps(&config, train);
        let rate = LearningRate::new(config.learning_rate, config.lr_scheduler, config.warmup_ratio, total_steps)?;
        let steps_per_epoch = total_steps / config.epochs;
        let mut step = 0;
        for epoch in 0..config.epochs {
            let batches: Vec<_> = micro_batches(&config, train, epoch).collect();
            for micro_batches in batches.chunks(config.gradient_accumulation_steps) {
                let started = Instant::now();
                let learning_rate = rate.at(step);
                step += 1;
                let mut metrics = self.step(micro_batches, step, learning_rate)?;
                metrics.total_steps = total_steps;
                metrics.epoch = step as f64 / steps_per_epoch as f64;
                metrics.step_ms = started.elapsed().as_secs_f64() * 1e3;
                if on_event(&Event::Step(metrics)).is_break() {
                    return Ok(());
                }
            }
            if !held_out.is_empty() {
                let evaluation = self.evaluate(held_out);
                if on_event(&Event::Evaluation { epoch: epoch + 1, evaluation }).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// One optimiser step over its micro-batches, normalised by the labelled tokens of all of them.
    ///
    /// # Errors
    /// [`TrainerError::NotFinite`].
    pub fn step(
        &mut self,
        micro_batches: &[Vec<&TokenExample>],
        step: usize,
        learning_rate: f32,
    ) -> Result<StepMetrics> {
        let forests: Vec<Forest> = micro_batches.iter().map(|examples| Forest::new(examples)).collect();
        let loss = self.accumulate(&forests);
        if !loss.is_finite() {
            return Err(TrainerError::NotFinite { what: "the loss".into(), step });
        }
        let grad_norm = self.apply(step, learning_rate)?;
        Ok(StepMetrics {
            step,
            total_steps: step,
            epoch: 0.0,
            loss,
            grad_norm,
            learning_rate,
            n_tokens: forests.iter().map(Forest::n_tokens).sum(),
            n_tokens_flat: forests.iter().map(|forest| forest.n_tokens_flat).sum(),
            n_labels: forests.iter().map(|forest| forest.total_weight() as usize).sum(),
            step_ms: 0.0,
        })
    }

    /// Sets the gradients to those of the mean loss over `forests`, and returns that loss in nats.
    pub fn accumulate(&mut self, forests: &[Forest]) -> f64 {
        let (device, trained) = self.decoder.optimizer_parts();
        for tensor in trained {
            let len = device.weight_shape(&tensor.weight).iter().product();
            device.zero_f32(&mut tensor.grad, len);
        }
        let total_weight: f64 = forests.iter().map(Forest::total_weight).sum();
        let mut loss = 0.0;
        for forest in forests {
            let d_logprob: Vec<f32> =
                forest.edge_weight.iter().map(|&weight| (-f64::from(weight) / total_weight) as f32).collect();
            let scores = self.decoder.score_and_backward(forest, &d_logprob);
            loss += negative_log_likelihood(forest, &scores.logprob) / total_weight;
        }
        loss
    }

    /// Clips, updates every trained tensor and returns the gradient norm before clipping.
    fn apply(&mut self, step: usize, learning_rate: f32) -> Result<f32> {
        let TrainConfig { max_grad_norm, weight_decay, .. } = self.config;
        let (device, trained) = self.decoder.optimizer_parts();
        let grad_norm = device.grad_norm(trained);
        if !grad_norm.is_finite() {
            return Err(TrainerError::NotFinite { what: "the gradient norm".into(), step });
        }
        // torch's clip_grad_norm_: never scales up.
        let clip = if max_grad_norm > 0.0 { (max_grad_norm / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
        let update = AdamW {
            learning_rate,
            beta1: BETA1,
            beta2: BETA2,
            epsilon: EPSILON,
            weight_decay,
            grad_scale: clip,
            step: step as i32,
        };
        device.adamw_step(trained, update);
        Ok(grad_norm)
    }

    /// Scores `examples`: loss over their labels, exact match over their responses.
    pub fn evaluate(&mut self, examples: &[TokenExample]) -> Evaluation {
        let (mut nll, mut n_labels, mut matched) = (0.0, 0, 0);
        for batch in self.scoring_batches(examples) {
            let forest = Forest::new(&batch);
            let scores = self.decoder.score(&forest);
            let edge_rows = forest.edge_rows();
            let is_greedy =
                |&edge: &u32| scores.argmax[edge_rows[edge as usize] as usize] == forest.edge_target[edge as usize];
            nll += negative_log_likelihood(&forest, &scores.logprob);
            n_labels += forest.total_weight() as usize;
            // A response that was truncated away whole has no edge, and is no match.
            let is_match = |edges: &[u32]| !edges.is_empty() && edges.iter().all(is_greedy);
            matched += (0..batch.len()).filter(|&i| is_match(forest.response_edges_of(i))).count();
        }
        Evaluation {
            loss: nll / n_labels.max(1) as f64,
            exact_match: matched as f64 / examples.len().max(1) as f64,
            n_examples: examples.len(),
            n_labels,
        }
    }

    /// Groups neighbours in the order of their tokens, as many as the buffers hold: most prefixes fall together.
    fn scoring_batches<'a>(&self, examples: &'a [TokenExample]) -> Vec<Vec<&'a TokenExample>> {
        let mut sorted: Vec<&TokenExample> = examples.iter().collect();
        sorted.sort_by(|a, b| a.input_ids.cmp(&b.input_ids));
        let mut batches: Vec<Vec<&TokenExample>> = Vec::new();
        for example in sorted {
            if let Some(batch) = batches.last_mut() {
                batch.push(example);
                if self.budget.holds(Forest::new(batch).budget()) {
                    continue;
                }
                batch.pop();
            }
            batches.push(vec![example]);
        }
        batches
    }

    /// Writes the result into `folder`: the adapter as PEFT reads it, or the whole model where every weight was trained.
    ///
    /// # Errors
    /// [`TrainerError::Io`].
    pub fn save(&self, base: &BaseModel, folder: &Path) -> Result<()> {
        let tensors = adapter::read(self.decoder.device(), self.decoder.trained());
        match self.config.use_lora {
            true => peft::write_adapter(folder, base, &self.config.lora, &tensors)?,
            false => peft::write_model(folder, base, &tensors)?,
        }
        base.write_tokenizer_files(folder)
    }
}

/// Sum over examples and their labels, in nats: an edge counts once for each example through it.
fn negative_log_likelihood(forest: &Forest, logprob: &[f32]) -> f64 {
    forest.edge_weight.iter().zip(logprob).map(|(&weight, &logprob)| -f64::from(weight) * f64::from(logprob)).sum()
}

fn total_steps(config: &TrainConfig, train: &[TokenExample]) -> usize {
    let micro_batches = train.len().div_ceil(config.batch_size);
    micro_batches.div_ceil(config.gradient_accumulation_steps) * config.epochs
}

/// The micro-batches of an epoch: the seed's shuffle cut in order, so that what shares a step does not depend on
/// what shares a prefix.
fn micro_batches<'a>(
    config: &TrainConfig,
    train: &'a [TokenExample],
    epoch: usize,
) -> impl Iterator<Item = Vec<&'a TokenExample>> + use<'a> {
    let mut order: Vec<usize> = (0..train.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    rng.set_stream(u64::MAX - epoch as u64); // LoRA's initial values take the streams from 0 up
    for last in (1..order.len()).rev() {
        // Fisher-Yates; the bias of a 64-bit product is below 2^-40 for any set that fits memory.
        let pick = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, pick as usize);
    }
    let batch_size = config.batch_size;
    let n_batches = order.len().div_ceil(batch_size);
    (0..n_batches).map(move |batch| {
        let end = (batch + 1) * batch_size;
        order[batch * batch_size..end.min(order.len())].iter().map(|&index| &train[index]).collect()
    })
}

fn check_examples<'a>(base: &BaseModel, examples: impl Iterator<Item = &'a TokenExample>) -> Result<()> {
    let (longest, vocab) = (base.config.max_length(), base.config.vocab_size() as u32);
    for example in examples {
        if example.input_ids.len() > longest {
            return Err(TrainerError::Config(format!(
                "an example of {} tokens is longer than the model's {longest} positions; lower `max_length`",
                example.input_ids.len()
            )));
        }
        if let Some(id) = example.input_ids.iter().find(|&&id| id >= vocab) {
            return Err(TrainerError::Config(format!(
                "token id {id} is outside the model's vocabulary of {vocab}; the tokenizer is not this model's"
            )));
        }
    }
    Ok(())
}
