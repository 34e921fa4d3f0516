//! Trains a LoRA adapter on a GPU for some seconds, and prints what a step takes as one line of JSON.
//!
//! `cargo run --release -p trainer-cuda --example gpu_speed -- --shape smollm2-135m --model FOLDER`
//!
//! | flag | |
//! |---|---|
//! | `--shape` | `smollm2-135m`, `qwen2.5-3b`, `llama-3.1-8b` or `tiny`; weights are random |
//! | `--model` | the model's folder, which is written where it is not there |
//! | `--tokenizer` | whose files are put there (default: a fixture's); batches are of random tokens |
//! | `--write-only` | writes the model, and that is all |
//! | `--method` | `sft` (default); `dpo`, of pairs whose sides have the first half in common |
//! | `--tokens`, `--length` | 8192 a batch, 512 a sequence |
//! | `--prefix`, `--labels` | of SFT: first tokens that all sequences have in common (0), last ones with labels (all) |
//! | `--graphs` | `true` (default) or `false` |
//! | `--recompute` | `true` or `false`; by default as the memory needs it, and if that is not enough, the batch is halved |
//! | `--seconds`, `--steps` | steps are timed for 3 s, but 500 at most |
//! | `--cuda-libs` | a folder with NVIDIA's libraries |
//!
//! Steps run as in a run: the host goes ahead of the device and reads its log every 16 steps or half a second.
//! `benchmarks/gpu/peer.py` prints the same fields of what one would run instead.

#[path = "gpu_speed/batch.rs"]
mod batch;
#[path = "step_cost/flags.rs"]
mod flags;
#[path = "step_cost/random_tokens.rs"]
mod random_tokens;
#[path = "../tests/shapes/mod.rs"]
mod shapes;
#[path = "step_cost/since_start.rs"]
mod since_start;

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trainer_cuda::config::{Precision, TrainConfig};
use trainer_cuda::cuda::{self, Cuda, CudaOptions};
use trainer_cuda::device::Device;
use trainer_cuda::estimate::{BatchSize, Estimate};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Dpo, Method, Sft};
use trainer_cuda::trainer::{Event, StepMetrics, Trainer};

use batch::BatchShape;
use flags::Flags;
use shapes::{Shape, Weights};

const LEARNING_RATE: f64 = 1e-4;
/// Batches that differ.
const BATCHES: usize = 4;
/// The first step loads kernels, the second is recorded.
const WARM_UP: usize = 3;
/// Beside what is planned: the kernels' code and cuBLASLt's.
const SPARE_BYTES: u64 = 512 << 20;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

struct Options {
    shape: Shape,
    dpo: bool,
    batch: BatchShape,
    graphs: bool,
    recompute: Option<bool>,
    limit: Duration,
    steps: usize,
    cuda_libs: Option<PathBuf>,
}

fn main() -> Result<()> {
    let mut flags = Flags::of_command_line();
    let shape = match flags.required::<String>("--shape")?.as_str() {
        "smollm2-135m" => shapes::SMOLLM2_135M,
        "qwen2.5-3b" => shapes::QWEN2_5_3B,
        "llama-3.1-8b" => shapes::LLAMA_3_1_8B,
        "tiny" => shapes::TINY,
        other => return Err(format!("there is no shape `{other}`").into()),
    };
    let model: PathBuf = flags.required("--model")?;
    let fixture = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/llama_tied/base");
    let tokenizer = flags.value("--tokenizer")?.unwrap_or_else(fixture);
    let write_only = flags.switch("--write-only");
    let length = flags.value("--length")?.unwrap_or(512);
    let options = Options {
        shape,
        dpo: match flags.value::<String>("--method")?.as_deref() {
            None | Some("sft") => false,
            Some("dpo") => true,
            Some(other) => return Err(format!("there is no method `{other}` here").into()),
        },
        batch: BatchShape {
            tokens: flags.value("--tokens")?.unwrap_or(8192),
            length,
            prefix: flags.value("--prefix")?.unwrap_or(0),
            labels: flags.value("--labels")?.unwrap_or(length + 1),
        },
        graphs: flags.value("--graphs")?.unwrap_or(true),
        recompute: flags.value("--recompute")?,
        limit: Duration::from_secs_f64(flags.value("--seconds")?.unwrap_or(3.0)),
        steps: flags.value("--steps")?.unwrap_or(500),
        cuda_libs: flags.value("--cuda-libs")?,
    };
    flags.finish()?;
    if options.batch.prefix >= length {
        return Err("--prefix has to be below --length".into());
    }

    write_model(&shape, &model, &tokenizer)?;
    if !write_only {
        println!("{}", run(&options, &BaseModel::open(&model)?)?);
    }
    Ok(())
}

/// Writes the model where it is not there: whole or absent.
fn write_model(shape: &Shape, folder: &Path, tokenizer: &Path) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let mut unfinished = folder.as_os_str().to_owned();
    unfinished.push(".unfinished");
    shape.write(unfinished.as_ref(), tokenizer, Weights::Random)?;
    Ok(std::fs::rename(unfinished, folder)?)
}

fn run(options: &Options, base: &BaseModel) -> Result<Value> {
    let cuda_options =
        CudaOptions { libraries: options.cuda_libs.clone(), graphs: options.graphs, ..CudaOptions::default() };
    let gpus = cuda::report(&cuda_options).gpus;
    let total_bytes = gpus.first().map_or(0, |gpu| gpu.total_bytes);
    let cuda = Cuda::open(0, cuda_options)?;
    let (batch, config) = that_fits(options, base, cuda.free_bytes()?)?;
    let (vocab, started) = (base.config.vocab_size(), Instant::now());
    if options.dpo {
        let pairs = batch.pairs(BATCHES * config.batch_size, vocab);
        let method = Dpo::new(cuda, base, &config, &pairs, &[], None)?;
        measure(options, batch, config, started.elapsed(), total_bytes, method, &pairs)
    } else {
        let sequences = batch.sequences(BATCHES * config.batch_size, vocab);
        let method = Sft::new(cuda, base, &config, &sequences, &[])?;
        measure(options, batch, config, started.elapsed(), total_bytes, method, &sequences)
    }
}

/// The batch, and how it is trained, within `free` bytes.
fn that_fits(options: &Options, base: &BaseModel, free: u64) -> Result<(BatchShape, TrainConfig)> {
    let vocab = base.config.vocab_size();
    let mut batch = options.batch;
    loop {
        let batch_size = if options.dpo { batch.n_pairs() } else { batch.n_sequences() };
        for recompute in options.recompute.map_or(vec![false, true], |given| vec![given]) {
            let config = TrainConfig {
                batch_size,
                recompute,
                epochs: options.steps.div_ceil(BATCHES),
                learning_rate: LEARNING_RATE,
                precision: Precision::Bf16,
                ..TrainConfig::default()
            };
            // Every batch is of the same size, so that one tells.
            let one = TrainConfig { epochs: 1, ..config.clone() };
            let size = match options.dpo {
                true => BatchSize::Pairs(Dpo::<Cuda>::budget(&one, &batch.pairs(batch_size, vocab), &[])),
                false => BatchSize::Forest(Sft::<Cuda>::budget(&one, &batch.sequences(batch_size, vocab), &[])),
            };
            if Estimate::new(base, &config, size)?.gpu_bytes() + SPARE_BYTES <= free || batch_size == 1 {
                return Ok((batch, config));
            }
        }
        batch.tokens /= 2;
    }
}

/// Steps over `examples`, and what they take.
fn measure<M: Method<Device = Cuda>>(
    options: &Options,
    batch: BatchShape,
    config: TrainConfig,
    load: Duration,
    total_bytes: u64,
    method: M,
    examples: &[M::Example],
) -> Result<Value> {
    let (batch_size, recompute) = (config.batch_size, config.recompute);
    let mut trainer = Trainer::new(method, config)?;
    let first_batch: Vec<&M::Example> = examples[..batch_size].iter().collect();
    let mut warm_up = Vec::new();
    let mut first_step_s = 0.0;
    for step in 1..=WARM_UP {
        warm_up.push(trainer.step(std::slice::from_ref(&first_batch), step, LEARNING_RATE as f32)?);
        if step == 1 {
            first_step_s = since_start::seconds_since_start()?;
        }
    }

    let before = trainer.method().device().launches();
    let (started, mut steps) = (Instant::now(), Vec::<StepMetrics>::new());
    trainer.train(examples, &[], None, &mut |event| {
        if let Event::Step(metrics) = event {
            steps.push(metrics.clone());
        }
        let enough = started.elapsed() >= options.limit || steps.len() >= options.steps;
        if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let wall = started.elapsed();

    let device = trainer.method().device();
    let after = device.launches();
    let used_bytes = total_bytes.saturating_sub(device.free_bytes()?);
    let n_steps = steps.len() as f64;
    let step_ms = median(steps.iter().map(|step| step.step_ms).collect());
    let (n_tokens, n_tokens_flat) = (steps[0].n_tokens, steps[0].n_tokens_flat);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(json!({
        "program": "tunesmith",
        "device": device.describe(),
        "shape": options.shape.name,
        "method": M::NAME,
        "graphs": options.graphs,
        "recompute": recompute,
        "batch": {
            "tokens": batch.tokens,
            "tokens_wanted": options.batch.tokens,
            "length": batch.length,
            "prefix": batch.prefix,
            "examples": batch_size,
            "labels": steps[0].n_labels,
        },
        "n_tokens": n_tokens,
        "n_tokens_flat": n_tokens_flat,
        "steps": steps.len(),
        "step_ms": step_ms,
        "step_ms_mean": 1e3 * wall.as_secs_f64() / n_steps,
        "tokens_per_s": 1e3 * n_tokens as f64 / step_ms,
        "flat_tokens_per_s": 1e3 * n_tokens_flat as f64 / step_ms,
        "launches": (after.single - before.single) as f64 / n_steps,
        "graph_launches": (after.graphs - before.graphs) as f64 / n_steps,
        "device_mib": mib(used_bytes),
        "arena_mib": mib(device.arena_usage().1 as u64),
        "load_s": load.as_secs_f64(),
        "first_step_s": first_step_s,
        "first_step_ms": warm_up[0].step_ms,
        "loss_first": warm_up[0].loss,
        "loss_last": steps[steps.len() - 1].loss,
    }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
