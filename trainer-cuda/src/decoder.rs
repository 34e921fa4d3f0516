//! A Llama decoder: embedding, blocks, final norm and output projection over a [`Forest`].

use crate::batch::{Budget, Forest};
use crate::block::Block;
use crate::buffers::Buffers;
use crate::config::{LoraConfig, ModelConfig};
use crate::device::{AttentionShape, CrossEntropyGrad, Device, Trainable};
use crate::formats::peft::NamedTensor;
use crate::formats::{BaseModel, HostTensor};
use crate::linear::{Linear, Lora, MODULE_NAMES, MODULE_PATHS, Parameter};
use crate::plan::MemoryPlan;
use crate::rope;
use crate::{Result, TrainerError};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What is trained.
#[derive(Debug, Clone, Copy)]
pub enum Training<'a> {
    /// Low-rank updates; every matrix of the base is frozen.
    Lora {
        /// Rank, scaling and modules.
        config: &'a LoraConfig,
        /// Seeds the initial values.
        seed: u64,
    },
    /// Every parameter.
    Full,
}

/// The model on a device, with its buffers.
pub struct Decoder<D: Device> {
    device: D,
    config: ModelConfig,
    embedding: Parameter<D>, // [vocab, hidden]
    blocks: Vec<Block<D>>,
    final_norm: Parameter<D>, // [1, hidden]
    /// `None` where the embedding table is the output projection.
    lm_head: Option<Parameter<D>>, // [vocab, hidden]
    trained: Vec<Trainable<D>>,
    buffers: Buffers<D>,
    budget: Budget,
}

impl<D: Device> Decoder<D> {
    /// Loads `base` and allocates buffers for batches up to `budget`.
    ///
    /// # Errors
    /// Those of reading the model; [`TrainerError::NoLoraTarget`].
    pub fn load(device: D, base: &BaseModel, training: Training<'_>, budget: Budget) -> Result<Self> {
        let config = base.config.clone();
        let (adapted, lora_rank) = match training {
            Training::Lora { config: lora, .. } => {
                let targets = lora.target_modules.select(&MODULE_NAMES)?;
                (MODULE_NAMES.map(|name| targets.contains(&name)), lora.rank)
            }
            Training::Full => ([false; 7], 0),
        };
        let plan = MemoryPlan::new(&config, budget, adapted, lora_rank);
        let mut buffers = Buffers::new(&device, &plan, config.num_hidden_layers);
        let (cos, sin) = rope::tables(&config, budget.max_position);
        device.write_f32(&mut buffers.batch.rope_cos, &cos);
        device.write_f32(&mut buffers.batch.rope_sin, &sin);

        let mut loader = Loader { device: &device, base, training, adapted, trained: Vec::new() };
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let embedding = loader.parameter("model.embed_tokens.weight", vocab, hidden)?;
        let blocks = (0..config.num_hidden_layers).map(|layer| loader.block(&config, layer)).collect::<Result<_>>()?;
        let final_norm = loader.parameter("model.norm.weight", 1, hidden)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(loader.parameter("lm_head.weight", vocab, hidden)?),
        };
        let trained = loader.trained;
        Ok(Self { device, config, embedding, blocks, final_norm, lm_head, trained, buffers, budget })
    }

    /// The model's constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device it runs on.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The tensors being trained.
    pub fn trained(&self) -> &[Trainable<D>] {
        &self.trained
    }

    /// The device and the tensors being trained, for the optimiser.
    pub fn optimizer_parts(&mut self) -> (&D, &mut [Trainable<D>]) {
        (&self.device, &mut self.trained)
    }

    /// Overwrites the tensors being trained, as an adapter read from disk.
    ///
    /// # Errors
    /// [`TrainerError::Config`] where the names or shapes are not exactly those being trained.
    pub fn write_adapter(&mut self, tensors: &[NamedTensor]) -> Result<()> {
        let refuse = |what: String| Err(TrainerError::Config(format!("the adapter does not fit this run: {what}")));
        if let Some(extra) = tensors.iter().find(|tensor| !self.trained.iter().any(|own| own.name == tensor.name)) {
            return refuse(format!("it has `{}`, which is not trained here", extra.name));
        }
        for own in &mut self.trained {
            let Some(tensor) = tensors.iter().find(|tensor| tensor.name == own.name) else {
                return refuse(format!("it lacks `{}`", own.name));
            };
            let expected = self.device.weight_shape(&own.weight);
            if tensor.shape != expected {
                return refuse(format!("`{}` has shape {:?}, not {expected:?}", own.name, tensor.shape));
            }
            self.device.write_weight(&mut own.weight, &tensor.data);
        }
        Ok(())
    }

    /// Scores every edge of the forest: log-probabilities and the likeliest token of each row.
    pub fn score(&mut self, forest: &Forest) -> Scores {
        self.upload(forest);
        self.forward(forest);
        self.head(forest, false);
        self.scores(forest)
    }

    /// Scores the forest and adds the gradient of `sum_e d_logprob[e] * logprob[e]` to every trained tensor.
    pub fn score_and_backward(
        &mut self,
        forest: &Forest,
        d_logprob: &[f32], // [n_edges]
    ) -> Scores {
        self.upload(forest);
        self.device.write_f32(&mut self.buffers.batch.d_logprob, d_logprob);
        self.forward(forest);
        self.head(forest, true);
        self.backward(forest);
        self.scores(forest)
    }

    fn shape(&self, forest: &Forest) -> AttentionShape {
        AttentionShape {
            n_tokens: forest.n_tokens(),
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        }
    }

    fn upload(&mut self, forest: &Forest) {
        assert!(self.budget.holds(forest.budget()), "the batch {:?} exceeds {:?}", forest.budget(), self.budget);
        let (device, batch) = (&self.device, &mut self.buffers.batch);
        device.write_index(&mut batch.token_ids, &forest.token_ids);
        device.write_index(&mut batch.position, &forest.position);
        device.write_index(&mut batch.subtree_end, &forest.subtree_end);
        device.write_index(&mut batch.rows, &forest.rows);
        device.write_index(&mut batch.edges.edge_start, &forest.edge_start);
        device.write_index(&mut batch.edges.edge_target, &forest.edge_target);
    }

    fn forward(&mut self, forest: &Forest) {
        let shape = self.shape(forest);
        let Buffers { layers, x_final, scratch, batch, .. } = &mut self.buffers;
        let table = self.embedding.weight(&self.trained);
        let x_first = layers.first_mut().map_or(&mut *x_final, |layer| &mut layer.x);
        self.device.embedding_forward(x_first, &batch.token_ids, table, shape.n_tokens);
        for (index, block) in self.blocks.iter().enumerate() {
            let (before, after) = layers.split_at_mut(index + 1);
            let x_out = after.first_mut().map_or(&mut *x_final, |next| &mut next.x);
            block.forward(&self.device, &self.trained, &mut before[index], x_out, scratch, batch, shape);
        }
    }

    /// Final norm, projection and loss of the labelled rows; with `backward`, fills `scratch.dx`.
    fn head(&mut self, forest: &Forest, backward: bool) {
        let (n_rows, n_tokens, hidden) = (forest.n_rows(), forest.n_tokens(), self.config.hidden_size);
        let (device, trained, eps) = (&self.device, &mut self.trained, self.config.rms_norm_eps);
        let Buffers { x_final, scratch, head, batch, .. } = &mut self.buffers;
        device.gather_rows(&mut head.x, x_final, &batch.rows, hidden, n_rows);
        let norm = self.final_norm.weight(trained);
        device.rms_norm_forward(&mut head.normed, &mut head.rstd, &head.x, norm, eps, n_rows);

        let projection = self.lm_head.as_ref().unwrap_or(&self.embedding);
        projection.with_grad(trained, |weight, d_head| {
            let grad =
                backward.then_some(CrossEntropyGrad { d_logprob: &batch.d_logprob, d_x: &mut head.d_normed, d_head });
            let (logprob, argmax, logits) = (&mut batch.logprob, &mut batch.argmax, &mut head.logits);
            device.linear_cross_entropy(
                logprob,
                argmax,
                logits,
                &head.normed,
                weight,
                &batch.edges,
                n_rows,
                head.chunk_rows,
                grad,
            );
        });
        if !backward {
            return;
        }
        device.zero_act(&mut head.dx, n_rows * hidden);
        self.final_norm.with_grad(trained, |weight, d_weight| {
            device.rms_norm_backward(&mut head.dx, d_weight, &head.d_normed, &head.x, &head.rstd, weight, n_rows);
        });
        device.scatter_rows(&mut scratch.dx, &head.dx, &batch.rows, hidden, n_rows, n_tokens);
    }

    fn backward(&mut self, forest: &Forest) {
        let shape = self.shape(forest);
        let Buffers { layers, scratch, batch, .. } = &mut self.buffers;
        for (block, act) in self.blocks.iter().zip(layers.iter_mut()).rev() {
            block.backward(&self.device, &mut self.trained, act, scratch, batch, shape);
        }
        if let Parameter::Trained(index) = self.embedding {
            let (d_table, hidden) = (&mut self.trained[index].grad, self.config.hidden_size);
            self.device.embedding_backward(d_table, &scratch.dx, &batch.token_ids, hidden, shape.n_tokens);
        }
    }

    fn scores(&self, forest: &Forest) -> Scores {
        Scores {
            logprob: self.device.read_f32(&self.buffers.batch.logprob, forest.n_edges()),
            argmax: self.device.read_index(&self.buffers.batch.argmax, forest.n_rows()),
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

/// Reads a base model into parameters, frozen or trained.
struct Loader<'a, D: Device> {
    device: &'a D,
    base: &'a BaseModel,
    training: Training<'a>,
    adapted: [bool; 7],
    trained: Vec<Trainable<D>>,
}

impl<D: Device> Loader<'_, D> {
    fn parameter(&mut self, name: &str, rows: usize, cols: usize) -> Result<Parameter<D>> {
        let HostTensor { shape, data } = self.base.tensor(name)?;
        let expected: &[usize] = if rows == 1 { &[cols] } else { &[rows, cols] };
        if shape != expected {
            return Err(TrainerError::Corrupt {
                path: self.base.path().to_owned(),
                what: format!("tensor `{name}` has shape {shape:?}, the configuration wants {expected:?}"),
            });
        }
        Ok(match self.training {
            Training::Lora { .. } => Parameter::Frozen(self.device.upload_weight(data, rows, cols)),
            Training::Full => Parameter::Trained(self.train(name.into(), data, rows, cols)),
        })
    }

    /// Adds a tensor to those that are trained and returns its index.
    fn train(&mut self, name: String, data: Vec<f32>, rows: usize, cols: usize) -> usize {
        let zeros = || self.device.alloc_f32(rows * cols);
        let (grad, exp_avg, exp_avg_sq) = (zeros(), zeros(), zeros());
        let weight = self.device.upload_weight(data, rows, cols);
        self.trained.push(Trainable { name, weight, grad, exp_avg, exp_avg_sq });
        self.trained.len() - 1
    }

    fn block(&mut self, config: &ModelConfig, layer: usize) -> Result<Block<D>> {
        let hidden = config.hidden_size;
        let prefix = format!("model.layers.{layer}");
        let attn_norm = self.parameter(&format!("{prefix}.input_layernorm.weight"), 1, hidden)?;
        let mlp_norm = self.parameter(&format!("{prefix}.post_attention_layernorm.weight"), 1, hidden)?;
        let mut modules = 0..MODULE_NAMES.len();
        let linear = MODULE_PATHS.try_map(|path| {
            let module = modules.next().expect("as many paths as names");
            let (out_features, in_features) = config.module_shape(path);
            let name = format!("{prefix}.{path}");
            let weight = self.parameter(&format!("{name}.weight"), out_features, in_features)?;
            let lora = match self.training {
                Training::Lora { config, seed } if self.adapted[module] => {
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    // A stream a module: its values don't depend on which others are adapted.
                    rng.set_stream((layer * MODULE_NAMES.len() + module) as u64);
                    Some(self.lora(&name, config, rng, out_features, in_features))
                }
                _ => None,
            };
            Ok::<_, TrainerError>(Linear { weight, lora, out_features, in_features })
        })?;
        Ok(Block { attn_norm, mlp_norm, linear, rms_norm_eps: config.rms_norm_eps })
    }

    /// `A` is uniform in `±1 / sqrt(in)` (PEFT's Kaiming-uniform with `a = sqrt(5)`), `B` is zero: the adapter starts
    /// as the base, exactly.
    fn lora(
        &mut self,
        module: &str,
        config: &LoraConfig,
        mut rng: ChaCha8Rng,
        out_features: usize,
        in_features: usize,
    ) -> Lora {
        let bound = 1.0 / (in_features as f32).sqrt();
        // 24 bits: every multiple of 2^-24 in [0, 1) is an f32, so nothing is rounded up to 1.
        let mut uniform = || bound * (2.0 * (rng.next_u32() >> 8) as f32 / (1 << 24) as f32 - 1.0);
        let a = (0..config.rank * in_features).map(|_| uniform()).collect();
        let a = self.train(format!("{module}.lora_A.weight"), a, config.rank, in_features);
        let b = vec![0.0; out_features * config.rank];
        let b = self.train(format!("{module}.lora_B.weight"), b, out_features, config.rank);
        Lora { a, b, scaling: config.scaling() }
    }
}
