//! The parameters of a decoder, and where they are read from.

use super::block::Block;
use super::head_norm::HeadNorms;
use super::modules::{BlockLinear, MODULE_NAMES, MODULE_PATHS};
use crate::Result;
use crate::config::DecoderConfig;
use crate::device::Device;
use crate::linear::Parameter;
use crate::loader::{Loader, Module, Source};
use crate::plan::{PlanOptions, PlannedParameter};

/// All of them.
pub(crate) struct Parameters<D: Device> {
    pub(crate) embedding: Parameter<D>, // [vocab, hidden]
    pub(crate) blocks: Vec<Block<D>>,
    pub(crate) final_norm: Parameter<D>, // [1, hidden]
    /// `None` where the embedding table is the output projection.
    lm_head: Option<Parameter<D>>, // [vocab, hidden]
}

impl<D: Device> Parameters<D> {
    /// Reads them in the order in which their gradients are kept.
    pub(crate) fn load(loader: &mut Loader<'_, D>, config: &DecoderConfig) -> Result<Self> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let embedding = loader.matrix(EMBEDDING, vocab, hidden)?;
        let blocks = (0..config.num_hidden_layers).map(|layer| block(loader, config, layer)).collect::<Result<_>>()?;
        let final_norm = loader.vector(FINAL_NORM, hidden)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(loader.matrix(LM_HEAD, vocab, hidden)?),
        };
        Ok(Self { embedding, blocks, final_norm, lm_head })
    }

    /// The projection onto the vocabulary.
    pub(crate) fn head(&self) -> &Parameter<D> {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// Linear modules of all blocks.
    pub(crate) fn n_modules(&self) -> usize {
        self.blocks.len() * MODULE_NAMES.len()
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const FINAL_NORM: &str = "model.norm.weight";
const LM_HEAD: &str = "lm_head.weight";

impl Source<'_> {
    /// What a decoder's updates take.
    pub(crate) fn plan_options(&self) -> PlanOptions {
        let (adapted, dropout) = (MODULE_NAMES.map(|name| self.adapts(name)), self.lora_dropout().drops());
        PlanOptions { adapted, lora_rank: self.lora_rank(), dropout, ..PlanOptions::default() }
    }

    /// What [`Parameters::load`] will make of a decoder.
    ///
    /// # Errors
    /// Those of reading the model's tables of contents.
    pub(crate) fn planned_decoder(&self, config: &DecoderConfig) -> Result<Vec<PlannedParameter>> {
        let (hidden, vocab, head_dim) = (config.hidden_size, config.vocab_size, config.head_dim);
        let mut planned = self.planned_matrix(vocab, hidden);
        for layer in 0..config.num_hidden_layers {
            let (qkv, o, gate_up, down) = paths(layer);
            let n_norms = if config.qk_norm { 2 } else { 0 };
            planned.extend([hidden, hidden].map(|width| self.planned_vector(width)));
            planned.extend((0..n_norms).map(|_| self.planned_vector(head_dim)));
            planned.extend(self.planned_linear(modules(config, layer, 0, &qkv))?);
            planned.extend(self.planned_linear(modules(config, layer, 3, &o))?);
            planned.extend(self.planned_linear(modules(config, layer, 4, &gate_up))?);
            planned.extend(self.planned_linear(modules(config, layer, 6, &down))?);
        }
        planned.push(self.planned_vector(hidden));
        if !config.tie_word_embeddings {
            planned.extend(self.planned_matrix(vocab, hidden));
        }
        Ok(planned)
    }
}

/// Paths of a block's modules, by the input that they read.
fn paths(layer: usize) -> ([String; 3], [String; 1], [String; 2], [String; 1]) {
    let at = |path: &str| format!("model.layers.{layer}.{path}");
    let paths = &MODULE_PATHS;
    ([at(paths.q), at(paths.k), at(paths.v)], [at(paths.o)], [at(paths.gate), at(paths.up)], [at(paths.down)])
}

/// Modules of block `layer`, of which the first is number `first` of the block.
fn modules<'a, const N: usize>(
    config: &DecoderConfig,
    layer: usize,
    first: usize,
    paths: &'a [String; N],
) -> [Module<'a>; N] {
    std::array::from_fn(|i| {
        let path = &paths[i];
        let in_block = MODULE_PATHS.each()[first + i];
        let (out_features, in_features) = config.module_shape(in_block);
        let index = layer * MODULE_NAMES.len() + first + i;
        Module { index, path, bias: config.module_bias(in_block), out_features, in_features }
    })
}

fn block<D: Device>(loader: &mut Loader<'_, D>, config: &DecoderConfig, layer: usize) -> Result<Block<D>> {
    let hidden = config.hidden_size;
    let prefix = format!("model.layers.{layer}");
    let attn_norm = loader.vector(&format!("{prefix}.input_layernorm.weight"), hidden)?;
    let mlp_norm = loader.vector(&format!("{prefix}.post_attention_layernorm.weight"), hidden)?;
    let head_norms = match config.qk_norm {
        true => Some(HeadNorms {
            q: loader.vector(&format!("{prefix}.self_attn.q_norm.weight"), config.head_dim)?,
            k: loader.vector(&format!("{prefix}.self_attn.k_norm.weight"), config.head_dim)?,
        }),
        false => None,
    };
    let (qkv, o, gate_up, down) = paths(layer);
    let linear = BlockLinear {
        qkv: loader.linear(modules(config, layer, 0, &qkv))?,
        o: loader.linear(modules(config, layer, 3, &o))?,
        gate_up: loader.linear(modules(config, layer, 4, &gate_up))?,
        down: loader.linear(modules(config, layer, 6, &down))?,
    };
    Ok(Block { attn_norm, mlp_norm, head_norms, linear, rms_norm_eps: config.rms_norm_eps })
}
