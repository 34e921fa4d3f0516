//! Training methods: what an example is, what its loss is, how held-out examples are judged.
//!
//! The loop around them, [`Trainer`](crate::trainer::Trainer), knows none of this.

mod dpo;
mod sft;
mod triplet;

pub use dpo::{Dpo, PairExample};
pub use sft::Sft;
pub use triplet::{TripletExample, Triplets};

use crate::batch::{Budget, Forest, TokenExample};
use crate::config::ModelConfig;
use crate::decoder::{Decoder, Ends};
use crate::device::{Device, SUMS, Trainable};
use crate::formats::BaseModel;
use crate::optimizer::{Optimizer, Parts, StepScalars};
use crate::ranks::{Share, cut};
use crate::{Result, TrainerError};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::cmp::Ordering;

/// A training method over a model on a device.
pub trait Method {
    /// Where it runs.
    type Device: Device;
    /// What it trains on.
    type Example;
    /// Its name in files and flags: `sft`.
    const NAME: &'static str;

    /// The device.
    fn device(&self) -> &Self::Device;

    /// The tensors being trained.
    fn trained(&self) -> &[Trainable<Self::Device>];

    /// The device and the tensors being trained.
    fn trained_mut(&mut self) -> (&Self::Device, &mut [Trainable<Self::Device>]);

    /// What ends a step.
    fn optimizer(&self) -> &Optimizer<Self::Device>;

    /// The device, and what ends a step.
    fn optimizer_mut(&mut self) -> (&Self::Device, &mut Optimizer<Self::Device>);

    /// The device, the tensors being trained, and what ends a step.
    fn parts_mut(&mut self) -> Parts<'_, Self::Device>;

    /// Sets every gradient to that of the step's mean loss, and adds that loss to the step's sums; then updates every
    /// tensor, where an update is given. Does not wait for the device: what it computes is read later.
    ///
    /// `micro_batches` are the examples of one optimiser step, of which `share` is computed: over all ranks, gradients and
    /// losses add up to those of the step. A part that exceeds the buffers is cut further, which changes no result: the
    /// mean is over the whole step. `step` counts from 1.
    fn run_step(
        &mut self,
        micro_batches: &[Vec<&Self::Example>],
        share: Share,
        step: usize,
        update: Option<StepScalars>,
    ) -> StepCounts;

    /// The loss and the method's own figures, from the sums of a step.
    fn figures(sums: &[f64; SUMS]) -> (f64, MethodMetrics);

    /// Looks at the loss of a step, as it is read.
    ///
    /// # Errors
    /// [`TrainerError::StaleReference`] of DPO.
    fn check_loss(&mut self, _loss: f64) -> Result<()> {
        Ok(())
    }

    /// Scores held-out examples.
    ///
    /// # Errors
    /// Those of [`Device::check`].
    fn evaluate(&mut self, examples: &[Self::Example]) -> Result<Evaluation>;

    /// Sets every gradient to that of the step's mean loss, and returns that loss.
    ///
    /// # Errors
    /// Those of [`Method::check_loss`] and of [`Device::check`].
    fn accumulate(&mut self, micro_batches: &[Vec<&Self::Example>], step: usize) -> Result<StepLoss> {
        let counts = self.run_step(micro_batches, Share::WHOLE, step, None);
        let (device, optimizer) = self.optimizer_mut();
        let sums = optimizer.take_sums(device);
        device.check()?;
        let (loss, metrics) = Self::figures(&sums);
        self.check_loss(loss)?;
        Ok(StepLoss { loss, metrics, counts })
    }

    /// Mixes an example into the digest of a data set.
    fn digest(example: &Self::Example, hash: &mut Sha256);

    /// The first buffer of the last forward pass that holds a NaN or an infinity: `layers.3.gate`.
    fn find_not_finite(&self) -> Option<String>;
}

/// The loss of one optimiser step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepLoss {
    /// Mean over the step: per labelled token for SFT, per example for DPO and triplets. In nats where it is a
    /// log-likelihood.
    pub loss: f64,
    /// The method's own figures.
    pub metrics: MethodMetrics,
    /// How much was computed.
    pub counts: StepCounts,
}

/// How much a step computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// Tokens computed.
    pub n_tokens: usize,
    /// Tokens that separate sequences would have.
    pub n_tokens_flat: usize,
    /// Tokens that carry loss.
    pub n_labels: usize,
}

impl StepCounts {
    fn add(&mut self, n_tokens: usize, n_tokens_flat: usize, n_labels: usize) {
        self.n_tokens += n_tokens;
        self.n_tokens_flat += n_tokens_flat;
        self.n_labels += n_labels;
    }
}

/// The ends of part `index` of `n` parts of a step.
fn ends(index: usize, n: usize, update: Option<StepScalars>) -> Ends {
    Ends { first: index == 0, update: update.filter(|_| index + 1 == n) }
}

/// Figures that only one method has, means over the examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MethodMetrics {
    /// Preferences (Rafailov et al. 2023); rewards are `beta * (log pi - log ref)`.
    Dpo {
        /// Share of pairs whose chosen side has the larger reward.
        reward_accuracy: f64,
        /// Chosen reward minus rejected reward.
        reward_margin: f64,
        /// Reward of the chosen side.
        chosen_reward: f64,
        /// Reward of the rejected side.
        rejected_reward: f64,
    },
    /// Triplets.
    Triplet {
        /// Share of triplets whose positive is nearer than the negative.
        triplet_accuracy: f64,
        /// Distance of anchor and positive.
        positive_distance: f64,
        /// Distance of anchor and negative.
        negative_distance: f64,
    },
    /// Supervised fine-tuning.
    Sft {
        /// Share of examples whose greedy answer is the expected one, to the last token: each response token is the
        /// likeliest after those before it, which holds for all of them exactly where greedy decoding gives the
        /// response. `None` in training steps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exact_match: Option<f64>,
    },
}

/// Scores on a set of examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The method's loss, as [`StepLoss::loss`].
    pub loss: f64,
    /// Examples scored.
    pub n_examples: usize,
    /// Tokens that carry loss.
    pub n_labels: usize,
    /// The method's own figures.
    #[serde(flatten)]
    pub metrics: MethodMetrics,
}

impl Evaluation {
    /// The share of right answers: exact match, reward accuracy or triplet accuracy.
    pub fn accuracy(&self) -> f64 {
        match self.metrics {
            MethodMetrics::Sft { exact_match } => exact_match.unwrap_or(0.0),
            MethodMetrics::Dpo { reward_accuracy, .. } => reward_accuracy,
            MethodMetrics::Triplet { triplet_accuracy, .. } => triplet_accuracy,
        }
    }
}

/// Refuses sequences that the model can't read.
fn check_sequences<'a>(config: &ModelConfig, sequences: impl Iterator<Item = &'a [u32]>) -> Result<()> {
    let (longest, vocab) = (config.max_length(), config.vocab_size() as u32);
    for ids in sequences {
        if ids.len() > longest {
            return Err(TrainerError::Config(format!(
                "an example of {} tokens is longer than the model's {longest} positions; lower `max_length`",
                ids.len()
            )));
        }
        if let Some(id) = ids.iter().find(|&&id| id >= vocab) {
            return Err(TrainerError::Config(format!(
                "token id {id} is outside the model's vocabulary of {vocab}; the tokenizer is not this model's"
            )));
        }
    }
    Ok(())
}

/// What a rank computes of a step over token sequences: its share of each micro-batch, in parts that fit `budget`.
fn parts<'a, E>(
    budget: Budget,
    share: Share,
    micro_batches: &[Vec<&'a E>],
    sequences: impl Fn(&'a E) -> Vec<&'a TokenExample>,
) -> Vec<Vec<&'a E>> {
    let cost = |examples: &[&'a E]| forest_of(examples, &sequences).n_tokens();
    let own = share.of(micro_batches, |a, b| by_tokens(a, b, &sequences), cost);
    own.into_iter().flat_map(|batch| groups(budget, batch, &sequences)).collect()
}

/// Cuts `examples` into as few neighbours-in-order-of-tokens groups as fit `budget`: most prefixes fall together.
/// `sequences` are the token sequences of one example, which stay in one group.
fn groups<'a, E>(
    budget: Budget,
    mut examples: Vec<&'a E>,
    sequences: impl Fn(&'a E) -> Vec<&'a TokenExample>,
) -> Vec<Vec<&'a E>> {
    let fits = |group: &[&'a E]| budget.holds(forest_of(group, &sequences).budget());
    if examples.is_empty() || fits(&examples) {
        return if examples.is_empty() { Vec::new() } else { vec![examples] };
    }
    examples.sort_by(|a, b| by_tokens(a, b, &sequences));
    let mut groups = Vec::new();
    let mut rest = examples.as_slice();
    while !rest.is_empty() {
        let (group, tail) = rest.split_at(longest_start(rest, fits));
        groups.push(group.to_vec());
        rest = tail;
    }
    groups
}

/// How many examples from the front `fits` holds for, at least one; what does not fit does not with more either.
fn longest_start<E>(list: &[E], fits: impl Fn(&[E]) -> bool) -> usize {
    // By doubling and halving.
    let mut holds = 1;
    while holds < list.len() && fits(&list[..(2 * holds).min(list.len())]) {
        holds = (2 * holds).min(list.len());
    }
    let mut too_many = (2 * holds).min(list.len());
    while holds + 1 < too_many {
        let middle = holds + (too_many - holds) / 2;
        *(if fits(&list[..middle]) { &mut holds } else { &mut too_many }) = middle;
    }
    holds
}

fn forest_of<'a, E>(examples: &[&'a E], sequences: impl Fn(&'a E) -> Vec<&'a TokenExample>) -> Forest {
    Forest::new(&examples.iter().flat_map(|&example| sequences(example)).collect::<Vec<_>>())
}

fn by_tokens<'a, E>(a: &&'a E, b: &&'a E, sequences: impl Fn(&'a E) -> Vec<&'a TokenExample>) -> Ordering {
    let ids = |example| sequences(example).into_iter().map(|sequence| &sequence.input_ids);
    ids(*a).cmp(ids(*b))
}

/// The largest of the batches that a run of this configuration makes, or of the ranks' shares of them, looking at no
/// more than `EPOCHS_SEEN` shuffles: a later batch that exceeds them is cut, which changes no result.
fn budget_of<'a, E>(
    config: &crate::config::TrainConfig,
    train: &'a [E],
    held_out: &'a [E],
    sequences: impl Fn(&'a E) -> Vec<&'a TokenExample>,
) -> Budget {
    const EPOCHS_SEEN: usize = 4;
    let of_steps =
        (0..config.epochs.min(EPOCHS_SEEN)).flat_map(|epoch| crate::trainer::micro_batches(config, train, epoch));
    let cost = |examples: &[&'a E]| forest_of(examples, &sequences).n_tokens();
    let shares = of_steps.flat_map(|batch| cut(batch, config.world_size, |a, b| by_tokens(a, b, &sequences), cost));
    let alone = train.iter().chain(held_out).map(|example| vec![example]);
    let budget =
        shares.chain(alone).map(|batch| forest_of(&batch, &sequences).budget()).fold(Budget::default(), Budget::max);
    // A scored batch of the held-out set may fill the token budget with rows and edges that no training batch had.
    Budget { n_rows: budget.n_tokens, n_edges: budget.n_edges.max(budget.n_tokens), ..budget }
}

/// Opens the model for training as the configuration says.
fn load_decoder<D: Device>(
    device: D,
    base: &BaseModel,
    config: &crate::config::TrainConfig,
    budget: Budget,
    pairs: bool,
) -> Result<Decoder<D>> {
    config.validate()?;
    Decoder::load(device, base, crate::loader::Training::of(config), budget, config.recompute, pairs)
}

fn digest_sequence(example: &TokenExample, hash: &mut Sha256) {
    use sha2::Digest;
    hash.update((example.input_ids.len() as u64).to_le_bytes());
    for (id, label) in example.input_ids.iter().zip(&example.labels) {
        hash.update(id.to_le_bytes());
        hash.update([u8::from(*label)]);
    }
}
