//! Reads a base model into parameters, frozen or trained, and starts the low-rank updates beside them.

use crate::config::{LoraConfig, Precision, TrainConfig};
use crate::device::{Device, PackedModule, PackedShape, Place, Trainable};
use crate::dropout::LoraDropout;
use crate::formats::{BaseModel, StoredTensor};
use crate::linear::{Lora, Parameter, Projection};
use crate::plan::PlannedParameter;
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

/// A base model, and what of it is trained.
pub struct Source<'a> {
    base: &'a BaseModel,
    training: Training<'a>,
    /// Last parts of the module paths that get a low-rank update.
    targets: Vec<&'static str>,
}

/// Reads a base model into parameters, frozen or trained.
pub struct Loader<'a, D: Device> {
    device: &'a D,
    source: Source<'a>,
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

impl<'a> Source<'a> {
    /// `module_names`: what LoRA's target modules may name.
    ///
    /// # Errors
    /// [`TrainerError::NoLoraTarget`].
    pub fn new(base: &'a BaseModel, training: Training<'a>, module_names: &[&'static str]) -> Result<Self> {
        let targets = match training {
            Training::Lora { config, .. } => config.target_modules.select(module_names)?,
            Training::Full | Training::Nothing { .. } => Vec::new(),
        };
        Ok(Self { base, training, targets })
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

    fn packed_shape(&self, modules: &[Module<'_>]) -> Result<PackedShape> {
        let precision = match self.training {
            Training::Lora { precision, .. } | Training::Nothing { precision } => precision,
            Training::Full => Precision::F32,
        };
        let packed = |module: &Module<'_>| {
            let &Module { path, bias, out_features, .. } = module;
            let rank = if self.adapts(last_part(path)) { self.lora_rank() } else { 0 };
            let stored = self.base.stored(&format!("{path}.weight"))?.block_type();
            Ok(PackedModule { out_features, rank, bias, stored, trained: matches!(self.training, Training::Full) })
        };
        let in_features = modules.first().map_or(0, |module| module.in_features);
        Ok(PackedShape { in_features, modules: modules.iter().map(packed).collect::<Result<_>>()?, precision })
    }

    /// What [`Loader::vector`] will make.
    pub(crate) fn planned_vector(&self, len: usize) -> PlannedParameter {
        match self.training {
            Training::Full => PlannedParameter::Trained(len),
            _ => PlannedParameter::Vector(len),
        }
    }

    /// What [`Loader::matrix`] will make.
    pub(crate) fn planned_matrix(&self, rows: usize, cols: usize) -> Vec<PlannedParameter> {
        let trained = matches!(self.training, Training::Full).then_some(PlannedParameter::Trained(rows * cols));
        trained.into_iter().chain([PlannedParameter::Matrix([rows, cols])]).collect()
    }

    /// What [`Loader::linear`] will make.
    ///
    /// # Errors
    /// Those of reading the model's tables of contents.
    pub(crate) fn planned_linear<const N: usize>(&self, modules: [Module<'_>; N]) -> Result<Vec<PlannedParameter>> {
        let shape = self.packed_shape(&modules)?;
        let in_features = shape.in_features;
        let trained = shape.modules.iter().flat_map(|&PackedModule { out_features, rank, bias, trained, .. }| {
            let own = [out_features * in_features, if bias { out_features } else { 0 }];
            let update = [rank * in_features, out_features * rank];
            if trained { own } else { update }
        });
        let trained: Vec<_> = trained.filter(|&len| len > 0).map(PlannedParameter::Trained).collect();
        Ok([PlannedParameter::Packed(shape)].into_iter().chain(trained).collect())
    }

    /// What [`Loader::lora`] will make of a module that is not packed.
    pub(crate) fn planned_lora(&self, module: Module<'_>) -> Vec<PlannedParameter> {
        let Module { path, out_features, in_features, .. } = module;
        if !self.adapts(last_part(path)) {
            return Vec::new();
        }
        let rank = self.lora_rank();
        let factors = [[rank, in_features], [out_features, rank]].into_iter();
        factors
            .flat_map(|[rows, cols]| [PlannedParameter::Trained(rows * cols), PlannedParameter::Matrix([rows, cols])])
            .collect()
    }
}

impl<'a, D: Device> Loader<'a, D> {
    /// Reads onto `device`.
    pub fn new(device: &'a D, source: Source<'a>) -> Self {
        Self { device, source, trained: Vec::new() }
    }

    /// The tensors being trained, in the order they were loaded.
    pub fn into_trained(self) -> Vec<Trainable<D>> {
        self.trained
    }

    /// A vector of the base.
    ///
    /// # Errors
    /// Those of reading it; [`TrainerError::Corrupt`] where its shape is another.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<Parameter<D>> {
        let tensor = self.stored(name, &[len])?;
        Ok(self.upload(&tensor, name, [1, len], Place::Vector))
    }

    /// A matrix of the base that is no linear layer's.
    ///
    /// # Errors
    /// Those of [`Loader::vector`].
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Parameter<D>> {
        let tensor = self.stored(name, &[rows, cols])?;
        Ok(self.upload(&tensor, name, [rows, cols], Place::Matrix))
    }

    fn stored(&self, name: &str, expected: &[usize]) -> Result<StoredTensor<'a>> {
        let tensor = self.source.base.stored(name)?;
        let shape = tensor.shape();
        if shape != expected {
            return Err(TrainerError::Corrupt {
                path: self.source.base.path().to_owned(),
                what: format!("tensor `{name}` has shape {shape:?}, the configuration wants {expected:?}"),
            });
        }
        Ok(tensor)
    }

    fn upload(
        &mut self,
        tensor: &StoredTensor<'_>,
        name: &str,
        [rows, cols]: [usize; 2],
        place: Place<'_, D>,
    ) -> Parameter<D> {
        match (self.source.training, &place) {
            (Training::Full, _) => {
                Parameter::Trained(self.train(name.into(), tensor.to_host().data, rows, cols, place))
            }
            (_, Place::Vector | Place::Bias(..)) => {
                Parameter::Frozen(self.device.upload_vector(tensor.to_host().data, place))
            }
            (Training::Lora { precision, .. } | Training::Nothing { precision }, _) => {
                Parameter::Frozen(self.device.upload_frozen(tensor, precision, place))
            }
        }
    }

    /// Adds a tensor to those that are trained and returns its index.
    fn train(&mut self, name: String, data: Vec<f32>, rows: usize, cols: usize, place: Place<'_, D>) -> usize {
        self.trained.push(self.device.upload_trained(name, data, rows, cols, place));
        self.trained.len() - 1
    }

    /// Linear layers that read one input, with their low-rank updates where they are adapted.
    ///
    /// # Errors
    /// Those of [`Loader::parameter`].
    pub fn linear<const N: usize>(&mut self, modules: [Module<'_>; N]) -> Result<Projection<D, N>> {
        let packed = self.device.pack(&self.source.packed_shape(&modules)?);
        let (mut weight, mut bias, mut lora) = (Vec::new(), Vec::new(), [None; N]);
        for (i, module) in modules.into_iter().enumerate() {
            let Module { path, out_features, in_features, .. } = module;
            let name = format!("{path}.weight");
            let shape = [out_features, in_features];
            let tensor = self.stored(&name, &shape)?;
            weight.push(self.upload(&tensor, &name, shape, Place::Weight(&packed, i)));
            bias.push(match module.bias {
                true => {
                    let name = format!("{path}.bias");
                    let tensor = self.stored(&name, &[out_features])?;
                    Some(self.upload(&tensor, &name, [1, out_features], Place::Bias(&packed, i)))
                }
                false => None,
            });
            lora[i] = self.lora(module, Some((&packed, i)));
        }
        let (Ok(weight), Ok(bias)) = (weight.try_into(), bias.try_into()) else { unreachable!("one for each module") };
        let out_features = modules.map(|module| module.out_features);
        let in_features = modules.first().map_or(0, |module| module.in_features);
        Ok(Projection { packed, weight, bias, lora, out_features, in_features })
    }

    /// The low-rank update of a module, if it is adapted. `A` is uniform in `±1 / sqrt(in)` (PEFT's Kaiming-uniform with
    /// `a = sqrt(5)`), `B` is zero: the adapter starts as the base, exactly.
    pub fn lora(&mut self, module: Module<'_>, packed: Option<(&D::Packed, usize)>) -> Option<Lora> {
        let Module { index, path, out_features, in_features, .. } = module;
        let Training::Lora { config, seed, .. } = self.source.training else { return None };
        if !self.source.adapts(last_part(path)) {
            return None;
        }
        let (scaling, rank) = (config.scaling(), config.rank);
        let [place_a, place_b] = match packed {
            Some((packed, i)) => [Place::A(packed, i), Place::B(packed, i, scaling)],
            None => [Place::Matrix, Place::Matrix],
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        let bound = 1.0 / (in_features as f32).sqrt();
        // 24 bits: every multiple of 2^-24 in [0, 1) is an f32, so nothing is rounded up to 1.
        let mut uniform = || bound * (2.0 * (rng.next_u32() >> 8) as f32 / (1 << 24) as f32 - 1.0);
        let a = (0..rank * in_features).map(|_| uniform()).collect();
        let a = self.train(format!("{path}.lora_A.weight"), a, rank, in_features, place_a);
        let b = vec![0.0; out_features * rank];
        let b = self.train(format!("{path}.lora_B.weight"), b, out_features, rank, place_b);
        Some(Lora { a, b, scaling, module: index })
    }
}

/// Of a module's path: what LoRA's target modules name.
pub(crate) fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
