//! What a run will take, before anything is allocated: memory by group, floating-point work, the batch that fits.

use crate::batch::Budget;
use crate::config::{DecoderConfig, EncoderConfig, ModelConfig, Positions, Precision, TrainConfig};
use crate::cpu::Cpu;
use crate::cuda::layout;
use crate::decoder::modules::{MODULE_NAMES, MODULE_PATHS};
use crate::device::{Device, Modules, PackedModule, PackedShape, Place};
use crate::encoder::block::PerEncoderModule;
use crate::encoder::text_batch::TextBudget;
use crate::formats::{BaseModel, BlockType, StoredTensor};
use crate::loader::{Source, Training, last_part};
use crate::plan::{DeviceSizes, Kind, MemoryPlan, PlanOptions, PlannedBuffer, PlannedParameter};
use crate::{Result, TrainerError};
use std::time::{Duration, Instant};

/// What the buffers of a run must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSize {
    /// Of a decoder.
    Forest(Budget),
    /// Of a decoder that is trained on preference pairs.
    Pairs(Budget),
    /// Of an encoder.
    Texts(TextBudget),
}

impl BatchSize {
    /// The most that `n` sequences of `length` tokens can come to: they share nothing, and every token has a label.
    pub fn at_most(model: &ModelConfig, n: usize, length: usize) -> Self {
        let n_tokens = n * length;
        match model {
            ModelConfig::Decoder(_) => Self::Forest(Budget {
                n_tokens,
                n_rows: n_tokens,
                n_edges: n_tokens,
                max_position: length,
                n_sequences: n,
                n_labels: n_tokens,
            }),
            ModelConfig::Encoder(_) => {
                Self::Texts(TextBudget { n_tokens, n_segments: n, max_length: length, n_triplets: n.div_ceil(3) })
            }
        }
    }

    /// The same size, of preference pairs.
    pub fn of_pairs(self) -> Self {
        match self {
            Self::Forest(budget) => Self::Pairs(budget),
            other => other,
        }
    }

    /// Tokens computed in a batch.
    pub fn n_tokens(self) -> usize {
        match self {
            Self::Forest(budget) | Self::Pairs(budget) => budget.n_tokens,
            Self::Texts(budget) => budget.n_tokens,
        }
    }
}

/// Memory of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// `activations`
    pub name: &'static str,
    /// On the CPU: activations are f32, frozen weights as the precision says.
    pub cpu_bytes: u64,
    /// On a GPU: activations and weights are bf16.
    pub gpu_bytes: u64,
}

/// What a run takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// By kind, the weights first.
    pub groups: Vec<Group>,
    /// The part of one block in `activations`.
    pub of_a_block: Group,
    /// Values being trained.
    pub n_trained: u64,
    /// Floating-point operations of a batch, forward and backward.
    pub flops: f64,
}

impl Estimate {
    /// Of training `base` in batches up to `size`. Nothing of the model is read but its tables of contents.
    ///
    /// # Errors
    /// [`TrainerError::NoLoraTarget`]; those of a damaged model.
    pub fn new(base: &BaseModel, config: &TrainConfig, size: BatchSize) -> Result<Self> {
        let model = Model::new(&base.config, config)?;
        let plans = Plans::new(base, config, size)?;
        let n_trained = match config.use_lora {
            true => model.lora_values(config),
            false => model.n_values(),
        };
        let weights = match config.use_lora {
            true => model.frozen_bytes(base, config.precision)?,
            false => 0,
        };
        let gpu_trained = layout::TrainedLayout::new(&plans.gpu.parameters).bytes();
        let gpu_weights = layout::parameters_bytes(&plans.gpu.parameters) - gpu_trained;
        let mut groups = vec![
            Group { name: "weights", cpu_bytes: weights, gpu_bytes: gpu_weights as u64 },
            // The value, its gradient and two moments, in f32.
            Group {
                name: if config.use_lora { "LoRA and optimiser" } else { "weights and optimiser" },
                cpu_bytes: 16 * n_trained,
                gpu_bytes: gpu_trained as u64,
            },
        ];
        for (name, prefixes) in [
            ("activations", &["layers.", "x_final", "embeddings."][..]),
            ("logits", &["head.logits"]),
            ("labelled rows", &["head."]),
            ("pooling", &["pool."]),
            ("scratch", &["scratch."]),
            ("batch", &["batch.", "rope.", "pairs.", "triplets.", "dropout.", "step."]),
        ] {
            let is_in = |buffer: &str| {
                prefixes.iter().any(|prefix| buffer.starts_with(prefix))
                    && (name != "labelled rows" || buffer != "head.logits")
            };
            let group = plans.bytes_of(name, is_in);
            groups.extend((group.cpu_bytes > 0).then_some(group));
        }
        groups.push(Group { name: "workspace", cpu_bytes: 0, gpu_bytes: layout::workspaces_bytes() as u64 });
        // Value and moments are copied to the host, and copied again into the file's bytes; early stopping keeps the
        // best values beside them.
        let best = if config.early_stopping_patience.is_some() { 12 } else { 0 };
        groups.push(Group { name: "saving", cpu_bytes: (24 + best) * n_trained, gpu_bytes: 0 });
        let n_blocks = model.n_blocks as u64;
        let blocks = plans.bytes_of("activations of a block", |buffer| buffer.starts_with("layers."));
        Ok(Self {
            groups,
            of_a_block: Group {
                cpu_bytes: blocks.cpu_bytes / n_blocks,
                gpu_bytes: blocks.gpu_bytes / n_blocks,
                ..blocks
            },
            n_trained,
            flops: model.flops(config, size),
        })
    }

    /// Of all groups, on the CPU.
    pub fn cpu_bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.cpu_bytes).sum()
    }

    /// Of all groups, on a GPU.
    pub fn gpu_bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.gpu_bytes).sum()
    }
}

/// The largest `n`, up to a million, for which `bytes(n)` is within `limit`; 0 where not even 1 is. `bytes` must grow.
///
/// # Errors
/// Those of `bytes`.
pub fn largest_that_fits(limit: u64, mut bytes: impl FnMut(usize) -> Result<u64>) -> Result<usize> {
    const MOST: usize = 1 << 20;
    let (mut fits, mut too_many) = (0, 1);
    while fits < MOST && bytes(too_many)? <= limit {
        (fits, too_many) = (too_many, 2 * too_many);
    }
    if fits == MOST {
        return Ok(MOST);
    }
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        *(if bytes(middle)? <= limit { &mut fits } else { &mut too_many }) = middle;
    }
    Ok(fits)
}

/// Floating-point operations per second of `device` in the products that training is made of: the widest of the
/// model's, forward and backward, over a batch of `n_tokens`. Takes a quarter of a second.
///
/// # Errors
/// Those of [`Device::reserve`] and [`Device::check`].
pub fn measured_flops<D: Device>(
    device: &D,
    model: &ModelConfig,
    precision: Precision,
    n_tokens: usize,
) -> Result<f64> {
    let (hidden, intermediate) = match model {
        ModelConfig::Decoder(config) => (config.hidden_size, config.intermediate_size),
        ModelConfig::Encoder(config) => (config.hidden_size, config.intermediate_size),
    };
    // More tokens change the rate no longer; fewer do.
    let n_tokens = n_tokens.clamp(1, 1024);
    // 1.0, bit for bit: products with zeros are as fast, but some processors save power on them.
    let bytes = 1f32.to_le_bytes().repeat(hidden * intermediate);
    let tensor = StoredTensor::new(vec![intermediate, hidden], BlockType::F32, bytes);
    let shape = PackedShape {
        in_features: hidden,
        modules: vec![PackedModule {
            out_features: intermediate,
            rank: 0,
            bias: false,
            stored: BlockType::F32,
            trained: false,
        }],
        precision,
    };
    let mut plan = MemoryPlan::empty();
    plan.add(Kind::Act, "x".into(), &[n_tokens, hidden]);
    plan.add(Kind::Act, "y".into(), &[n_tokens, intermediate]);
    plan.parameters = vec![PlannedParameter::Packed(shape.clone())];
    device.reserve(&plan)?;
    let packed = device.pack(&shape);
    let weight = device.upload_frozen(&tensor, precision, Place::Weight(&packed, 0));
    let modules = Modules { packed: &packed, weight: [&weight], bias: [None], low_rank: [None] };
    let (mut x, mut y) = (device.alloc_act(n_tokens, hidden), device.alloc_act(n_tokens, intermediate));
    let mut products = || {
        device.linear_forward([&mut y], &x, [None], &modules, None, n_tokens);
        device.linear_backward_input(&mut x, [&y], [None], &modules, None, n_tokens);
        device.read_act(&x, 1); // waits for a device that works on its own
    };
    products();
    let (started, mut n) = (Instant::now(), 0);
    while n == 0 || started.elapsed() < Duration::from_millis(250) {
        products();
        n += 1;
    }
    device.check()?;
    Ok(4.0 * (n * n_tokens * hidden * intermediate) as f64 / started.elapsed().as_secs_f64())
}

/// A matrix of the base.
struct Matrix {
    /// In the files of a decoder.
    name: String,
    rows: usize,
    cols: usize,
    /// Multiplied with every token, or with labelled rows only.
    of_block: bool,
    adapted: bool,
}

impl Matrix {
    fn len(&self) -> u64 {
        (self.rows * self.cols) as u64
    }

    fn lora_values(&self, config: &TrainConfig) -> u64 {
        (config.lora.rank * (self.rows + self.cols)) as u64
    }
}

/// A model as the sizes of its parts.
struct Model<'a> {
    config: &'a ModelConfig,
    matrices: Vec<Matrix>,
    /// Values of all vectors.
    n_vectors: u64,
    n_blocks: usize,
    /// Width of all heads together.
    attention_width: usize,
    /// Rows and columns of BERT's pooler, whose update is only carried along for the file, where it has one.
    pooler: usize,
}

impl<'a> Model<'a> {
    fn new(config: &'a ModelConfig, train: &TrainConfig) -> Result<Self> {
        let select = |names: &[&'static str]| match train.use_lora {
            true => train.lora.target_modules.select(names),
            false => Ok(Vec::new()),
        };
        Ok(match config {
            ModelConfig::Decoder(decoder) => Self::decoder(config, decoder, select(&MODULE_NAMES)?),
            ModelConfig::Encoder(encoder) => Self::encoder(config, encoder, select(encoder.names.module_names())?),
        })
    }

    fn decoder(config: &'a ModelConfig, decoder: &DecoderConfig, targets: Vec<&'static str>) -> Self {
        let (hidden, vocab) = (decoder.hidden_size, decoder.vocab_size);
        let table =
            |name: &str| Matrix { name: name.to_owned(), rows: vocab, cols: hidden, of_block: false, adapted: false };
        let mut matrices = vec![table("model.embed_tokens.weight")];
        matrices.extend((!decoder.tie_word_embeddings).then(|| table("lm_head.weight")));
        let mut n_vectors = hidden;
        for layer in 0..decoder.num_hidden_layers {
            for path in MODULE_PATHS.each().into_iter().copied() {
                let (rows, cols) = decoder.module_shape(path);
                let adapted = targets.contains(&last_part(path));
                let name = format!("model.layers.{layer}.{path}.weight");
                matrices.push(Matrix { name, rows, cols, of_block: true, adapted });
                n_vectors += if decoder.module_bias(path) { rows } else { 0 };
            }
            n_vectors += 2 * hidden + if decoder.qk_norm { 2 * decoder.head_dim } else { 0 };
        }
        Self {
            config,
            matrices,
            n_vectors: n_vectors as u64,
            n_blocks: decoder.num_hidden_layers,
            attention_width: decoder.num_attention_heads * decoder.head_dim,
            pooler: 0,
        }
    }

    fn encoder(config: &'a ModelConfig, encoder: &EncoderConfig, targets: Vec<&'static str>) -> Self {
        let (hidden, intermediate) = (encoder.hidden_size, encoder.intermediate_size);
        let matrix = |rows, cols, of_block, adapted| Matrix { name: String::new(), rows, cols, of_block, adapted };
        let mut matrices = vec![
            matrix(encoder.vocab_size, hidden, false, false),
            matrix(encoder.type_vocab_size, hidden, false, false),
        ];
        if let Positions::Learned { rows, .. } = encoder.positions {
            matrices.push(matrix(rows, hidden, false, false));
        }
        let linear = encoder.names.in_block().linear;
        for _ in 0..encoder.num_hidden_layers {
            let PerEncoderModule { q, k, v, o, fc1, fc2 } = linear;
            for path in [q, k, v, o] {
                matrices.push(matrix(hidden, hidden, true, targets.contains(&last_part(path))));
            }
            matrices.push(matrix(intermediate, hidden, true, targets.contains(&last_part(fc1))));
            matrices.push(matrix(hidden, intermediate, true, targets.contains(&last_part(fc2))));
        }
        // Biases of the six modules, and two norms of weight and bias.
        let of_block = 5 * hidden + intermediate + 4 * hidden;
        Self {
            config,
            matrices,
            n_vectors: (2 * hidden + encoder.num_hidden_layers * of_block) as u64,
            n_blocks: encoder.num_hidden_layers,
            attention_width: hidden,
            pooler: if targets.contains(&"dense") { hidden } else { 0 },
        }
    }

    fn lora_values(&self, config: &TrainConfig) -> u64 {
        let adapted = self.matrices.iter().filter(|matrix| matrix.adapted);
        adapted.map(|matrix| matrix.lora_values(config)).sum::<u64>() + (config.lora.rank * 2 * self.pooler) as u64
    }

    fn n_values(&self) -> u64 {
        self.matrices.iter().map(Matrix::len).sum::<u64>() + self.n_vectors
    }

    fn frozen_bytes(&self, base: &BaseModel, precision: Precision) -> Result<u64> {
        let bytes_per_value = if precision == Precision::F32 { 4 } else { 2 };
        let stored = |matrix: &Matrix| match (precision, self.config) {
            // A decoder's matrices lie in its file as they are here.
            (Precision::Quantized, ModelConfig::Decoder(_)) => {
                let tensor = base.stored(&matrix.name)?;
                Ok(matrix.len() * tensor.row_bytes() as u64 / tensor.cols() as u64)
            }
            // An encoder's may be f32: no more than that.
            (Precision::Quantized, ModelConfig::Encoder(_)) => Ok(4 * matrix.len()),
            (Precision::F32 | Precision::Bf16, _) => Ok(bytes_per_value * matrix.len()),
        };
        let matrices: Result<Vec<u64>, TrainerError> = self.matrices.iter().map(stored).collect();
        Ok(matrices?.iter().sum::<u64>() + 4 * self.n_vectors)
    }

    /// A product of `n` by `m` by `k` is `2 n m k` operations. The backward pass has as many again for the inputs'
    /// gradients, and again for those of weights that are trained.
    fn flops(&self, config: &TrainConfig, size: BatchSize) -> f64 {
        let sum = |of: &dyn Fn(&Matrix) -> u64| self.matrices.iter().map(of).sum::<u64>() as f64;
        let blocks = sum(&|matrix| if matrix.of_block { matrix.len() } else { 0 });
        let lora = sum(&|matrix| if matrix.adapted { matrix.lora_values(config) } else { 0 });
        let n_tokens = size.n_tokens() as f64;
        // Keys that a query sees: half of a causal sequence, all of a text.
        let (head, keys, recomputes) = match size {
            BatchSize::Forest(budget) | BatchSize::Pairs(budget) => {
                let head = self.config.vocab_size() * self.matrices[0].cols * budget.n_rows;
                (2.0 * head as f64, budget.max_position as f64 / 2.0, config.recompute)
            }
            BatchSize::Texts(budget) => (0.0, budget.max_length as f64, false),
        };
        let products = 2.0 * blocks * n_tokens;
        // Two products forward; backward the scores again and four more.
        let attention = 2.0 * n_tokens * keys * (self.attention_width * self.n_blocks) as f64;
        let forward = products + 2.0 * attention;
        let weights = if config.use_lora { 0.0 } else { products + head };
        let again = if recomputes { forward } else { 0.0 };
        forward + again + products + 5.0 * attention + 2.0 * head + weights + 6.0 * lora * n_tokens
    }
}

/// The plan of a run on either kind of device.
struct Plans {
    cpu: MemoryPlan,
    gpu: MemoryPlan,
}

impl Plans {
    fn new(base: &BaseModel, config: &TrainConfig, size: BatchSize) -> Result<Self> {
        let training = Training::of(config);
        let plan: Box<dyn Fn(DeviceSizes) -> MemoryPlan>;
        let parameters = match (&base.config, size) {
            (ModelConfig::Decoder(decoder), BatchSize::Forest(budget) | BatchSize::Pairs(budget)) => {
                let source = Source::new(base, training, &MODULE_NAMES)?;
                let (recompute, pairs) = (config.recompute, matches!(size, BatchSize::Pairs(_)));
                let options = PlanOptions { recompute, pairs, ..source.plan_options() };
                plan = Box::new(move |sizes| MemoryPlan::new(decoder, budget, options, sizes));
                source.planned_decoder(decoder)?
            }
            (ModelConfig::Encoder(encoder), BatchSize::Texts(budget)) => {
                let source = Source::new(base, training, encoder.names.module_names())?;
                let options = source.encoder_plan_options(encoder);
                plan = Box::new(move |sizes| MemoryPlan::of_encoder(encoder, budget, options, sizes));
                source.planned_encoder(encoder)?
            }
            _ => panic!("a batch of the other kind of model"),
        };
        Ok(Self { cpu: plan(Cpu::SIZES), gpu: MemoryPlan { parameters, ..plan(layout::SIZES) } })
    }

    /// Of the buffers whose names are in the group. Buffers side by side are of one group.
    fn bytes_of(&self, name: &'static str, is_in: impl Fn(&str) -> bool) -> Group {
        let of_group = |plan: &MemoryPlan, bytes: fn(&PlannedBuffer) -> usize| {
            plan.buffers.iter().filter(|buffer| is_in(&buffer.parts[0].name)).map(bytes).sum::<usize>() as u64
        };
        Group {
            name,
            cpu_bytes: of_group(&self.cpu, PlannedBuffer::cpu_bytes),
            gpu_bytes: of_group(&self.gpu, layout::buffer_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_fits_is_found_by_halving() {
        let bytes = |n: usize| Ok(100 + 10 * n as u64);
        assert_eq!(largest_that_fits(100, bytes).expect("no error"), 0);
        assert_eq!(largest_that_fits(110, bytes).expect("no error"), 1);
        assert_eq!(largest_that_fits(479, bytes).expect("no error"), 37);
        assert_eq!(largest_that_fits(u64::MAX, bytes).expect("no error"), 1 << 20);
    }
}
