//! Triplets: an anchor is to be nearer to its positive than to its negative, by a margin.
//!
//! The loss is sentence-transformers' `TripletLoss` on the embeddings that the model's modules give, so of length 1 where
//! the model normalises.

use super::{Evaluation, Method, MethodMetrics, StepCounts, check_sequences, ends, longest_start};
use crate::Result;
use crate::config::{TrainConfig, TripletConfig};
use crate::device::{Device, SUMS, Trainable};
use crate::encoder::text_batch::{TextBatch, TextBudget};
use crate::encoder::{Encoder, TripletBatch};
use crate::formats::BaseModel;
use crate::loader::Training;
use crate::optimizer::{Optimizer, Parts, StepScalars};
use crate::ranks::{Share, cut};
use sha2::{Digest, Sha256};
use std::cmp::Ordering;

/// Three texts as token ids, special tokens included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TripletExample {
    /// What is searched with.
    pub anchor: Vec<u32>,
    /// What should be near it.
    pub positive: Vec<u32>,
    /// What should be far from it.
    pub negative: Vec<u32>,
}

impl TripletExample {
    fn texts(&self) -> [&[u32]; 3] {
        [&self.anchor, &self.positive, &self.negative]
    }
}

/// Triplet training of a text encoder.
pub struct Triplets<D: Device> {
    encoder: Encoder<D>,
    config: TripletConfig,
}

impl<D: Device> Triplets<D> {
    /// Loads `base`, with buffers for the batches of `train` and for scoring `held_out`.
    ///
    /// # Errors
    /// [`TrainerError::EmptyDataset`](crate::TrainerError::EmptyDataset);
    /// [`TrainerError::Config`](crate::TrainerError::Config) where the configuration makes no sense or a text is longer
    /// than the model takes; those of [`Encoder::load`].
    pub fn new(
        device: D,
        base: &BaseModel,
        config: &TrainConfig,
        train: &[TripletExample],
        held_out: &[TripletExample],
    ) -> Result<Self> {
        config.validate_for(train.len())?;
        base.encoder()?; // before its vocabulary is looked at
        check_sequences(&base.config, train.iter().chain(held_out).flat_map(TripletExample::texts))?;
        let encoder = Encoder::load(device, base, Training::of(config), Self::budget(config, train, held_out))?;
        Ok(Self { encoder, config: config.triplet })
    }

    /// What the buffers of a run must hold: the largest batch of its first epochs. A later one that exceeds it is cut,
    /// which changes no result.
    pub fn budget(config: &TrainConfig, train: &[TripletExample], held_out: &[TripletExample]) -> TextBudget {
        const EPOCHS_SEEN: usize = 4;
        let of_steps =
            (0..config.epochs.min(EPOCHS_SEEN)).flat_map(|epoch| crate::trainer::micro_batches(config, train, epoch));
        let alone = train.iter().chain(held_out).map(|example| vec![example]);
        let shares =
            of_steps.flat_map(|batch| cut(batch, config.world_size, by_texts, |piece| batch_of(piece).n_tokens()));
        shares.chain(alone).map(|examples| budget_of(&examples)).fold(TextBudget::default(), TextBudget::max)
    }

    /// The model.
    pub fn encoder(&self) -> &Encoder<D> {
        &self.encoder
    }

    /// The model, to overwrite its adapter or to embed texts.
    pub fn encoder_mut(&mut self) -> &mut Encoder<D> {
        &mut self.encoder
    }
}

impl<D: Device> Method for Triplets<D> {
    type Device = D;
    type Example = TripletExample;
    const NAME: &'static str = "triplet";

    fn device(&self) -> &D {
        self.encoder.device()
    }

    fn trained(&self) -> &[Trainable<D>] {
        self.encoder.trained()
    }

    fn trained_mut(&mut self) -> (&D, &mut [Trainable<D>]) {
        self.encoder.trained_mut()
    }

    fn optimizer(&self) -> &Optimizer<D> {
        self.encoder.optimizer()
    }

    fn optimizer_mut(&mut self) -> (&D, &mut Optimizer<D>) {
        self.encoder.optimizer_mut()
    }

    fn parts_mut(&mut self) -> Parts<'_, D> {
        self.encoder.parts_mut()
    }

    fn run_step(
        &mut self,
        micro_batches: &[Vec<&TripletExample>],
        share: Share,
        step: usize,
        update: Option<StepScalars>,
    ) -> StepCounts {
        self.encoder.begin_step(step, share);
        let (n_step, budget): (usize, _) = (micro_batches.iter().map(Vec::len).sum(), self.encoder.budget());
        let own = share.of(micro_batches, by_texts, |piece| batch_of(piece).n_tokens());
        let parts: Vec<_> = own.iter().flat_map(|batch| groups(budget, batch)).collect();
        if parts.is_empty() {
            self.encoder.zero_gradients();
        }
        let mut counts = StepCounts::default();
        for (index, group) in parts.iter().enumerate() {
            let batch = batch_of(group);
            let segments: Vec<u32> = batch.segment_of.iter().map(|&segment| segment as u32).collect();
            let triplets = TripletBatch { segments: &segments, n_step, config: self.config };
            self.encoder.train(&batch, triplets, ends(index, parts.len(), update));
            counts.add(batch.n_tokens(), batch.n_tokens_flat, batch.n_tokens_flat);
        }
        counts
    }

    fn figures(sums: &[f64; SUMS]) -> (f64, MethodMetrics) {
        let &[loss, triplet_accuracy, positive_distance, negative_distance, ..] = sums;
        (loss, MethodMetrics::Triplet { triplet_accuracy, positive_distance, negative_distance })
    }

    /// By the loss that trains, over each group's triplets.
    fn evaluate(&mut self, examples: &[TripletExample]) -> Result<Evaluation> {
        let examples: Vec<&TripletExample> = examples.iter().collect();
        let (mut total, mut n_labels) = ([0.0; SUMS], 0);
        for group in groups(self.encoder.budget(), &examples) {
            let batch = batch_of(group);
            let embeddings = self.encoder.forward(&batch);
            let hidden = embeddings.len() / batch.n_segments();
            for texts in batch.segment_of.chunks_exact(3) {
                let [a, p, n] = [texts[0], texts[1], texts[2]].map(|segment| &embeddings[segment * hidden..][..hidden]);
                let figures = self.config.figures(a, p, n);
                total.iter_mut().zip(figures).for_each(|(total, figure)| *total += figure / examples.len() as f64);
            }
            n_labels += batch.n_tokens_flat;
        }
        self.encoder.device().check()?;
        let (loss, metrics) = Self::figures(&total);
        Ok(Evaluation { loss, n_examples: examples.len(), n_labels, metrics })
    }

    fn digest(example: &TripletExample, hash: &mut Sha256) {
        for text in example.texts() {
            hash.update((text.len() as u64).to_le_bytes());
            text.iter().for_each(|id| hash.update(id.to_le_bytes()));
        }
    }

    fn find_not_finite(&self) -> Option<String> {
        self.encoder.find_not_finite()
    }
}

/// Texts `3 i`, `3 i + 1` and `3 i + 2` are those of triplet `i`.
fn batch_of(group: &[&TripletExample]) -> TextBatch {
    TextBatch::new(&group.iter().flat_map(|example| example.texts()).collect::<Vec<_>>())
}

fn by_texts(a: &&TripletExample, b: &&TripletExample) -> Ordering {
    a.texts().cmp(&b.texts())
}

fn budget_of(group: &[&TripletExample]) -> TextBudget {
    TextBudget { n_triplets: group.len(), ..batch_of(group).budget() }
}

/// Cuts `examples` in their order into parts that fit `budget`.
fn groups<'s, 'a>(budget: TextBudget, examples: &'s [&'a TripletExample]) -> Vec<&'s [&'a TripletExample]> {
    let mut groups = Vec::new();
    let mut rest = examples;
    while !rest.is_empty() {
        let fits = |group: &[&TripletExample]| budget.holds(budget_of(group));
        let (group, tail) = rest.split_at(longest_start(rest, fits));
        groups.push(group);
        rest = tail;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_the_order_and_fit_the_budget() {
        let triplet = |id| TripletExample { anchor: vec![id; 2], positive: vec![id + 1; 3], negative: vec![id + 2; 1] };
        let examples = [triplet(10), triplet(20), triplet(10), triplet(30)];
        let refs: Vec<&TripletExample> = examples.iter().collect();
        let budget = TextBudget { n_tokens: 12, n_segments: 6, max_length: 3, n_triplets: 4 };
        // The third is the first again and costs nothing; the fourth begins a group of its own.
        let groups = groups(budget, &refs);
        assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), [3, 1]);
    }
}
