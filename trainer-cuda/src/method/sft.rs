//! Supervised fine-tuning: the mean negative log-likelihood of the labelled tokens.

use super::{
    Evaluation, Method, MethodMetrics, StepCounts, budget_of, check_sequences, digest_sequence, ends, groups,
    load_decoder, parts,
};
use crate::Result;
use crate::batch::{Budget, Forest, TokenExample};
use crate::config::TrainConfig;
use crate::decoder::{Decoder, Loss};
use crate::device::{Device, SUMS, Trainable};
use crate::formats::BaseModel;
use crate::optimizer::{Optimizer, Parts, StepScalars};
use crate::ranks::Share;
use sha2::Sha256;

/// Supervised fine-tuning of a causal language model.
pub struct Sft<D: Device> {
    decoder: Decoder<D>,
    budget: Budget,
}

impl<D: Device> Sft<D> {
    /// Loads `base`, with buffers for the batches of `train` and for scoring `held_out`.
    ///
    /// # Errors
    /// [`TrainerError::EmptyDataset`]; [`TrainerError::Config`] where the configuration makes no sense or an example is
    /// longer than the model's positions; those of [`Decoder::load`].
    pub fn new(
        device: D,
        base: &BaseModel,
        config: &TrainConfig,
        train: &[TokenExample],
        held_out: &[TokenExample],
    ) -> Result<Self> {
        config.validate_for(train.len())?;

        check_sequences(&base.config, train.iter().chain(held_out).map(|example| example.input_ids.as_slice()))?;
        Self::with_budget(device, base, config, Self::budget(config, train, held_out))
    }

    /// What the buffers of a run must hold.
    pub fn budget(config: &TrainConfig, train: &[TokenExample], held_out: &[TokenExample]) -> Budget {
        let budget = budget_of(config, train, held_out, |example| vec![example]);
        // No buffer holds what is per example.
        Budget { n_sequences: usize::MAX, n_labels: usize::MAX, ..budget }
    }

    /// Loads `base`, with buffers for batches up to `budget`.
    ///
    /// # Errors
    /// Those of [`TrainConfig::validate`] and [`Decoder::load`].
    pub fn with_budget(device: D, base: &BaseModel, config: &TrainConfig, budget: Budget) -> Result<Self> {
        Ok(Self { decoder: load_decoder(device, base, config, budget, false)?, budget })
    }

    /// The model.
    pub fn decoder(&self) -> &Decoder<D> {
        &self.decoder
    }

    /// The model, to overwrite its adapter.
    pub fn decoder_mut(&mut self) -> &mut Decoder<D> {
        &mut self.decoder
    }

    /// Sets every gradient to that of the mean loss over `forests`, as [`Method::run_step`] does for examples.
    pub fn run_forests(&mut self, forests: &[Forest], update: Option<StepScalars>) {
        self.run_part(forests, forests.iter().map(Forest::total_weight).sum(), update);
    }

    /// The same for forests of a step whose labels are `total_weight` in all.
    fn run_part(&mut self, forests: &[Forest], total_weight: f64, update: Option<StepScalars>) {
        if forests.is_empty() {
            self.decoder.zero_gradients();
        }
        for (index, forest) in forests.iter().enumerate() {
            let share = |&weight: &f32| (-f64::from(weight) / total_weight) as f32;
            let d_logprob: Vec<f32> = forest.edge_weight.iter().map(share).collect();
            self.decoder.train(forest, Loss::Weighted { d_logprob: &d_logprob }, ends(index, forests.len(), update));
        }
    }
}

impl<D: Device> Method for Sft<D> {
    type Device = D;
    type Example = TokenExample;
    const NAME: &'static str = "sft";

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
        micro_batches: &[Vec<&TokenExample>],
        share: Share,
        step: usize,
        update: Option<StepScalars>,
    ) -> StepCounts {
        self.decoder.begin_step(step, share);
        let total_weight: usize = micro_batches.iter().flatten().map(|example| example.n_labels()).sum();
        let parts = parts(self.budget, share, micro_batches, |example| vec![example]);
        let forests: Vec<Forest> = parts.iter().map(|examples| Forest::new(examples)).collect();
        self.run_part(&forests, total_weight as f64, update);
        let mut counts = StepCounts::default();
        for forest in &forests {
            counts.add(forest.n_tokens(), forest.n_tokens_flat, forest.total_weight() as usize);
        }
        counts
    }

    fn figures(sums: &[f64; SUMS]) -> (f64, MethodMetrics) {
        (sums[0], MethodMetrics::Sft { exact_match: None })
    }

    /// Loss over the labels, exact match over the responses.
    fn evaluate(&mut self, examples: &[TokenExample]) -> Result<Evaluation> {
        let (mut nll, mut n_labels, mut matched) = (0.0, 0, 0);
        for batch in groups(self.budget, examples.iter().collect(), |example| vec![example]) {
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
        self.decoder.device().check()?;
        let exact_match = Some(matched as f64 / examples.len().max(1) as f64);
        Ok(Evaluation {
            loss: nll / n_labels.max(1) as f64,
            n_examples: examples.len(),
            n_labels,
            metrics: MethodMetrics::Sft { exact_match },
        })
    }

    fn digest(example: &TokenExample, hash: &mut Sha256) {
        digest_sequence(example, hash);
    }

    fn find_not_finite(&self) -> Option<String> {
        self.decoder.find_not_finite()
    }
}

/// Sum over examples and their labels, in nats: an edge counts once for each example through it.
fn negative_log_likelihood(forest: &Forest, logprob: &[f32]) -> f64 {
    forest.edge_weight.iter().zip(logprob).map(|(&weight, &logprob)| -f64::from(weight) * f64::from(logprob)).sum()
}
