//! A causal language model (Llama, Qwen2, Qwen3): embedding, blocks, final norm and output projection over a [`Forest`].

pub mod block;
pub mod buffers;
pub mod head_norm;
mod not_finite;

use crate::batch::{Budget, Forest};
use crate::config::DecoderConfig;
use crate::decoder::block::Block;
use crate::decoder::buffers::Buffers;
use crate::decoder::head_norm::HeadNorms;
use crate::device::{AttentionShape, CrossEntropyGrad, Device, Dropout, Trainable};
use crate::dropout::LoraDropout;
use crate::formats::BaseModel;
use crate::formats::peft::NamedTensor;
use crate::linear::{MODULE_NAMES, MODULE_PATHS, Parameter};
use crate::loader::{Loader, Module, Training};
use crate::plan::{MemoryPlan, PlanOptions};
use crate::{Result, adapter, rope};

/// The parameters of a decoder.
pub(crate) struct Parameters<D: Device> {
    pub(crate) embedding: Parameter<D>, // [vocab, hidden]
    pub(crate) blocks: Vec<Block<D>>,
    pub(crate) final_norm: Parameter<D>, // [1, hidden]
    /// `None` where the embedding table is the output projection.
    lm_head: Option<Parameter<D>>, // [vocab, hidden]
}

/// The model on a device, with its buffers.
pub struct Decoder<D: Device> {
    device: D,
    config: DecoderConfig,
    parameters: Parameters<D>,
    trained: Vec<Trainable<D>>,
    dropout: LoraDropout,
    plan: MemoryPlan,
    buffers: Buffers<D>,
    budget: Budget,
    /// Size of the batch in the buffers.
    batch: Budget,
}

impl<D: Device> Decoder<D> {
    /// Loads `base` and allocates buffers for batches up to `budget`; with `recompute`, one set of block activations
    /// instead of one a block.
    ///
    /// # Errors
    /// Those of reading the model; [`TrainerError::NoLoraTarget`].
    pub fn load(device: D, base: &BaseModel, training: Training<'_>, budget: Budget, recompute: bool) -> Result<Self> {
        let config = base.decoder()?.clone();
        let mut loader = Loader::new(&device, base, training, &MODULE_NAMES)?;
        let adapted = MODULE_NAMES.map(|name| loader.adapts(name));
        let dropout = loader.lora_dropout();
        let options = PlanOptions { adapted, lora_rank: loader.lora_rank(), dropout: dropout.drops(), recompute };
        let plan = MemoryPlan::new(&config, budget, options);
        let mut buffers = Buffers::new(&device, &plan, config.num_hidden_layers);
        let (cos, sin) = rope::tables(&config.rope(), budget.max_position);
        device.write_f32(&mut buffers.batch.rope_cos, &cos);
        device.write_f32(&mut buffers.batch.rope_sin, &sin);

        let parameters = Parameters::load(&mut loader, &config)?;
        let trained = loader.into_trained();
        let batch = Budget::default();
        Ok(Self { device, config, parameters, trained, dropout, plan, buffers, budget, batch })
    }

    /// The model's constants.
    pub fn config(&self) -> &DecoderConfig {
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
        adapter::write(&self.device, &mut self.trained, tensors)
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
        self.with_dropout(|decoder| {
            decoder.forward(forest);
            decoder.head(forest, true);
            decoder.backward(forest);
        });
        self.scores(forest)
    }

    /// Scores the forest, and adds the gradient of a loss that depends on the scores: `d_logprob` turns the
    /// log-probability of each edge into the loss's derivative by it.
    ///
    /// The labelled rows are projected onto the vocabulary twice, 2% of a DPO step of four pairs.
    pub fn score_then_backward(&mut self, forest: &Forest, d_logprob: impl FnOnce(&[f32]) -> Vec<f32>) -> Scores {
        self.upload(forest);
        self.with_dropout(|decoder| {
            decoder.forward(forest);
            decoder.head(forest, false);
            let scores = decoder.scores(forest);
            decoder.device.write_f32(&mut decoder.buffers.batch.d_logprob, &d_logprob(&scores.logprob));
            decoder.head(forest, true);
            decoder.backward(forest);
            scores
        })
    }

    /// Starts optimiser step `step`, from 1. What dropout drops follows from it and from the number of the training
    /// pass within the step.
    pub fn begin_step(&mut self, step: usize) {
        self.dropout.begin_step(step);
    }

    /// Runs a training pass: every adapter drops some of its inputs.
    fn with_dropout<R>(&mut self, pass: impl FnOnce(&mut Self) -> R) -> R {
        let masks = self.dropout.next_pass();
        self.set_dropout(masks);
        let result = pass(self);
        self.set_dropout(|_| None);
        result
    }

    fn set_dropout(&mut self, mask_of: impl Fn(usize) -> Option<Dropout>) {
        let linears = self.parameters.blocks.iter_mut().flat_map(|block| block.linear.each_mut());
        for (module, linear) in linears.enumerate() {
            if let Some(lora) = &mut linear.lora {
                lora.dropout = mask_of(module);
            }
        }
    }

    /// Runs `score` with the adapter off: the model is its base.
    pub fn without_adapter<R>(&mut self, score: impl FnOnce(&mut Self) -> R) -> R {
        self.enable_adapter(false);
        let result = score(self);
        self.enable_adapter(true);
        result
    }

    fn enable_adapter(&mut self, enabled: bool) {
        let linears = self.parameters.blocks.iter_mut().flat_map(|block| block.linear.each_mut());
        linears.filter_map(|linear| linear.lora.as_mut()).for_each(|lora| lora.enabled = enabled);
    }

    fn shape(&self, forest: &Forest) -> AttentionShape {
        AttentionShape {
            n_tokens: forest.n_tokens(),
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        }
    }

    /// The plan's name of the first buffer, in the order of computation, that the last forward pass left a NaN or an
    /// infinity in: `layers.3.gate`. Where activations are recomputed, only the blocks' inputs can be told apart.
    pub fn find_not_finite(&self) -> Option<String> {
        not_finite::find(&self.device, &self.plan, &self.buffers, self.batch)
    }

    fn upload(&mut self, forest: &Forest) {
        assert!(self.budget.holds(forest.budget()), "the batch {:?} exceeds {:?}", forest.budget(), self.budget);
        self.batch = forest.budget();
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
        let Buffers { x, layers, scratch, batch, .. } = &mut self.buffers;
        let table = self.parameters.embedding.weight(&self.trained);
        self.device.embedding_forward(&mut x[0], &batch.token_ids, table, shape.n_tokens);
        let n_sets = layers.len();
        for (index, block) in self.parameters.blocks.iter().enumerate() {
            let (before, after) = x.split_at_mut(index + 1);
            let (x, x_out, act) = (&before[index], &mut after[0], &mut layers[index % n_sets]);
            block.forward(&self.device, &self.trained, x, act, Some(x_out), scratch, batch, shape);
        }
    }

    /// Final norm, projection and loss of the labelled rows; with `backward`, fills `scratch.dx`.
    fn head(&mut self, forest: &Forest, backward: bool) {
        let (n_rows, n_tokens, hidden) = (forest.n_rows(), forest.n_tokens(), self.config.hidden_size);
        let (device, trained, eps) = (&self.device, &mut self.trained, self.config.rms_norm_eps);
        let Buffers { x, scratch, head, batch, .. } = &mut self.buffers;
        device.gather_rows(&mut head.x, &x[self.parameters.blocks.len()], &batch.rows, hidden, n_rows);
        let norm = self.parameters.final_norm.weight(trained);
        device.rms_norm_forward(&mut head.normed, &mut head.rstd, &head.x, norm, eps, n_rows);

        let projection = self.parameters.head();
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
        self.parameters.final_norm.with_grad(trained, |weight, d_weight| {
            device.rms_norm_backward(&mut head.dx, d_weight, &head.d_normed, &head.x, &head.rstd, weight, n_rows);
        });
        device.scatter_rows(&mut scratch.dx, &head.dx, &batch.rows, hidden, n_rows, n_tokens);
    }

    fn backward(&mut self, forest: &Forest) {
        let shape = self.shape(forest);
        let Buffers { x, layers, scratch, batch, .. } = &mut self.buffers;
        let (n_blocks, n_sets) = (self.parameters.blocks.len(), layers.len());
        for (index, block) in self.parameters.blocks.iter().enumerate().rev() {
            let (x, act) = (&x[index], &mut layers[index % n_sets]);
            // The shared set still holds the last block.
            if n_sets < n_blocks && index + 1 < n_blocks {
                block.forward(&self.device, &self.trained, x, act, None, scratch, batch, shape);
            }
            block.backward(&self.device, &mut self.trained, x, act, scratch, batch, shape);
        }
        if let Parameter::Trained(index) = self.parameters.embedding {
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

impl<D: Device> Parameters<D> {
    /// Reads them in the order in which their gradients are kept.
    pub(crate) fn load(loader: &mut Loader<'_, D>, config: &DecoderConfig) -> Result<Self> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let embedding = loader.parameter("model.embed_tokens.weight", vocab, hidden)?;
        let blocks = (0..config.num_hidden_layers).map(|layer| block(loader, config, layer)).collect::<Result<_>>()?;
        let final_norm = loader.parameter("model.norm.weight", 1, hidden)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(loader.parameter("lm_head.weight", vocab, hidden)?),
        };
        Ok(Self { embedding, blocks, final_norm, lm_head })
    }

    /// The projection onto the vocabulary.
    pub(crate) fn head(&self) -> &Parameter<D> {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }
}

fn block<D: Device>(loader: &mut Loader<'_, D>, config: &DecoderConfig, layer: usize) -> Result<Block<D>> {
    let hidden = config.hidden_size;
    let prefix = format!("model.layers.{layer}");
    let attn_norm = loader.parameter(&format!("{prefix}.input_layernorm.weight"), 1, hidden)?;
    let mlp_norm = loader.parameter(&format!("{prefix}.post_attention_layernorm.weight"), 1, hidden)?;
    let head_norms = match config.qk_norm {
        true => Some(HeadNorms {
            q: loader.parameter(&format!("{prefix}.self_attn.q_norm.weight"), 1, config.head_dim)?,
            k: loader.parameter(&format!("{prefix}.self_attn.k_norm.weight"), 1, config.head_dim)?,
        }),
        false => None,
    };
    let mut index = layer * MODULE_NAMES.len();
    let linear = MODULE_PATHS.try_map(|path| {
        let (out_features, in_features) = config.module_shape(path);
        let bias = config.module_bias(path);
        let module = Module { index, path: &format!("{prefix}.{path}"), bias, out_features, in_features };
        index += 1;
        loader.linear(module)
    })?;
    Ok(Block { attn_norm, mlp_norm, head_norms, linear, rms_norm_eps: config.rms_norm_eps })
}
