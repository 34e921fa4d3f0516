//! A text encoder: embeddings, post-norm blocks, pooling and scaling over a [`TextBatch`].

pub mod block;
pub mod buffers;
pub mod layer_norm;
pub mod names;
mod network;
mod parameters;
pub mod plan;
pub mod text_batch;

use crate::allocator::Allocator;
use crate::config::{EncoderConfig, Positions, Precision, RopeScaling, TripletConfig};
use crate::decoder::Ends;
use crate::device::{AttentionShape, Device, ReplayKey, Trainable, Visibility};
use crate::dropout::LoraDropout;
use crate::encoder::buffers::EncoderBuffers;
use crate::encoder::text_batch::{TextBatch, TextBudget};
use crate::formats::peft::NamedTensor;
use crate::formats::{Adapter, BaseModel};
use crate::loader::{Loader, Source, Training};
use crate::optimizer::{Optimizer, Parts};
use crate::plan::MemoryPlan;
use crate::ranks::Share;
use crate::rope::{self, Rope};
use crate::{Result, adapter};
use network::Network;
use parameters::Parameters;

/// The model on a device, with its buffers.
pub struct Encoder<D: Device> {
    device: D,
    config: EncoderConfig,
    network: Network<D>,
    dropout: LoraDropout,
    plan: MemoryPlan,
    budget: TextBudget,
    /// Tokens and texts of the batch in the buffers, with their padding.
    batch: (usize, usize),
}

/// The triplets of a batch.
#[derive(Debug, Clone, Copy)]
pub struct TripletBatch<'a> {
    /// Segments of anchor, positive and negative of each.
    pub segments: &'a [u32], // [n_triplets, 3]
    /// Triplets of the whole step.
    pub n_step: usize,
    /// Distance and margin.
    pub config: TripletConfig,
}

impl<D: Device> Encoder<D> {
    /// Loads `base` and allocates buffers for batches up to `budget`.
    ///
    /// # Errors
    /// Those of reading the model; [`TrainerError::WrongKind`](crate::TrainerError::WrongKind) for a decoder;
    /// [`TrainerError::NoLoraTarget`](crate::TrainerError::NoLoraTarget);
    /// [`TrainerError::OutOfMemory`](crate::TrainerError::OutOfMemory).
    pub fn load(device: D, base: &BaseModel, training: Training<'_>, budget: TextBudget) -> Result<Self> {
        let config = base.encoder()?.clone();
        let source = Source::new(base, training, config.names.module_names())?;
        let dropout = source.lora_dropout();
        let mut plan = MemoryPlan::of_encoder(&config, budget, source.encoder_plan_options(&config), D::SIZES);
        plan.parameters = source.planned_encoder(&config)?;
        device.reserve(&plan)?;

        let mut loader = Loader::new(&device, source);
        let parameters = Parameters::load(&mut loader, &config)?;
        let trained = loader.into_trained();
        let mut from = Allocator::new(&device, &plan);
        let optimizer = Optimizer::new(&device, &mut from, &trained);
        let mut buffers = EncoderBuffers::new(&mut from, config.num_hidden_layers);
        from.finish();
        if let Positions::Rotary { theta } = config.positions {
            let rope = Rope { head_dim: config.head_dim(), theta, scaling: RopeScaling::None };
            let (cos, sin) = rope::tables(&rope, budget.max_length);
            device.write_f32(&mut buffers.batch.rope_cos, &cos);
            device.write_f32(&mut buffers.batch.rope_sin, &sin);
        }
        device.check()?;

        let (pooling, normalize) = (config.pooling, config.normalize);
        let network =
            Network { parameters, trained, optimizer, buffers, hidden_size: config.hidden_size, pooling, normalize };
        Ok(Self { device, config, network, dropout, plan, budget, batch: (0, 0) })
    }

    /// Loads `base`, with `adapter` beside it and its matrices held in `precision`, to embed texts.
    ///
    /// # Errors
    /// Those of [`Encoder::load`] and of [`Adapter::check_fits`].
    pub fn with_adapter(
        device: D,
        base: &BaseModel,
        adapter: Option<&Adapter>,
        precision: Precision,
        budget: TextBudget,
    ) -> Result<Self> {
        let Some(adapter) = adapter else {
            return Self::load(device, base, Training::Nothing { precision }, budget);
        };
        base.encoder()?;
        adapter.check_fits(base)?;
        let mut encoder =
            Self::load(device, base, Training::Lora { config: &adapter.lora, seed: 0, precision }, budget)?;
        adapter.write_to(&encoder.device, &mut encoder.network.trained);
        Ok(encoder)
    }

    /// The model's constants.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The device it runs on.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The memory that it was given.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// What its buffers hold.
    pub fn budget(&self) -> TextBudget {
        self.budget
    }

    /// The tensors being trained.
    pub fn trained(&self) -> &[Trainable<D>] {
        &self.network.trained
    }

    /// The device and the tensors being trained.
    pub fn trained_mut(&mut self) -> (&D, &mut [Trainable<D>]) {
        (&self.device, &mut self.network.trained)
    }

    /// What ends a step.
    pub fn optimizer(&self) -> &Optimizer<D> {
        &self.network.optimizer
    }

    /// The device, and what ends a step.
    pub fn optimizer_mut(&mut self) -> (&D, &mut Optimizer<D>) {
        (&self.device, &mut self.network.optimizer)
    }

    /// Overwrites the tensors being trained, as an adapter read from disk.
    ///
    /// # Errors
    /// [`TrainerError::Config`](crate::TrainerError::Config) where the names or shapes are not exactly those being trained.
    pub fn write_adapter(&mut self, tensors: &[NamedTensor]) -> Result<()> {
        adapter::write(&self.device, &mut self.network.trained, tensors)
    }

    /// The embedding of each text, in as many batches as the buffers need.
    ///
    /// # Errors
    /// Those of [`Device::check`].
    ///
    /// # Panics
    /// Where a text has no token, or more than the budget.
    pub fn embed(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let mut embeddings = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let fits = |n: usize| self.budget.holds(TextBatch::new(&rest[..n]).budget());
            let n = (1..=rest.len()).take_while(|&n| fits(n)).last().unwrap_or(1);
            let (now, later) = rest.split_at(n);
            let batch = TextBatch::new(now);
            let rows = self.forward(&batch);
            let row = |&segment: &usize| rows[segment * self.config.hidden_size..][..self.config.hidden_size].to_vec();
            embeddings.extend(batch.segment_of.iter().map(row));
            rest = later;
        }
        self.device.check()?;
        Ok(embeddings)
    }

    /// The embedding of each segment, row-major: `[n_segments, hidden]`.
    pub fn forward(&mut self, batch: &TextBatch) -> Vec<f32> {
        self.upload(batch);
        let (key, shape, n_segments) = (self.key("embed", [false; 2]), self.shape(), self.batch.1);
        let network = &mut self.network;
        self.device.replay(key, &mut || network.embed(&self.device, shape, n_segments));
        self.embeddings(batch)
    }

    /// Starts this rank's share of optimiser step `step`, from 1. What dropout drops follows from both and from the
    /// number of the training pass within the step.
    pub fn begin_step(&mut self, step: usize, share: Share) {
        self.dropout.begin_step(step, share);
    }

    /// Sets every gradient to zero, as the first pass of a step does: for a step that has none here.
    pub fn zero_gradients(&mut self) {
        self.network.optimizer.zero_gradients(&self.device, &mut self.network.trained);
    }

    /// The device, the tensors being trained, and what ends a step.
    pub fn parts_mut(&mut self) -> Parts<'_, D> {
        (&self.device, &mut self.network.trained, &mut self.network.optimizer)
    }

    /// A training pass: every adapter drops some of its inputs. Adds the gradient of the triplets' mean loss to every
    /// trained tensor, its value to the step's sums, and updates the tensors where the pass ends its step.
    pub fn train(&mut self, batch: &TextBatch, triplets: TripletBatch<'_>, ends: Ends) {
        self.upload(batch);
        let (device, network) = (&self.device, &mut self.network);
        let buffers = &mut network.buffers.triplets;
        device.write_index(&mut buffers.segments, triplets.segments);
        device.write_index(&mut buffers.n_triplets, &[triplets.segments.len() as u32 / 3]);
        device.write_f32(&mut buffers.n_step, &[triplets.n_step as f32]);
        if let Some(seeds) = &mut network.buffers.dropout_seeds {
            device.write_index(seeds, &self.dropout.next_pass(network.parameters.n_modules()));
        }
        if let Some(scalars) = ends.update {
            network.optimizer.write(device, scalars);
        }
        let ends = [ends.first, ends.update.is_some()];
        let (key, shape, n_segments) = (self.key("train", ends), self.shape(), self.batch.1);
        let (network, probability) = (&mut self.network, self.dropout.probability());
        self.device.replay(key, &mut || {
            network.train(&self.device, triplets.config, ends, probability, shape, n_segments);
        });
    }

    /// The embeddings of the last pass, over `batch`.
    pub fn embeddings(&self, batch: &TextBatch) -> Vec<f32> {
        self.device.read_act(self.network.embeddings(), batch.n_segments() * self.config.hidden_size)
    }

    /// The first buffer of the last forward pass that holds a NaN or an infinity: `layers.3.q`.
    pub fn find_not_finite(&self) -> Option<String> {
        let (n_tokens, n_segments) = self.batch;
        let (hidden, intermediate) = (self.config.hidden_size, self.config.intermediate_size);
        let broken =
            |buffer: &D::Act, len: usize| self.device.read_act(buffer, len).iter().any(|value| !value.is_finite());
        let EncoderBuffers { layers, embeddings, x_final, pool, .. } = &self.network.buffers;
        if broken(&embeddings.x, n_tokens * hidden) {
            return Some("embeddings.x".into());
        }
        for (index, act) in layers.iter().enumerate() {
            let of_layer = [
                ("x", &act.x, hidden),
                ("q", &act.q, hidden),
                ("k", &act.k, hidden),
                ("v", &act.v, hidden),
                ("attn", &act.attn, hidden),
                ("attn_norm.x", &act.attn_norm.x, hidden),
                ("fc1", &act.fc1, intermediate),
                ("mlp_norm.x", &act.mlp_norm.x, hidden),
            ];
            if let Some((name, ..)) = of_layer.iter().find(|(_, buffer, width)| broken(buffer, n_tokens * width)) {
                return Some(format!("layers.{index}.{name}"));
            }
        }
        let after = [("x_final", x_final, n_tokens), ("pool.pooled", &pool.pooled, n_segments)];
        after.iter().find(|(_, buffer, rows)| broken(buffer, rows * hidden)).map(|(name, ..)| (*name).into())
    }

    fn shape(&self) -> AttentionShape {
        let heads = self.config.num_attention_heads;
        AttentionShape { n_tokens: self.batch.0, heads, kv_heads: heads, head_dim: self.config.head_dim() }
    }

    fn key(&self, part: &'static str, ends: [bool; 2]) -> ReplayKey {
        ReplayKey { part, sizes: [self.batch.0, self.batch.1], ends }
    }

    /// Writes the batch, padded: a token of padding is a text of its own that is pooled nowhere, a segment of padding has
    /// no token.
    fn upload(&mut self, batch: &TextBatch) {
        let size = batch.budget();
        assert!(self.budget.holds(size), "the batch {size:?} exceeds {:?}", self.budget);
        let device = &self.device;
        let n_tokens = device.padded(size.n_tokens, self.budget.n_tokens);
        let n_segments = device.padded(size.n_segments, self.budget.n_segments);
        self.batch = (n_tokens, n_segments);
        let offset = match self.config.positions {
            Positions::Learned { offset, .. } => offset as u32,
            Positions::Rotary { .. } => 0,
        };
        let padded = |values: &mut dyn Iterator<Item = u32>, len: usize, value: u32| {
            let mut padded: Vec<u32> = values.collect();
            padded.resize(len, value);
            padded
        };
        let alone = |from: u32| (size.n_tokens..n_tokens).map(move |t| t as u32 + from);
        let segment_start: Vec<u32> = batch.segment_start.iter().copied().chain(alone(0)).collect();
        let segment_end: Vec<u32> = batch.segment_end.iter().copied().chain(alone(1)).collect();
        let texts = &mut self.network.buffers.batch;
        let mut position = batch.position.iter().map(|place| place + offset);
        device.write_index(&mut texts.token_ids, &padded(&mut batch.token_ids.iter().copied(), n_tokens, 0));
        device.write_index(&mut texts.position, &padded(&mut position, n_tokens, 0));
        let (segment_start, segment_end) = (&segment_start, &segment_end);
        device.write_mask(&mut texts.mask, Visibility::Segments { segment_start, segment_end });
        let offsets = padded(&mut batch.offsets.iter().copied(), n_segments + 1, size.n_tokens as u32);
        device.write_index(&mut texts.offsets, &offsets);
    }
}
