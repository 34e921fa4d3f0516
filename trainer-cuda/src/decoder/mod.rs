//! A causal language model (Llama, Qwen2, Qwen3): embedding, blocks, final norm and output projection over a [`Forest`].

pub mod block;
pub mod buffers;
pub mod head_norm;
pub mod modules;
mod network;
mod not_finite;
mod parameters;

pub(crate) use parameters::Parameters;

use crate::allocator::Allocator;
use crate::batch::{Budget, Forest};
use crate::config::DecoderConfig;
use crate::decoder::buffers::Buffers;
use crate::decoder::modules::MODULE_NAMES;
use crate::device::{AttentionShape, Device, ReplayKey, Trainable, Visibility};
use crate::dropout::LoraDropout;
use crate::formats::BaseModel;
use crate::formats::peft::NamedTensor;
use crate::loader::{Loader, Source, Training};
use crate::optimizer::{Optimizer, Parts, StepScalars};
use crate::plan::{MemoryPlan, PlanOptions};
use crate::ranks::Share;
use crate::{Result, adapter, rope};
use network::Network;

/// The model on a device, with its buffers.
pub struct Decoder<D: Device> {
    device: D,
    config: DecoderConfig,
    network: Network<D>,
    dropout: LoraDropout,
    plan: MemoryPlan,
    budget: Budget,
    /// Size of the batch in the buffers, with its padding.
    batch: Budget,
    /// Whether the updates count, or the model is its base.
    adapter: bool,
}

/// What a training pass minimises.
#[derive(Debug, Clone, Copy)]
pub enum Loss<'a> {
    /// The sum over edges of `d_logprob[e] * logprob[e]`.
    Weighted {
        /// Minus each edge's share of the step.
        d_logprob: &'a [f32], // [n_edges]
    },
    /// DPO: sequences `2 p` and `2 p + 1` of the forest are the chosen and the rejected side of pair `p`.
    Preferences {
        /// Log-probability of each sequence's labels under the reference.
        reference: &'a [f64], // [n_sequences]
        /// Pairs of the whole step.
        n_step: usize,
        /// How strongly the reference holds the policy back.
        beta: f64,
    },
}

/// A pass's place in its step.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Gradients begin with it.
    pub first: bool,
    /// The weights are updated after it.
    pub update: Option<StepScalars>,
}

impl<D: Device> Decoder<D> {
    /// Loads `base` and allocates buffers for batches up to `budget`; with `recompute`, one set of block activations
    /// instead of one a block; with `pairs`, to train on preferences.
    ///
    /// # Errors
    /// Those of reading the model; [`TrainerError::NoLoraTarget`](crate::TrainerError::NoLoraTarget);
    /// [`TrainerError::OutOfMemory`](crate::TrainerError::OutOfMemory).
    pub fn load(
        device: D,
        base: &BaseModel,
        training: Training<'_>,
        budget: Budget,
        recompute: bool,
        pairs: bool,
    ) -> Result<Self> {
        let config = base.decoder()?.clone();
        let source = Source::new(base, training, &MODULE_NAMES)?;
        let dropout = source.lora_dropout();
        let options = PlanOptions { recompute, pairs, ..source.plan_options() };
        let mut plan = MemoryPlan::new(&config, budget, options, D::SIZES);
        plan.parameters = source.planned_decoder(&config)?;
        device.reserve(&plan)?;

        let mut loader = Loader::new(&device, source);
        let parameters = Parameters::load(&mut loader, &config)?;
        let trained = loader.into_trained();
        let mut from = Allocator::new(&device, &plan);
        let optimizer = Optimizer::new(&device, &mut from, &trained);
        let mut buffers = Buffers::new(&mut from, &plan, config.num_hidden_layers);
        from.finish();
        let (cos, sin) = rope::tables(&config.rope(), budget.max_position);
        device.write_f32(&mut buffers.batch.rope_cos, &cos);
        device.write_f32(&mut buffers.batch.rope_sin, &sin);
        device.check()?;

        let network = Network {
            parameters,
            trained,
            optimizer,
            buffers,
            hidden_size: config.hidden_size,
            rms_norm_eps: config.rms_norm_eps,
        };
        Ok(Self { device, config, network, dropout, plan, budget, batch: Budget::default(), adapter: true })
    }

    /// The model's constants.
    pub fn config(&self) -> &DecoderConfig {
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

    /// Scores every edge of the forest: log-probabilities and the likeliest token of each row.
    pub fn score(&mut self, forest: &Forest) -> Scores {
        self.upload(forest);
        let part = if self.adapter { "score" } else { "score the base" };
        let (key, shape, adapter) = (self.key(part, [false; 2]), self.shape(), self.adapter);
        let (network, n_rows) = (&mut self.network, self.batch.n_rows);
        self.device.replay(key, &mut || network.score(&self.device, adapter, shape, n_rows));
        self.scores(forest)
    }

    /// Runs a training pass: every adapter drops some of its inputs. Adds the loss's gradient to every trained tensor,
    /// its value to the step's sums, and updates the tensors where the pass ends its step.
    pub fn train(&mut self, forest: &Forest, loss: Loss<'_>, ends: Ends) {
        self.upload(forest);
        self.upload_loss(forest, loss);
        let (device, network) = (&self.device, &mut self.network);
        if let Some(seeds) = &mut network.buffers.dropout_seeds {
            device.write_index(seeds, &self.dropout.next_pass(network.parameters.n_modules()));
        }
        if let Some(scalars) = ends.update {
            network.optimizer.write(device, scalars);
        }
        let part = match loss {
            Loss::Weighted { .. } => "train",
            Loss::Preferences { .. } => "train on pairs",
        };
        let ends = [ends.first, ends.update.is_some()];
        let (key, shape) = (self.key(part, ends), self.shape());
        let (network, n_rows, probability) = (&mut self.network, self.batch.n_rows, self.dropout.probability());
        self.device.replay(key, &mut || network.train(&self.device, loss, ends, probability, shape, n_rows));
    }

    /// The scores of the last pass, over `forest`.
    pub fn scores(&self, forest: &Forest) -> Scores {
        let batch = &self.network.buffers.batch;
        Scores {
            logprob: self.device.read_f32(&batch.logprob, forest.n_edges()),
            argmax: self.device.read_index(&batch.argmax, forest.n_rows()),
        }
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

    /// Runs `score` with the adapter off: the model is its base.
    pub fn without_adapter<R>(&mut self, score: impl FnOnce(&mut Self) -> R) -> R {
        self.adapter = false;
        let result = score(self);
        self.adapter = true;
        result
    }

    /// The plan's name of the first buffer, in the order of computation, that the last forward pass left a NaN or an
    /// infinity in: `layers.3.gate`. Where activations are recomputed, only the blocks' inputs can be told apart.
    pub fn find_not_finite(&self) -> Option<String> {
        not_finite::find(&self.device, &self.plan, &self.network.buffers, self.batch)
    }

    fn shape(&self) -> AttentionShape {
        AttentionShape {
            n_tokens: self.batch.n_tokens,
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        }
    }

    fn key(&self, part: &'static str, ends: [bool; 2]) -> ReplayKey {
        ReplayKey { part, sizes: [self.batch.n_tokens, self.batch.n_rows], ends }
    }

    /// Writes the forest, padded: a token of padding sees itself alone, a row of padding is no token's and has no edge.
    fn upload(&mut self, forest: &Forest) {
        let size = forest.budget();
        // What is per example counts where a loss is made of it: a batch that is only scored may hold more.
        let computed = Budget { n_sequences: 0, n_labels: 0, ..size };
        assert!(self.budget.holds(computed), "the batch {size:?} exceeds {:?}", self.budget);
        let device = &self.device;
        let n_tokens = device.padded(size.n_tokens, self.budget.n_tokens);
        let n_rows = device.padded(size.n_rows, self.budget.n_rows);
        self.batch = Budget { n_tokens, n_rows, ..size };
        let pad = |values: &[u32], len: usize, value: u32| {
            let mut padded = values.to_vec();
            padded.resize(len, value);
            padded
        };
        let batch = &mut self.network.buffers.batch;
        device.write_index(&mut batch.token_ids, &pad(&forest.token_ids, n_tokens, 0));
        device.write_index(&mut batch.position, &pad(&forest.position, n_tokens, 0));
        let alone = (size.n_tokens..n_tokens).map(|t| t as u32 + 1);
        let subtree_end: Vec<u32> = forest.subtree_end.iter().copied().chain(alone).collect();
        device.write_mask(&mut batch.mask, Visibility::Forest { subtree_end: &subtree_end });
        device.write_index(&mut batch.rows, &pad(&forest.rows, n_rows, n_tokens as u32));
        device.write_index(&mut batch.edges.edge_start, &pad(&forest.edge_start, n_rows + 1, size.n_edges as u32));
        device.write_index(&mut batch.edges.edge_target, &forest.edge_target);
    }

    fn upload_loss(&mut self, forest: &Forest, loss: Loss<'_>) {
        let (device, Buffers { batch, pairs, .. }) = (&self.device, &mut self.network.buffers);
        match loss {
            Loss::Weighted { d_logprob } => device.write_f32(&mut batch.d_logprob, d_logprob),
            Loss::Preferences { reference, n_step, .. } => {
                let (pairs, size) = (pairs.as_mut().expect("the decoder was loaded for preferences"), forest.budget());
                assert!(self.budget.holds(size), "the batch {size:?} exceeds {:?}", self.budget);
                device.write_index(&mut pairs.example_start, &forest.example_start);
                device.write_index(&mut pairs.example_edges, &forest.example_edges);
                device.write_f64(&mut pairs.reference, reference);
                device.write_index(&mut pairs.n_pairs, &[forest.n_sequences() as u32 / 2]);
                device.write_f32(&mut pairs.n_step, &[n_step as f32]);
            }
        }
    }
}

/// What a forward pass says about the labelled edges.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Natural logarithms.
    pub logprob: Vec<f32>, // [n_edges]
    /// Likeliest token.
    pub argmax: Vec<u32>, // [n_rows]
}
