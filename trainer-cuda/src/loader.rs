//! Reads a base model into parameters, frozen or trained, and starts the low-rank updates beside them.

use crate::config::{LoraConfig, Precision, TrainConfig};
use crate::device::{Device, Trainable};
use crate::dropout::LoraDropout;
use crate::formats::BaseModel;
use crate::linear::{Linear, Lora, Parameter};
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
        /// How the base's matrices are stored.
        precision: Precision,
    },
    /// Every parameter.
    Full,
    /// Nothing: the model is only run.
    Nothing {
        /// How the matrices are held.
        precision: Precision,
    },
}

impl<'a> Training<'a> {
    /// What a run's configuration trains.
    pub fn of(config: &'a TrainConfig) -> Self {
        match config.use_lora {
            true => Self::Lora { config: &config.lora, seed: config.seed, precision: config.precision },
            false => Self::Full,
        }
    }
}

/// Reads a base model into parameters, frozen or trained.
pub struct Loader<'a, D: Device> {
    device: &'a D,
    base: &'a BaseModel,
    training: Training<'a>,
    /// Last parts of the module paths that get a low-rank update.
    targets: Vec<&'static str>,
    trained: Vec<Trainable<D>>,
}

/// A linear layer to load.
#[derive(Debug, Clone, Copy)]
pub struct Module<'a> {
    /// Its number in the model: seeds the update, so that its values don't depend on which others are adapted.
    pub index: usize,
    /// Path of the module; its last part is what LoRA's target modules name.
    pub path: &'a str,
    /// Whether it has a bias.
    pub bias: bool,
    /// Rows of its matrix.
    pub out_features: usize,
    /// Columns of its matrix.
    pub in_features: usize,
}

impl<'a, D: Device> Loader<'a, D> {
    /// `module_names`: what LoRA's target modules may name.
    ///
    /// # Errors
    /// [`TrainerError::NoLoraTarget`].
    pub fn new(
        device: &'a D,
        base: &'a BaseModel,
        training: Training<'a>,
        module_names: &[&'static str],
    ) -> Result<Self> {
        let targets = match training {
            Training::Lora { config, .. } => config.target_modules.select(module_names)?,
            Training::Full | Training::Nothing { .. } => Vec::new(),
        };
        Ok(Self { device, base, training, targets, trained: Vec::new() })
    }

    /// True where the module gets a low-rank update.
    pub fn adapts(&self, module_name: &str) -> bool {
        self.targets.contains(&module_name)
    }

    /// Rank of the updates; 0 where there are none.
    pub fn lora_rank(&self) -> usize {
        match self.training {
            Training::Lora { config, .. } => config.rank,
            Training::Full | Training::Nothing { .. } => 0,
        }
    }

    /// What the updates drop of their inputs in training.
    pub fn lora_dropout(&self) -> LoraDropout {
        match self.training {
            Training::Lora { config, seed, .. } => LoraDropout::new(config.dropout, seed),
            Training::Full | Training::Nothing { .. } => LoraDropout::new(0.0, 0),
        }
    }

    /// The tensors being trained, in the order they were loaded.
    pub fn into_trained(self) -> Vec<Trainable<D>> {
        self.trained
    }

    /// A matrix of the base, or a vector where `rows` is 1.
    ///
    /// # Errors
    /// Those of reading it; [`TrainerError::Corrupt`] where its shape is another.
    pub fn parameter(&mut self, name: &str, rows: usize, cols: usize) -> Result<Parameter<D>> {
        let tensor = self.base.stored(name)?;
        let (shape, expected) = (tensor.shape(), if rows == 1 { &[cols][..] } else { &[rows, cols] });
        // A table of one row (token types) is a matrix on disk.
        if shape != expected && shape != [rows, cols] {
            return Err(TrainerError::Corrupt {
                path: self.base.path().to_owned(),
                what: format!("tensor `{name}` has shape {shape:?}, the configuration wants {expected:?}"),
            });
        }
        Ok(match self.training {
            Training::Lora { precision, .. } | Training::Nothing { precision } if rows > 1 => {
                Parameter::Frozen(self.device.upload_frozen(&tensor, precision))
            }
            Training::Lora { .. } | Training::Nothing { .. } => {
                Parameter::Frozen(self.device.upload_weight(tensor.to_host().data, rows, cols))
            }
            Training::Full => Parameter::Trained(self.train(name.into(), tensor.to_host().data, rows, cols)),
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

    /// A linear layer, with its low-rank update where it is adapted.
    ///
    /// # Errors
    /// Those of [`Loader::parameter`].
    pub fn linear(&mut self, module: Module<'_>) -> Result<Linear<D>> {
        let Module { path, bias, out_features, in_features, .. } = module;
        let weight = self.parameter(&format!("{path}.weight"), out_features, in_features)?;
        let bias = match bias {
            true => Some(self.parameter(&format!("{path}.bias"), 1, out_features)?),
            false => None,
        };
        let lora = self.lora(module);
        Ok(Linear { weight, bias, lora, out_features, in_features })
    }

    /// The low-rank update of a module, if it is adapted. `A` is uniform in `±1 / sqrt(in)` (PEFT's Kaiming-uniform with
    /// `a = sqrt(5)`), `B` is zero: the adapter starts as the base, exactly.
    pub fn lora(&mut self, module: Module<'_>) -> Option<Lora> {
        let Module { index, path, out_features, in_features, .. } = module;
        let Training::Lora { config, seed, .. } = self.training else { return None };
        if !self.adapts(path.rsplit('.').next().unwrap_or(path)) {
            return None;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        let bound = 1.0 / (in_features as f32).sqrt();
        // 24 bits: every multiple of 2^-24 in [0, 1) is an f32, so nothing is rounded up to 1.
        let mut uniform = || bound * (2.0 * (rng.next_u32() >> 8) as f32 / (1 << 24) as f32 - 1.0);
        let a = (0..config.rank * in_features).map(|_| uniform()).collect();
        let a = self.train(format!("{path}.lora_A.weight"), a, config.rank, in_features);
        let b = vec![0.0; out_features * config.rank];
        let b = self.train(format!("{path}.lora_B.weight"), b, out_features, config.rank);
        Some(Lora { a, b, scaling: config.scaling(), enabled: true, dropout: None })
    }
}
