//! Direct preference optimisation (Rafailov et al. 2023, eq. 7), with the base as the reference.
//!
//! Chosen and rejected share their prompt, and prompts of one agent share their instruction: a step is one forest over
//! all its pairs. The reference is the model with its adapter off; its log-probabilities are computed once.

use super::{
    Evaluation, Method, MethodMetrics, StepCounts, budget_of, check_sequences, digest_sequence, ends, groups,
    load_decoder, parts,
};
use crate::atomic_file;
use crate::batch::{Budget, Forest, TokenExample};
use crate::config::TrainConfig;
use crate::decoder::{Decoder, Loss};
use crate::device::{Device, SUMS, Trainable};
use crate::formats::BaseModel;
use crate::optimizer::{Optimizer, Parts, StepScalars};
use crate::ranks::Share;
use crate::{Result, TrainerError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// Two responses to one prompt, of which people preferred the first. The labels of both start at the same token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairExample {
    /// Prompt and preferred response.
    pub chosen: TokenExample,
    /// Prompt and the other response.
    pub rejected: TokenExample,
}

impl PairExample {
    fn sequences(&self) -> Vec<&TokenExample> {
        vec![&self.chosen, &self.rejected]
    }
}

/// Sums of the reference's log-probabilities over a pair's labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Reference {
    chosen: f64,
    rejected: f64,
}

/// Reference log-probabilities on disk, so that a resumed run does not compute them again.
#[derive(Serialize, Deserialize)]
struct ReferenceCache {
    /// Digest of the base, the precision and every pair: another key is another reference.
    key: String,
    pairs: Vec<Reference>, // training pairs, then held-out ones
}

/// DPO of a causal language model.
pub struct Dpo<D: Device> {
    decoder: Decoder<D>,
    budget: Budget,
    beta: f64,
    /// By the digest of the pair.
    reference: HashMap<[u8; 32], Reference>,
    first_loss: FirstLoss,
}

/// What is known of the first step's loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstLoss {
    /// No step has begun.
    Unknown,
    /// A fresh adapter is the base: its first loss is ln 2, or the reference is not of this model.
    Ln2,
    /// It was as it should be, or can be any.
    Checked,
}

/// By how much the first loss of a fresh adapter may differ from ln 2, as log-probabilities are sums in f32 over other
/// batches: 1e-6 in f32, 3e-3 in bf16 (SmolLM2-135M, four pairs).
const FIRST_LOSS_TOLERANCE: f64 = 0.02;

impl<D: Device> Dpo<D> {
    /// Loads `base`, with buffers for the batches of `train`, and scores every pair with the adapter off, or reads those
    /// scores from `cache`, a file that is written where it is not there or is of another base or other data.
    ///
    /// # Errors
    /// As [`Sft::new`](super::Sft::new); [`TrainerError::Io`] where the cache can't be written.
    pub fn new(
        device: D,
        base: &BaseModel,
        config: &TrainConfig,
        train: &[PairExample],
        held_out: &[PairExample],
        cache: Option<&Path>,
    ) -> Result<Self> {
        config.validate_for(train.len())?;
        let sequences = train.iter().chain(held_out).flat_map(PairExample::sequences);
        check_sequences(&base.config, sequences.map(|example| example.input_ids.as_slice()))?;
        let budget = Self::budget(config, train, held_out);
        let decoder = load_decoder(device, base, config, budget, true)?;
        let (beta, reference) = (config.dpo.beta, HashMap::new());
        let mut dpo = Self { decoder, budget, beta, reference, first_loss: FirstLoss::Unknown };

        let pairs: Vec<&PairExample> = train.iter().chain(held_out).collect();
        let scored = match cache {
            None => dpo.score_reference(&pairs)?,
            Some(path) => {
                let key = cache_key::<D>(base, config, &pairs)?;
                match read_cache(path).filter(|cache| cache.key == key && cache.pairs.len() == pairs.len()) {
                    Some(cache) => cache.pairs,
                    None => {
                        let cache = ReferenceCache { key, pairs: dpo.score_reference(&pairs)? };
                        atomic_file::write(path, &serde_json::to_vec(&cache).unwrap_or_default())?;
                        cache.pairs
                    }
                }
            }
        };
        dpo.reference = pairs.iter().map(|pair| pair_digest(pair)).zip(scored).collect();
        Ok(dpo)
    }

    /// What the buffers of a run must hold.
    pub fn budget(config: &TrainConfig, train: &[PairExample], held_out: &[PairExample]) -> Budget {
        budget_of(config, train, held_out, PairExample::sequences)
    }

    /// The model.
    pub fn decoder(&self) -> &Decoder<D> {
        &self.decoder
    }

    /// The model, to overwrite its adapter.
    pub fn decoder_mut(&mut self) -> &mut Decoder<D> {
        &mut self.decoder
    }

    /// Scores every pair with the adapter off.
    fn score_reference(&mut self, pairs: &[&PairExample]) -> Result<Vec<Reference>> {
        let mut by_digest = HashMap::new();
        let budget = self.scoring_budget();
        self.decoder.without_adapter(|decoder| {
            for group in groups(budget, pairs.to_vec(), PairExample::sequences) {
                let forest = forest(&group);
                let logprob = decoder.score(&forest).logprob;
                by_digest.extend(group.iter().map(|pair| pair_digest(pair)).zip(sums(&forest, &logprob)));
            }
        });
        self.decoder.device().check()?;
        Ok(pairs.iter().map(|pair| by_digest[&pair_digest(pair)]).collect())
    }

    /// What a batch that is only scored may hold: more pairs than the loss has room for.
    fn scoring_budget(&self) -> Budget {
        Budget { n_sequences: usize::MAX, n_labels: usize::MAX, ..self.budget }
    }

    /// True where no update of the base was ever made.
    fn is_fresh(&self) -> bool {
        let device = self.decoder.device();
        let mut factors = self.trained().iter().filter(|tensor| tensor.name.ends_with("lora_B.weight")).peekable();
        factors.peek().is_some()
            && factors.all(|tensor| device.read_weight(&tensor.weight).iter().all(|&value| value == 0.0))
    }
}

impl<D: Device> Method for Dpo<D> {
    type Device = D;
    type Example = PairExample;
    const NAME: &'static str = "dpo";

    fn device(&self) -> &D {
        self.decoder.device()
    }

    fn trained(&self) -> &[Trainable<D>] {
        self.decoder.trained()
    }

    fn trained_mut(&mut self) -> (&D, &mut [Trainable<D>]) {
        self.decoder.trained_mut()
    }

    fn optimizer(&self) -> &Optimizer<D> {
        self.decoder.optimizer()
    }

    fn optimizer_mut(&mut self) -> (&D, &mut Optimizer<D>) {
        self.decoder.optimizer_mut()
    }

    fn parts_mut(&mut self) -> Parts<'_, D> {
        self.decoder.parts_mut()
    }

    fn run_step(
        &mut self,
        micro_batches: &[Vec<&PairExample>],
        share: Share,
        step: usize,
        update: Option<StepScalars>,
    ) -> StepCounts {
        if self.first_loss == FirstLoss::Unknown {
            self.first_loss = if self.is_fresh() { FirstLoss::Ln2 } else { FirstLoss::Checked };
        }
        self.decoder.begin_step(step, share);
        let (n_step, beta): (usize, _) = (micro_batches.iter().map(Vec::len).sum(), self.beta);
        let parts = parts(self.budget, share, micro_batches, PairExample::sequences);
        if parts.is_empty() {
            self.decoder.zero_gradients();
        }
        let mut counts = StepCounts::default();
        for (index, group) in parts.iter().enumerate() {
            let forest = forest(group);
            let of_pair = |pair: &&PairExample| self.reference[&pair_digest(pair)];
            let references = group.iter().map(of_pair).flat_map(|Reference { chosen, rejected }| [chosen, rejected]);
            let loss = Loss::Preferences { reference: &references.collect::<Vec<_>>(), n_step, beta };
            self.decoder.train(&forest, loss, ends(index, parts.len(), update));
            counts.add(forest.n_tokens(), forest.n_tokens_flat, forest.total_weight() as usize);
        }
        counts
    }

    fn figures(&[loss, reward_accuracy, chosen_reward, rejected_reward, ..]: &[f64; SUMS]) -> (f64, MethodMetrics) {
        let reward_margin = chosen_reward - rejected_reward;
        (loss, MethodMetrics::Dpo { reward_accuracy, reward_margin, chosen_reward, rejected_reward })
    }

    fn check_loss(&mut self, loss: f64) -> Result<()> {
        let first = std::mem::replace(&mut self.first_loss, FirstLoss::Checked);
        match first == FirstLoss::Ln2 && (loss - std::f64::consts::LN_2).abs() > FIRST_LOSS_TOLERANCE {
            true => Err(TrainerError::StaleReference { loss }),
            false => Ok(()),
        }
    }

    fn evaluate(&mut self, examples: &[PairExample]) -> Result<Evaluation> {
        let mut total = Preferences::default();
        let mut n_labels = 0;
        for group in groups(self.scoring_budget(), examples.iter().collect(), PairExample::sequences) {
            let forest = forest(&group);
            let logprob = self.decoder.score(&forest).logprob;
            for (pair, policy) in group.iter().zip(sums(&forest, &logprob)) {
                total.add(policy, self.reference[&pair_digest(pair)], self.beta);
            }
            n_labels += forest.total_weight() as usize;
        }
        self.decoder.device().check()?;
        let (loss, metrics) = total.mean();
        Ok(Evaluation { loss, n_examples: examples.len(), n_labels, metrics })
    }

    fn digest(example: &PairExample, hash: &mut Sha256) {
        digest_sequence(&example.chosen, hash);
        digest_sequence(&example.rejected, hash);
    }

    fn find_not_finite(&self) -> Option<String> {
        self.decoder.find_not_finite()
    }
}

/// Running sums over held-out pairs.
#[derive(Default)]
struct Preferences {
    n: usize,
    loss: f64,
    right: usize,
    chosen_reward: f64,
    rejected_reward: f64,
}

impl Preferences {
    fn add(&mut self, policy: Reference, reference: Reference, beta: f64) {
        let chosen = beta * (policy.chosen - reference.chosen);
        let rejected = beta * (policy.rejected - reference.rejected);
        let margin = chosen - rejected;
        self.n += 1;
        // -log sigmoid(m) = log(1 + e^-m), which stays finite for any m.
        self.loss += (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
        self.right += usize::from(margin > 0.0);
        self.chosen_reward += chosen;
        self.rejected_reward += rejected;
    }

    fn mean(&self) -> (f64, MethodMetrics) {
        let n = self.n.max(1) as f64;
        let (chosen_reward, rejected_reward) = (self.chosen_reward / n, self.rejected_reward / n);
        let metrics = MethodMetrics::Dpo {
            reward_accuracy: self.right as f64 / n,
            reward_margin: chosen_reward - rejected_reward,
            chosen_reward,
            rejected_reward,
        };
        (self.loss / n, metrics)
    }
}

/// Sequences `2 i` and `2 i + 1` are the sides of pair `i`.
fn forest(pairs: &[&PairExample]) -> Forest {
    Forest::new(&pairs.iter().flat_map(|pair| pair.sequences()).collect::<Vec<_>>())
}

/// The log-probability of each pair's responses.
fn sums<'a>(forest: &'a Forest, logprob: &'a [f32]) -> impl Iterator<Item = Reference> + use<'a> {
    let of = |i: usize| forest.edges_of(i).iter().map(|&edge| f64::from(logprob[edge as usize])).sum();
    (0..forest.example_start.len() / 2).map(move |i| Reference { chosen: of(2 * i), rejected: of(2 * i + 1) })
}

fn pair_digest(pair: &PairExample) -> [u8; 32] {
    let mut hash = Sha256::new();
    digest_sequence(&pair.chosen, &mut hash);
    digest_sequence(&pair.rejected, &mut hash);
    hash.finalize().into()
}

fn cache_key<D: Device>(base: &BaseModel, config: &TrainConfig, pairs: &[&PairExample]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(base.sha256()?);
    hash.update(format!("{:?} {}", config.precision, D::KIND));
    pairs.iter().for_each(|pair| hash.update(pair_digest(pair)));
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `None` where there is none, or none that can be read: it is made again.
fn read_cache(path: &Path) -> Option<ReferenceCache> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
