//! What a model is, what LoRA adds, how a run trains.

use crate::rope::Rope;
use crate::schedule::LearningRate;
use serde::{Deserialize, Serialize};

/// A model's constants: what kind it is decides what can be trained on it.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// A causal language model: SFT and DPO.
    Decoder(DecoderConfig),
    /// A text embedding model: triplets.
    Encoder(EncoderConfig),
}

impl ModelConfig {
    /// Rows of the embedding table.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Decoder(config) => config.vocab_size,
            Self::Encoder(config) => config.vocab_size,
        }
    }

    /// Its name in `config.json`: `LlamaForCausalLM`.
    pub fn architecture(&self) -> &str {
        match self {
            Self::Decoder(config) => &config.architecture,
            Self::Encoder(config) => &config.architecture,
        }
    }

    /// Longest sequence that the model takes, in tokens.
    pub fn max_length(&self) -> usize {
        match self {
            Self::Decoder(config) => config.max_position_embeddings,
            Self::Encoder(config) => config.max_length,
        }
    }
}

/// An encoder's constants, under the names of Hugging Face's `config.json` and of sentence-transformers' module files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// `BertModel`, `XLMRobertaModel`, `JinaEmbeddingsV3Model`.
    pub architecture: String,
    /// What its tensors are called.
    pub names: EncoderNames,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads, each `hidden_size / num_attention_heads` wide.
    pub num_attention_heads: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Rows of the token type table; every token is of type 0.
    pub type_vocab_size: usize,
    /// Epsilon inside LayerNorm's square root.
    pub layer_norm_eps: f32,
    /// How a token knows its place.
    pub positions: Positions,
    /// Longest text in tokens, special ones included: sentence-transformers' `max_seq_length`, or what the position
    /// table holds.
    pub max_length: usize,
    /// How token states become one embedding.
    pub pooling: Pooling,
    /// True where embeddings are scaled to length 1 (sentence-transformers' `Normalize` module).
    pub normalize: bool,
}

impl EncoderConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

/// Whose tensor names an encoder has in transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncoderNames {
    /// `encoder.layer.0.attention.self.query`: BERT and XLM-RoBERTa.
    Bert,
    /// `layers.0.self_attn.q_proj`: jina-embeddings-v3.
    Jina,
}

/// How an encoder's token knows its place.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Positions {
    /// A learned table; the first token reads row `offset` (BERT 0, XLM-RoBERTa `pad_token_id + 1`).
    Learned {
        /// Row of the first token.
        offset: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// Rotated queries and keys.
    Rotary {
        /// Base of the frequencies.
        theta: f64,
    },
}

/// How token states become one embedding (sentence-transformers' `Pooling` module).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over all tokens, the special ones included.
    Mean,
    /// The first token.
    Cls,
}

/// A decoder's constants, under the names of Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// `LlamaForCausalLM`, `Qwen2ForCausalLM`, `Qwen3ForCausalLM`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Longest sequence that the model was made for.
    pub max_position_embeddings: usize,
    /// Epsilon inside RMSNorm's square root.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Frequency scaling.
    pub rope_scaling: RopeScaling,
    /// True where `lm_head` is the embedding table.
    pub tie_word_embeddings: bool,
    /// True where `q_proj`, `k_proj` and `v_proj` have biases: Qwen2 always, others by `attention_bias`.
    pub qkv_bias: bool,
    /// True where `o_proj` has one too: `attention_bias` of Llama and Qwen3.
    pub o_bias: bool,
    /// True where the three layers of the MLP have biases.
    pub mlp_bias: bool,
    /// True where an RMSNorm of width `head_dim` stands between a query or key head and its rotation (Qwen3).
    pub qk_norm: bool,
    /// First token of a text, where the tokenizer adds one.
    pub bos_token_id: Option<u32>,
    /// Token that ends a completion.
    pub eos_token_id: Option<u32>,
    /// Token that pads a batch; unused by the forest, kept for export.
    pub pad_token_id: Option<u32>,
}

impl DecoderConfig {
    /// What rotates its queries and keys.
    pub fn rope(&self) -> Rope {
        Rope { head_dim: self.head_dim, theta: self.rope_theta, scaling: self.rope_scaling }
    }

    /// `(out_features, in_features)` of a block's linear module, by its path: `self_attn.q_proj`.
    pub fn module_shape(&self, path: &str) -> (usize, usize) {
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        match path {
            "self_attn.q_proj" => (q, self.hidden_size),
            "self_attn.k_proj" | "self_attn.v_proj" => (kv, self.hidden_size),
            "self_attn.o_proj" => (self.hidden_size, q),
            "mlp.gate_proj" | "mlp.up_proj" => (self.intermediate_size, self.hidden_size),
            "mlp.down_proj" => (self.hidden_size, self.intermediate_size),
            _ => panic!("`{path}` is no module of a block"),
        }
    }

    /// True where a block's linear module has a bias, by its path.
    pub fn module_bias(&self, path: &str) -> bool {
        match path {
            "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" => self.qkv_bias,
            "self_attn.o_proj" => self.o_bias,
            _ => self.mlp_bias,
        }
    }
}

/// How rotary frequencies are stretched beyond the length the model was pre-trained at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// `rope_type: default`.
    None,
    /// `rope_type: linear`: every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// `rope_type: llama3` (transformers `_compute_llama3_parameters`).
    Llama3 {
        /// Divisor of the long wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are divided whole.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` stay.
        high_freq_factor: f64,
        /// The length of pre-training.
        original_max_position_embeddings: usize,
    },
}

/// Which modules get a low-rank update, and of what size (Hu et al. 2021).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the update.
    pub rank: usize,
    /// Numerator of the scaling `alpha / rank`.
    pub alpha: f32,
    /// Share of the update's inputs that training drops, from 0 to below 1, as PEFT does; scores drop none.
    pub dropout: f32,
    /// Module names (`q_proj`), or `all-linear`.
    pub target_modules: TargetModules,
    /// rsLoRA (Kalajdzievski 2023): scaling `alpha / sqrt(rank)`.
    pub use_rslora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.0, target_modules: TargetModules::default(), use_rslora: false }
    }
}

impl LoraConfig {
    /// The factor on the update.
    pub fn scaling(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

/// The modules that LoRA adapts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// The word `all-linear`: every linear layer but the output projection, as PEFT means it.
    Named(String),
    /// A list of module names.
    List(Vec<String>),
}

impl Default for TargetModules {
    fn default() -> Self {
        Self::Named("all-linear".into())
    }
}

impl TargetModules {
    /// Of the model's linear modules, those that are wanted.
    ///
    /// # Errors
    /// [`TrainerError::NoLoraTarget`](crate::TrainerError::NoLoraTarget) where a name is not among `modules`.
    pub fn select(&self, modules: &[&'static str]) -> crate::Result<Vec<&'static str>> {
        let names = match self {
            Self::Named(name) if name == "all-linear" => return Ok(modules.to_vec()),
            Self::Named(name) => std::slice::from_ref(name),
            Self::List(names) => names,
        };
        if names.is_empty() || names.iter().any(|name| !modules.contains(&name.as_str())) {
            let modules = modules.iter().map(ToString::to_string).collect();
            return Err(crate::TrainerError::NoLoraTarget { targets: names.to_vec(), modules });
        }
        Ok(modules.iter().copied().filter(|module| names.iter().any(|name| name == module)).collect())
    }
}

/// How the matrices that a run does not train are stored, and what products with them are computed in. Low-rank updates,
/// norms, biases and the optimiser are f32 always; so is everything where every weight is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Stored and multiplied in f32.
    #[default]
    F32,
    /// Stored in bf16: half the memory. Where the processor multiplies bf16, so do products with them, forward and
    /// backward, over activations rounded to bf16 and with f32 sums; elsewhere they are widened and multiplied in f32.
    Bf16,
    /// Kept as the file stores them (a GGUF's blocks, a folder's bf16 or f16), widened piece by piece for each
    /// product, and multiplied in f32: the memory of the file, the results of `f32`.
    Quantized,
}

/// How a run trains. The defaults are the reference document's, with no warmup: 50 examples make 39 steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the training set.
    pub epochs: usize,
    /// Examples per micro-batch.
    pub batch_size: usize,
    /// Micro-batches per optimiser step.
    pub gradient_accumulation_steps: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// How it falls.
    pub lr_scheduler: crate::schedule::Schedule,
    /// Share of the steps that the rate rises for.
    pub warmup_ratio: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f32,
    /// Largest gradient norm; 0 turns clipping off.
    pub max_grad_norm: f32,
    /// Seeds the shuffle and LoRA's initial values.
    pub seed: u64,
    /// False trains every weight.
    pub use_lora: bool,
    /// The low-rank update.
    pub lora: LoraConfig,
    /// True keeps only the input of each block for the backward pass and computes the rest again there: the same
    /// bytes, buffers of 139 MiB instead of 601 (SmolLM2-135M, 800 tokens), 27% more time.
    pub recompute: bool,
    /// Of preference pairs.
    pub dpo: DpoConfig,
    /// Of triplets.
    pub triplet: TripletConfig,
    /// Optimiser steps between two evaluations on the held-out set; `None` evaluates after each epoch.
    pub eval_steps: Option<usize>,
    /// Evaluations without a lower held-out loss after which the run stops; the weights with the lowest are kept.
    /// `None` trains to the end and keeps the last weights.
    pub early_stopping_patience: Option<usize>,
    /// How the frozen matrices are stored.
    pub precision: Precision,
    /// Ranks that share every step, this one among them: buffers are made for a share. It changes no result, and no
    /// checkpoint knows it.
    #[serde(skip)]
    pub world_size: usize,
}

/// Direct preference optimisation (Rafailov et al. 2023).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// How strongly the reference holds the policy back.
    pub beta: f64,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

/// Triplet loss `max(0, margin + d(anchor, positive) - d(anchor, negative))`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TripletConfig {
    /// The distance `d`.
    pub distance: Distance,
    /// How much nearer the positive has to be.
    pub margin: f32,
}

impl Default for TripletConfig {
    fn default() -> Self {
        Self { distance: Distance::Cosine, margin: 0.5 }
    }
}

/// How far two embeddings are apart, as sentence-transformers' `TripletDistanceMetric` defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// `1 - cos(a, b)`.
    Cosine,
    /// `|a - b|`.
    Euclidean,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 3,
            batch_size: 4,
            gradient_accumulation_steps: 1,
            learning_rate: 2e-4,
            lr_scheduler: crate::schedule::Schedule::Linear,
            warmup_ratio: 0.0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            seed: 42,
            use_lora: true,
            lora: LoraConfig::default(),
            recompute: false,
            dpo: DpoConfig::default(),
            triplet: TripletConfig::default(),
            eval_steps: None,
            early_stopping_patience: None,
            precision: Precision::F32,
            world_size: 1,
        }
    }
}

impl TrainConfig {
    /// Refuses what cannot train on `n_examples`.
    ///
    /// # Errors
    /// [`TrainerError::EmptyDataset`](crate::TrainerError::EmptyDataset); those of [`TrainConfig::validate`];
    /// [`TrainerError::Config`](crate::TrainerError::Config) where the warmup is as long as the run.
    pub fn validate_for(&self, n_examples: usize) -> crate::Result<()> {
        if n_examples == 0 {
            return Err(crate::TrainerError::EmptyDataset);
        }
        self.validate()?;
        let total_steps = self.steps_per_epoch(n_examples) * self.epochs;
        LearningRate::new(self.learning_rate, self.lr_scheduler, self.warmup_ratio, total_steps).map(drop)
    }

    /// Optimiser steps of one pass over `n_examples`.
    pub fn steps_per_epoch(&self, n_examples: usize) -> usize {
        n_examples.div_ceil(self.batch_size).div_ceil(self.gradient_accumulation_steps)
    }

    /// Refuses what cannot train.
    ///
    /// # Errors
    /// [`TrainerError::Config`](crate::TrainerError::Config), naming the key.
    pub fn validate(&self) -> crate::Result<()> {
        let refuse = |what: String| Err(crate::TrainerError::Config(what));
        for (key, value) in [
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("lora.rank", self.lora.rank),
            ("eval_steps", self.eval_steps.unwrap_or(1)),
            ("early_stopping_patience", self.early_stopping_patience.unwrap_or(1)),
        ] {
            if value == 0 {
                return refuse(format!("`{key}` must be at least 1"));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return refuse(format!("`learning_rate` must be above 0, not {}", self.learning_rate));
        }
        if !(0.0..1.0).contains(&self.warmup_ratio) {
            return refuse(format!("`warmup_ratio` must be from 0 to below 1, not {}", self.warmup_ratio));
        }
        if !(0.0..1.0).contains(&self.lora.dropout) {
            return refuse(format!("`lora.dropout` must be from 0 to below 1, not {}", self.lora.dropout));
        }
        if !(self.dpo.beta > 0.0 && self.dpo.beta.is_finite()) {
            return refuse(format!("`dpo.beta` must be above 0, not {}", self.dpo.beta));
        }
        if !(self.triplet.margin > 0.0 && self.triplet.margin.is_finite()) {
            return refuse(format!("`triplet.margin` must be above 0, not {}", self.triplet.margin));
        }
        for (key, value) in [("weight_decay", self.weight_decay), ("max_grad_norm", self.max_grad_norm)] {
            if !(value >= 0.0 && value.is_finite()) {
                return refuse(format!("`{key}` must be 0 or more, not {value}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small Llama for tests of code that reads a configuration.
    pub(crate) fn llama() -> DecoderConfig {
        DecoderConfig {
            architecture: "LlamaForCausalLM".into(),
            hidden_size: 48,
            intermediate_size: 96,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 12,
            vocab_size: 400,
            max_position_embeddings: 512,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            tie_word_embeddings: true,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            bos_token_id: None,
            eos_token_id: Some(2),
            pad_token_id: None,
        }
    }

    #[test]
    fn a_target_module_that_is_not_there_lists_those_that_are() {
        let targets = TargetModules::List(vec!["q_proj".into(), "query".into()]);
        let error = targets.select(&["q_proj", "v_proj"]).expect_err("`query` is not a module");
        assert_eq!(
            error.to_string(),
            "no module matches the LoRA target modules `q_proj`, `query`; the model has `q_proj`, `v_proj`"
        );
    }

    #[test]
    fn all_linear_takes_every_module_and_a_list_keeps_the_models_order() {
        let modules = ["q_proj", "k_proj", "v_proj"];
        assert_eq!(TargetModules::default().select(&modules).expect("all"), modules);
        let list = TargetModules::List(vec!["v_proj".into(), "q_proj".into()]);
        assert_eq!(list.select(&modules).expect("both are there"), ["q_proj", "v_proj"]);
    }
}
