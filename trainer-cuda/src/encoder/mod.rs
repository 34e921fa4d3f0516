//! A text encoder: embeddings, post-norm blocks, pooling and scaling over a [`TextBatch`].

pub mod block;
pub mod buffers;
pub mod layer_norm;
pub mod names;
pub mod plan;
pub mod text_batch;

use crate::config::{EncoderConfig, Pooling, Positions, Precision, RopeScaling};
use crate::device::{AttentionShape, Device, Dropout, Trainable};
use crate::dropout::LoraDropout;
use crate::encoder::block::EncoderBlock;
use crate::encoder::buffers::EncoderBuffers;
use crate::encoder::layer_norm::LayerNorm;
use crate::encoder::text_batch::{TextBatch, TextBudget};
use crate::formats::peft::NamedTensor;
use crate::formats::{Adapter, BaseModel};
use crate::linear::Parameter;
use crate::loader::{Loader, Module, Training};
use crate::plan::MemoryPlan;
use crate::rope::{self, Rope};
use crate::{Result, adapter};

/// The model on a device, with its buffers.
pub struct Encoder<D: Device> {
    device: D,
    config: EncoderConfig,
    embeddings: Embeddings<D>,
    blocks: Vec<EncoderBlock<D>>,
    trained: Vec<Trainable<D>>,
    dropout: LoraDropout,
    buffers: EncoderBuffers<D>,
    budget: TextBudget,
    /// Tokens and texts of the last forward pass.
    last: (usize, usize),
}

struct Embeddings<D: Device> {
    word: Parameter<D>,       // [vocab, hidden]
    token_type: Parameter<D>, // [type_vocab, hidden]
    /// `None` where positions are rotary.
    position: Option<Parameter<D>>, // [rows, hidden]
    norm: LayerNorm<D>,
}

impl<D: Device> Encoder<D> {
    /// Loads `base` and allocates buffers for batches up to `budget`.
    ///
    /// # Errors
    /// Those of reading the model; [`TrainerError::WrongKind`](crate::TrainerError::WrongKind) for a decoder;
    /// [`TrainerError::NoLoraTarget`](crate::TrainerError::NoLoraTarget).
    pub fn load(device: D, base: &BaseModel, training: Training<'_>, budget: TextBudget) -> Result<Self> {
        let config = base.encoder()?.clone();
        let mut loader = Loader::new(&device, base, training, config.names.module_names())?;
        let linear = config.names.in_block().linear;
        let adapted = linear.try_map(|path| Ok::<_, crate::TrainerError>(loader.adapts(last_part(path))))?;
        let dropout = loader.lora_dropout();
        let plan = MemoryPlan::of_encoder(&config, budget, adapted, loader.lora_rank(), dropout.drops());
        let mut buffers = EncoderBuffers::new(&device, &plan, config.num_hidden_layers);
        if let Positions::Rotary { theta } = config.positions {
            let rope = Rope { head_dim: config.head_dim(), theta, scaling: RopeScaling::None };
            let (cos, sin) = rope::tables(&rope, budget.max_length);
            device.write_f32(&mut buffers.batch.rope_cos, &cos);
            device.write_f32(&mut buffers.batch.rope_sin, &sin);
        }

        let embeddings = embeddings(&mut loader, &config)?;
        let blocks =
            (0..config.num_hidden_layers).map(|layer| block(&mut loader, &config, layer)).collect::<Result<_>>()?;
        pooler_adapter(&mut loader, &config);
        let trained = loader.into_trained();
        Ok(Self { device, config, embeddings, blocks, trained, dropout, buffers, budget, last: (0, 0) })
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
        adapter.write_to(&encoder.device, &mut encoder.trained);
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

    /// What its buffers hold.
    pub fn budget(&self) -> TextBudget {
        self.budget
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
    /// [`TrainerError::Config`](crate::TrainerError::Config) where the names or shapes are not exactly those being trained.
    pub fn write_adapter(&mut self, tensors: &[NamedTensor]) -> Result<()> {
        adapter::write(&self.device, &mut self.trained, tensors)
    }

    /// Runs `score` with the adapter off: the model is its base.
    pub fn without_adapter<R>(&mut self, score: impl FnOnce(&mut Self) -> R) -> R {
        self.enable_adapter(false);
        let result = score(self);
        self.enable_adapter(true);
        result
    }

    fn enable_adapter(&mut self, enabled: bool) {
        let linears = self.blocks.iter_mut().flat_map(|block| block.linear.each_mut());
        linears.filter_map(|linear| linear.lora.as_mut()).for_each(|lora| lora.enabled = enabled);
    }

    /// The embedding of each text, in as many batches as the buffers need.
    ///
    /// # Panics
    /// Where a text has no token, or more than the budget.
    pub fn embed(&mut self, texts: &[&[u32]]) -> Vec<Vec<f32>> {
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
        embeddings
    }

    /// The embedding of each segment, row-major: `[n_segments, hidden]`.
    pub fn forward(&mut self, batch: &TextBatch) -> Vec<f32> {
        self.upload(batch);
        self.embed_tokens(batch.n_tokens());
        let shape = self.shape(batch.n_tokens());
        let EncoderBuffers { layers, x_final, scratch, batch: texts, .. } = &mut self.buffers;
        for (index, block) in self.blocks.iter().enumerate() {
            let (before, after) = layers.split_at_mut(index + 1);
            let x_out = after.first_mut().map_or(&mut *x_final, |next| &mut next.x);
            block.forward(&self.device, &self.trained, &mut before[index], x_out, scratch, texts, shape);
        }
        self.pool(batch.n_segments())
    }

    /// Starts optimiser step `step`, from 1. What dropout drops follows from it and from the number of the training
    /// pass within the step.
    pub fn begin_step(&mut self, step: usize) {
        self.dropout.begin_step(step);
    }

    /// A training pass: every adapter drops some of its inputs. `d_embeddings` turns the embeddings, which are those of
    /// [`Encoder::forward`], into the loss's derivative by them, whose gradient is added to every trained tensor.
    pub fn forward_then_backward(&mut self, batch: &TextBatch, d_embeddings: impl FnOnce(&[f32]) -> Vec<f32>) {
        let masks = self.dropout.next_pass();
        self.set_dropout(masks);
        let embeddings = self.forward(batch);
        self.backward(batch, &d_embeddings(&embeddings));
        self.set_dropout(|_| None);
    }

    fn set_dropout(&mut self, mask_of: impl Fn(usize) -> Option<Dropout>) {
        let linears = self.blocks.iter_mut().flat_map(|block| block.linear.each_mut());
        for (module, linear) in linears.enumerate() {
            if let Some(lora) = &mut linear.lora {
                lora.dropout = mask_of(module);
            }
        }
    }

    fn backward(
        &mut self,
        batch: &TextBatch,
        d_embeddings: &[f32], // [n_segments, hidden]
    ) {
        self.pool_backward(batch, d_embeddings);
        let shape = self.shape(batch.n_tokens());
        let EncoderBuffers { layers, scratch, batch: texts, .. } = &mut self.buffers;
        for (block, act) in self.blocks.iter().zip(layers.iter_mut()).rev() {
            block.backward(&self.device, &mut self.trained, act, scratch, texts, shape);
        }
        self.embed_tokens_backward(batch.n_tokens());
    }

    /// The first buffer of the last forward pass that holds a NaN or an infinity: `layers.3.q`.
    pub fn find_not_finite(&self) -> Option<String> {
        let (n_tokens, n_segments) = self.last;
        let (hidden, intermediate) = (self.config.hidden_size, self.config.intermediate_size);
        let broken =
            |buffer: &D::Act, len: usize| self.device.read_act(buffer, len).iter().any(|value| !value.is_finite());
        let EncoderBuffers { layers, embeddings, x_final, pool, .. } = &self.buffers;
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

    fn shape(&self, n_tokens: usize) -> AttentionShape {
        let heads = self.config.num_attention_heads;
        AttentionShape { n_tokens, heads, kv_heads: heads, head_dim: self.config.head_dim() }
    }

    fn upload(&mut self, batch: &TextBatch) {
        assert!(self.budget.holds(batch.budget()), "the batch {:?} exceeds {:?}", batch.budget(), self.budget);
        let (device, texts) = (&self.device, &mut self.buffers.batch);
        let offset = match self.config.positions {
            Positions::Learned { offset, .. } => offset as u32,
            Positions::Rotary { .. } => 0,
        };
        let position: Vec<u32> = batch.position.iter().map(|place| place + offset).collect();
        device.write_index(&mut texts.token_ids, &batch.token_ids);
        device.write_index(&mut texts.position, &position);
        device.write_index(&mut texts.segment_start, &batch.segment_start);
        device.write_index(&mut texts.segment_end, &batch.segment_end);
        device.write_index(&mut texts.offsets, &batch.offsets);
        self.last = (batch.n_tokens(), batch.n_segments());
    }

    /// Input of the first block: the normalised sum of word, token type and position, added in transformers' order.
    fn embed_tokens(&mut self, n_tokens: usize) {
        let (device, trained) = (&self.device, &self.trained);
        let Embeddings { word, token_type, position, norm } = &self.embeddings;
        let EncoderBuffers { layers, embeddings, x_final, scratch, batch, .. } = &mut self.buffers;
        let (sum, part) = (&mut scratch.x_mid, &mut scratch.proj);
        let len = n_tokens * self.config.hidden_size;
        let typed = if position.is_some() { &mut scratch.dx } else { &mut embeddings.x };
        device.embedding_forward(sum, &batch.token_ids, word.weight(trained), n_tokens);
        device.embedding_forward(part, &batch.token_type, token_type.weight(trained), n_tokens);
        device.add(typed, sum, part, len);
        if let Some(position) = position {
            device.embedding_forward(part, &batch.position, position.weight(trained), n_tokens);
            device.add(&mut embeddings.x, &scratch.dx, part, len);
        }
        let x_first = layers.first_mut().map_or(x_final, |layer| &mut layer.x);
        norm.forward(device, trained, x_first, embeddings, n_tokens);
    }

    /// From `scratch.dx`, the gradient of the first block's input, to the tables, where they are trained.
    fn embed_tokens_backward(&mut self, n_tokens: usize) {
        let Embeddings { word, token_type, position, norm } = &self.embeddings;
        let Parameter::Trained(_) = word else { return };
        let (device, trained, hidden) = (&self.device, &mut self.trained, self.config.hidden_size);
        let EncoderBuffers { embeddings, scratch, batch, .. } = &mut self.buffers;
        norm.backward(device, trained, &mut scratch.d_sum, &scratch.dx, embeddings, n_tokens);
        let tables = [
            (Some(word), &batch.token_ids),
            (Some(token_type), &batch.token_type),
            (position.as_ref(), &batch.position),
        ];
        for (table, rows) in tables {
            if let Some(&Parameter::Trained(index)) = table {
                device.embedding_backward(&mut trained[index].grad, &scratch.d_sum, rows, hidden, n_tokens);
            }
        }
    }

    fn pool(&mut self, n_segments: usize) -> Vec<f32> {
        let (device, hidden) = (&self.device, self.config.hidden_size);
        let EncoderBuffers { x_final, pool, batch, .. } = &mut self.buffers;
        match self.config.pooling {
            Pooling::Mean => device.mean_pool_forward(&mut pool.pooled, x_final, &batch.offsets, hidden, n_segments),
            Pooling::Cls => device.gather_rows(&mut pool.pooled, x_final, &batch.offsets, hidden, n_segments),
        }
        if !self.config.normalize {
            return device.read_act(&pool.pooled, n_segments * hidden);
        }
        device.l2_normalize_forward(&mut pool.scaled, &mut pool.norm, &pool.pooled, hidden, n_segments);
        device.read_act(&pool.scaled, n_segments * hidden)
    }

    fn pool_backward(&mut self, batch: &TextBatch, d_embeddings: &[f32]) {
        let (n_segments, n_tokens) = (batch.n_segments(), batch.n_tokens());
        let (device, hidden) = (&self.device, self.config.hidden_size);
        let EncoderBuffers { scratch, pool, batch, .. } = &mut self.buffers;
        if self.config.normalize {
            device.write_act(&mut pool.d_scaled, d_embeddings);
            let (d_pooled, d_scaled) = (&mut pool.d_pooled, &pool.d_scaled);
            device.l2_normalize_backward(d_pooled, d_scaled, &pool.scaled, &pool.norm, hidden, n_segments);
        } else {
            device.write_act(&mut pool.d_pooled, d_embeddings);
        }
        let (dx, d_pooled) = (&mut scratch.dx, &pool.d_pooled);
        match self.config.pooling {
            Pooling::Mean => device.mean_pool_backward(dx, d_pooled, &batch.offsets, hidden, n_segments),
            Pooling::Cls => device.scatter_rows(dx, d_pooled, &batch.offsets, hidden, n_segments, n_tokens),
        }
    }
}

fn embeddings<D: Device>(loader: &mut Loader<'_, D>, config: &EncoderConfig) -> Result<Embeddings<D>> {
    let hidden = config.hidden_size;
    let mut table = |name: &str, rows| loader.parameter(&format!("embeddings.{name}.weight"), rows, hidden);
    let word = table("word_embeddings", config.vocab_size)?;
    let token_type = table("token_type_embeddings", config.type_vocab_size)?;
    let position = match config.positions {
        Positions::Learned { rows, .. } => Some(table("position_embeddings", rows)?),
        Positions::Rotary { .. } => None,
    };
    Ok(Embeddings { word, token_type, position, norm: layer_norm(loader, config, "embeddings.LayerNorm")? })
}

fn block<D: Device>(loader: &mut Loader<'_, D>, config: &EncoderConfig, layer: usize) -> Result<EncoderBlock<D>> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let (prefix, names) = (config.names.block(layer), config.names.in_block());
    let n_modules = names.linear.each().len();
    let mut index = layer * n_modules;
    let linear = names.linear.try_map(|&path| {
        let (out_features, in_features) = match path {
            path if path == names.linear.fc1 => (intermediate, hidden),
            path if path == names.linear.fc2 => (hidden, intermediate),
            _ => (hidden, hidden),
        };
        let module = Module { index, path: &format!("{prefix}.{path}"), bias: true, out_features, in_features };
        index += 1;
        loader.linear(module)
    })?;
    let attn_norm = layer_norm(loader, config, &format!("{prefix}.{}", names.attn_norm))?;
    let mlp_norm = layer_norm(loader, config, &format!("{prefix}.{}", names.mlp_norm))?;
    Ok(EncoderBlock { linear, attn_norm, mlp_norm, rotary: matches!(config.positions, Positions::Rotary { .. }) })
}

fn layer_norm<D: Device>(loader: &mut Loader<'_, D>, config: &EncoderConfig, path: &str) -> Result<LayerNorm<D>> {
    let mut vector = |name: &str| loader.parameter(&format!("{path}.{name}"), 1, config.hidden_size);
    Ok(LayerNorm { weight: vector("weight")?, bias: vector("bias")?, eps: config.layer_norm_eps })
}

/// PEFT adapts the pooler where `dense` is a target, and saves it: transformers builds one into every BERT. No embedding
/// goes through it, so its update has no gradient; it is carried along for the file.
fn pooler_adapter<D: Device>(loader: &mut Loader<'_, D>, config: &EncoderConfig) {
    let hidden = config.hidden_size;
    let index = config.num_hidden_layers * config.names.in_block().linear.each().len();
    let module = Module { index, path: "pooler.dense", bias: true, out_features: hidden, in_features: hidden };
    loader.lora(module);
}

fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
