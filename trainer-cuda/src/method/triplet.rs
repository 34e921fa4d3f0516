//! Triplets: an anchor is to be nearer to its positive than to its negative, by a margin.
//!
//! The loss is sentence-transformers' `TripletLoss` on the embeddings that the model's modules give, so of length 1 where
//! the model normalises. It and its gradient by the embeddings are computed on the host in f64.

use super::{Evaluation, Method, MethodMetrics, StepLoss, check_sequences};
use crate::Result;
use crate::config::{TrainConfig, TripletConfig};
use crate::device::{Device, Trainable};
use crate::encoder::Encoder;
use crate::encoder::text_batch::{TextBatch, TextBudget};
use crate::formats::BaseModel;
use crate::loader::Training;
use sha2::{Digest, Sha256};

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
        of_steps.chain(alone).map(|examples| batch_of(&examples).budget()).fold(TextBudget::default(), TextBudget::max)
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

    fn optimizer_parts(&mut self) -> (&D, &mut [Trainable<D>]) {
        self.encoder.optimizer_parts()
    }

    fn accumulate(&mut self, micro_batches: &[Vec<&TripletExample>], step: usize) -> Result<StepLoss> {
        self.encoder.begin_step(step);
        let n_triplets: usize = micro_batches.iter().map(Vec::len).sum();
        let (mut total, budget) = (Distances::default(), self.encoder.budget());
        let (mut n_tokens, mut n_tokens_flat) = (0, 0);
        for group in micro_batches.iter().flat_map(|batch| groups(budget, batch)) {
            let (batch, config) = (batch_of(group), self.config);
            let weight = Some(1.0 / n_triplets as f64);
            self.encoder
                .forward_then_backward(&batch, |embeddings| score(config, &batch, embeddings, weight, &mut total));
            n_tokens += batch.n_tokens();
            n_tokens_flat += batch.n_tokens_flat;
        }
        let (loss, metrics) = total.mean();
        Ok(StepLoss { loss, metrics, n_tokens, n_tokens_flat, n_labels: n_tokens_flat })
    }

    fn evaluate(&mut self, examples: &[TripletExample]) -> Evaluation {
        let mut total = Distances::default();
        let examples: Vec<&TripletExample> = examples.iter().collect();
        let mut n_labels = 0;
        for group in groups(self.encoder.budget(), &examples) {
            let batch = batch_of(group);
            score(self.config, &batch, &self.encoder.forward(&batch), None, &mut total);
            n_labels += batch.n_tokens_flat;
        }
        let (loss, metrics) = total.mean();
        Evaluation { loss, n_examples: examples.len(), n_labels, metrics }
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

/// Running sums over triplets.
#[derive(Default)]
struct Distances {
    n: usize,
    loss: f64,
    right: usize,
    positive: f64,
    negative: f64,
}

impl Distances {
    /// Adds a triplet and returns its loss.
    fn add(&mut self, positive: f64, negative: f64, margin: f64) -> f64 {
        // Not `max`, which would turn a NaN into 0.
        let slack = margin + positive - negative;
        let loss = if slack < 0.0 { 0.0 } else { slack };
        self.n += 1;
        self.loss += loss;
        self.right += usize::from(positive < negative);
        self.positive += positive;
        self.negative += negative;
        loss
    }

    fn mean(&self) -> (f64, MethodMetrics) {
        let n = self.n.max(1) as f64;
        let metrics = MethodMetrics::Triplet {
            triplet_accuracy: self.right as f64 / n,
            positive_distance: self.positive / n,
            negative_distance: self.negative / n,
        };
        (self.loss / n, metrics)
    }
}

/// Distances of each triplet, and where `weight` is the share of a triplet in the mean loss, the loss's derivative by
/// the embeddings.
fn score(
    config: TripletConfig,
    batch: &TextBatch,
    embeddings: &[f32], // [n_segments, hidden]
    weight: Option<f64>,
    total: &mut Distances,
) -> Vec<f32> {
    let TripletConfig { distance, margin } = config;
    let hidden = embeddings.len() / batch.n_segments();
    let mut d_embeddings = vec![0.0; embeddings.len()];
    for texts in batch.segment_of.chunks_exact(3) {
        let [a, p, n] = [texts[0], texts[1], texts[2]];
        let row = |segment: usize| &embeddings[segment * hidden..][..hidden];
        let to_positive = distance.between(row(a), row(p));
        let to_negative = distance.between(row(a), row(n));
        let loss = total.add(to_positive, to_negative, f64::from(margin));
        let Some(weight) = weight.filter(|_| loss > 0.0) else { continue };
        for (other, sign) in [(p, weight), (n, -weight)] {
            // Anchor and other may be one text: its embedding is one point, and the distance's gradient is 0.
            if other != a {
                let (d_a, d_other) = two_rows(&mut d_embeddings, a, other, hidden);
                distance.add_gradient(sign, row(a), row(other), d_a, d_other);
            }
        }
    }
    d_embeddings.into_iter().map(|d: f64| d as f32).collect()
}

/// Texts `3 i`, `3 i + 1` and `3 i + 2` are those of triplet `i`.
fn batch_of(group: &[&TripletExample]) -> TextBatch {
    TextBatch::new(&group.iter().flat_map(|example| example.texts()).collect::<Vec<_>>())
}

/// Cuts `examples` in their order into parts that fit `budget`.
fn groups<'s, 'a>(budget: TextBudget, examples: &'s [&'a TripletExample]) -> Vec<&'s [&'a TripletExample]> {
    let mut groups = Vec::new();
    let mut rest = examples;
    while !rest.is_empty() {
        let fits = (1..=rest.len()).take_while(|&n| budget.holds(batch_of(&rest[..n]).budget())).last();
        let (group, tail) = rest.split_at(fits.unwrap_or(1));
        groups.push(group);
        rest = tail;
    }
    groups
}

/// Rows `i` and `j` of a matrix; they are two rows.
fn two_rows(matrix: &mut [f64], i: usize, j: usize, width: usize) -> (&mut [f64], &mut [f64]) {
    let (first, second) = matrix.split_at_mut(i.max(j) * width);
    let (low, high) = (&mut first[i.min(j) * width..][..width], &mut second[..width]);
    if i < j { (low, high) } else { (high, low) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_triplet_beyond_the_margin_has_no_loss_and_a_nan_stays() {
        let mut total = Distances::default();
        assert_eq!(total.add(0.25, 1.0, 0.5), 0.0);
        assert_eq!(total.add(0.5, 0.25, 0.5), 0.75);
        let (loss, metrics) = total.mean();
        assert_eq!(loss, 0.375);
        let expected =
            MethodMetrics::Triplet { triplet_accuracy: 0.5, positive_distance: 0.375, negative_distance: 0.625 };
        assert_eq!(metrics, expected);
        assert!(total.add(f64::NAN, 0.0, 0.5).is_nan());
    }

    #[test]
    fn groups_keep_the_order_and_fit_the_budget() {
        let triplet = |id| TripletExample { anchor: vec![id; 2], positive: vec![id + 1; 3], negative: vec![id + 2; 1] };
        let examples = [triplet(10), triplet(20), triplet(10), triplet(30)];
        let refs: Vec<&TripletExample> = examples.iter().collect();
        let budget = TextBudget { n_tokens: 12, n_segments: 6, max_length: 3 };
        // The third is the first again and costs nothing; the fourth begins a group of its own.
        let groups = groups(budget, &refs);
        assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), [3, 1]);
    }
}
