//! The parameters of an encoder, and where they are read from.

use super::block::{EncoderBlock, EncoderLinear, PerEncoderModule};
use super::layer_norm::LayerNorm;
use crate::Result;
use crate::config::{EncoderConfig, Positions};
use crate::device::Device;
use crate::encoder::plan::EncoderPlanOptions;
use crate::linear::Parameter;
use crate::loader::{Loader, Module, Source, last_part};
use crate::plan::PlannedParameter;

/// All of them.
pub(super) struct Parameters<D: Device> {
    pub(super) embeddings: Embeddings<D>,
    pub(super) blocks: Vec<EncoderBlock<D>>,
}

pub(super) struct Embeddings<D: Device> {
    pub(super) word: Parameter<D>,       // [vocab, hidden]
    pub(super) token_type: Parameter<D>, // [type_vocab, hidden]
    /// `None` where positions are rotary.
    pub(super) position: Option<Parameter<D>>, // [rows, hidden]
    pub(super) norm: LayerNorm<D>,
}

impl<D: Device> Parameters<D> {
    /// Reads them in the order in which their gradients are kept.
    pub(super) fn load(loader: &mut Loader<'_, D>, config: &EncoderConfig) -> Result<Self> {
        let embeddings = embeddings(loader, config)?;
        let blocks = (0..config.num_hidden_layers).map(|layer| block(loader, config, layer)).collect::<Result<_>>()?;
        // PEFT adapts the pooler where `dense` is a target, and saves it: transformers builds one into every BERT. No
        // embedding goes through it, so its update has no gradient; it is carried along for the file.
        loader.lora(pooler(config), None);
        Ok(Self { embeddings, blocks })
    }

    /// Linear modules of all blocks.
    pub(super) fn n_modules(&self) -> usize {
        self.blocks.len() * N_MODULES
    }
}

/// Linear modules of a block.
const N_MODULES: usize = 6;

impl Source<'_> {
    /// What an encoder's updates take.
    pub(crate) fn encoder_plan_options(&self, config: &EncoderConfig) -> EncoderPlanOptions {
        let adapted = config.names.in_block().linear.map(|path| self.adapts(last_part(path)));
        EncoderPlanOptions { adapted, lora_rank: self.lora_rank(), dropout: self.lora_dropout().drops() }
    }

    /// What [`Parameters::load`] will make of an encoder.
    ///
    /// # Errors
    /// Those of reading the model's tables of contents.
    pub(crate) fn planned_encoder(&self, config: &EncoderConfig) -> Result<Vec<PlannedParameter>> {
        let hidden = config.hidden_size;
        let norm = || [hidden, hidden].map(|width| self.planned_vector(width));
        let mut planned = self.planned_matrix(config.vocab_size, hidden);
        planned.extend(self.planned_matrix(config.type_vocab_size, hidden));
        if let Positions::Learned { rows, .. } = config.positions {
            planned.extend(self.planned_matrix(rows, hidden));
        }
        planned.extend(norm());
        for layer in 0..config.num_hidden_layers {
            let paths = paths(config, layer);
            let PerEncoderModule { q, k, v, o, fc1, fc2 } = modules(config, layer, &paths);
            planned.extend(self.planned_linear([q, k, v])?);
            planned.extend(
                [o, fc1, fc2]
                    .into_iter()
                    .map(|module| self.planned_linear([module]))
                    .collect::<Result<Vec<_>>>()?
                    .concat(),
            );
            planned.extend([norm(), norm()].concat());
        }
        planned.extend(self.planned_lora(pooler(config)));
        Ok(planned)
    }
}

fn embeddings<D: Device>(loader: &mut Loader<'_, D>, config: &EncoderConfig) -> Result<Embeddings<D>> {
    let hidden = config.hidden_size;
    let mut table = |name: &str, rows| loader.matrix(&format!("embeddings.{name}.weight"), rows, hidden);
    let word = table("word_embeddings", config.vocab_size)?;
    let token_type = table("token_type_embeddings", config.type_vocab_size)?;
    let position = match config.positions {
        Positions::Learned { rows, .. } => Some(table("position_embeddings", rows)?),
        Positions::Rotary { .. } => None,
    };
    Ok(Embeddings { word, token_type, position, norm: layer_norm(loader, config, "embeddings.LayerNorm")? })
}

/// Paths of a block's modules.
fn paths(config: &EncoderConfig, layer: usize) -> PerEncoderModule<String> {
    let prefix = config.names.block(layer);
    config.names.in_block().linear.map(|path| format!("{prefix}.{path}"))
}

/// A block's modules.
fn modules<'a>(
    config: &EncoderConfig,
    layer: usize,
    paths: &'a PerEncoderModule<String>,
) -> PerEncoderModule<Module<'a>> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let module = |index: usize, path, out_features, in_features| Module {
        index: layer * N_MODULES + index,
        path,
        bias: true,
        out_features,
        in_features,
    };
    PerEncoderModule {
        q: module(0, &paths.q, hidden, hidden),
        k: module(1, &paths.k, hidden, hidden),
        v: module(2, &paths.v, hidden, hidden),
        o: module(3, &paths.o, hidden, hidden),
        fc1: module(4, &paths.fc1, intermediate, hidden),
        fc2: module(5, &paths.fc2, hidden, intermediate),
    }
}

fn pooler(config: &EncoderConfig) -> Module<'static> {
    let (index, hidden) = (config.num_hidden_layers * N_MODULES, config.hidden_size);
    Module { index, path: "pooler.dense", bias: true, out_features: hidden, in_features: hidden }
}

fn block<D: Device>(loader: &mut Loader<'_, D>, config: &EncoderConfig, layer: usize) -> Result<EncoderBlock<D>> {
    let (prefix, names, paths) = (config.names.block(layer), config.names.in_block(), paths(config, layer));
    let PerEncoderModule { q, k, v, o, fc1, fc2 } = modules(config, layer, &paths);
    let linear = EncoderLinear {
        qkv: loader.linear([q, k, v])?,
        o: loader.linear([o])?,
        fc1: loader.linear([fc1])?,
        fc2: loader.linear([fc2])?,
    };
    let attn_norm = layer_norm(loader, config, &format!("{prefix}.{}", names.attn_norm))?;
    let mlp_norm = layer_norm(loader, config, &format!("{prefix}.{}", names.mlp_norm))?;
    Ok(EncoderBlock { linear, attn_norm, mlp_norm, rotary: matches!(config.positions, Positions::Rotary { .. }) })
}

fn layer_norm<D: Device>(loader: &mut Loader<'_, D>, config: &EncoderConfig, path: &str) -> Result<LayerNorm<D>> {
    let mut vector = |name: &str| loader.vector(&format!("{path}.{name}"), config.hidden_size);
    Ok(LayerNorm { weight: vector("weight")?, bias: vector("bias")?, eps: config.layer_norm_eps })
}
