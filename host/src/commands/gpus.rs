//! `tunesmith gpus`: which GPU a training fits, and what it would cost there.

use std::collections::BTreeMap;

use serde::Serialize;
use trainer_cuda::config::Precision;
use trainer_cuda::estimate::{BatchSize, Estimate};
use trainer_cuda::formats::BaseModel;

use super::Answer;
use super::plan::duration;
use crate::cli::{GpusCommand, RecommendArgs};
use crate::config::{ConfigError, Method, PlanConfig};
use crate::error::HostError;
use crate::gpus::{self, GPUS, Gpu, LIST_PRICES_OF, Load, Price, RESERVE_BYTES, Recommendation, UTILISATION};
use crate::memory::human;
use crate::report;
use crate::tenants::Scope;

pub(super) fn run(scope: &Scope, command: GpusCommand) -> Result<Answer, HostError> {
    match command {
        GpusCommand::List(args) => {
            let (options, _) = scope.load(args.config.as_deref(), &args.options)?;
            Ok(list(&options.remote.prices))
        }
        GpusCommand::Recommend(args) => recommend(scope, &args),
    }
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    gpu: Gpu,
    #[serde(flatten)]
    price: Price,
}

fn list(own: &BTreeMap<String, f64>) -> Answer {
    let listed: Vec<_> =
        GPUS.iter().filter_map(|gpu| Some(Listed { gpu: *gpu, price: gpus::price(gpu.name, own)? })).collect();
    let mut table = report::table();
    table.set_header(["GPU", "memory", "bf16 TFLOP/s", "USD an hour", ""]);
    for Listed { gpu, price } in &listed {
        let flops = if gpu.can_train() { format!("{:.0}", gpu.bf16_flops / 1e12) } else { "none".to_owned() };
        table.add_row([
            gpu.name.to_owned(),
            human(gpu.memory_bytes()),
            flops,
            format!("{:.2}", price.usd_per_hour),
            note(gpu, *price),
        ]);
    }
    report::align_right(&mut table, &[1, 2, 3]);
    Answer::new(format!("{table}\n\n{}", about_prices()), &listed)
}

fn note(gpu: &Gpu, price: Price) -> String {
    let mut notes = vec![if price.is_list_price { "list price" } else { "`remote.prices`" }];
    notes.extend((!gpu.can_train()).then_some("can't train: it has no bf16"));
    notes.join(", ")
}

fn about_prices() -> String {
    format!("list prices are those of {LIST_PRICES_OF}, on demand; `[remote.prices]` has your own")
}

/// What was asked, and the answer.
#[derive(Serialize)]
struct Told {
    base_model: String,
    architecture: String,
    method: &'static str,
    lora: bool,
    examples: usize,
    epochs: usize,
    batch_size: usize,
    max_length: usize,
    tokens_per_example: usize,
    /// Of all passes over all examples.
    tokens: usize,
    plan_bytes: u64,
    reserve_bytes: u64,
    flops: f64,
    utilisation: f64,
    list_prices_of: &'static str,
    #[serde(flatten)]
    recommendation: Recommendation,
}

fn recommend(scope: &Scope, args: &RecommendArgs) -> Result<Answer, HostError> {
    let (options, _) = scope.load(args.run.config.as_deref(), &args.run.options)?;
    let mut config = PlanConfig::new(&options)?;
    config.training.precision = match config.compute.precision {
        Some(Precision::F32) => {
            return Err(ConfigError::Invalid {
                key: "training.precision",
                value: "\"f32\"".to_owned(),
                want: "a GPU computes in bf16; use `bf16` or `quantized`".to_owned(),
            }
            .into());
        }
        given => given.unwrap_or(Precision::Bf16),
    };
    let base = BaseModel::open(&config.base_model)?;
    let told = told(&config, &base, args, &options.remote.prices)?;
    Ok(Answer::new(text(&told), &told))
}

fn told(
    config: &PlanConfig,
    base: &BaseModel,
    args: &RecommendArgs,
    own: &BTreeMap<String, f64>,
) -> Result<Told, HostError> {
    let (method, texts) = match config.method {
        Method::Triplet => base.encoder().map(|_| ("triplet", 3))?,
        Method::Dpo => base.decoder().map(|_| ("dpo", 2))?,
        Method::Auto | Method::Sft => base.decoder().map(|_| ("sft", 1))?,
    };
    let training = &config.training;
    let max_length = config.encoding.max_length.min(base.config.max_length());
    let tokens_per_example = args.tokens_per_example.map_or(max_length, |n| max_length.min(n.get() as usize));
    let size = |batch_size: usize, length: usize| {
        let size = BatchSize::at_most(&base.config, texts * batch_size, length);
        if config.method == Method::Dpo { size.of_pairs() } else { size }
    };
    // Room for the longest batch, and the time of an average one.
    let plan_bytes = Estimate::new(base, training, size(training.batch_size, max_length))?.gpu_bytes();
    let batch = Estimate::new(base, training, size(training.batch_size, tokens_per_example))?;
    let passes = args.examples.get() as usize * training.epochs;
    let flops = batch.flops / training.batch_size as f64 * passes as f64;
    let recommendation =
        gpus::recommend(Load { bytes: plan_bytes, flops }, own, || remedy(config, base, |n| size(n, max_length)))?;
    Ok(Told {
        base_model: config.base_model.display().to_string(),
        architecture: base.config.architecture().to_owned(),
        method,
        lora: training.use_lora,
        examples: args.examples.get() as usize,
        epochs: training.epochs,
        batch_size: training.batch_size,
        max_length,
        tokens_per_example,
        tokens: passes * texts * tokens_per_example,
        plan_bytes,
        reserve_bytes: RESERVE_BYTES,
        flops,
        utilisation: UTILISATION,
        list_prices_of: LIST_PRICES_OF,
        recommendation,
    })
}

/// What would take less, with how much that is.
fn remedy(config: &PlanConfig, base: &BaseModel, size: impl Fn(usize) -> BatchSize) -> String {
    let mut training = config.training.clone();
    let mut flags = Vec::new();
    let mut least = String::new();
    let mut try_with = |flag: &'static str, training: &_, batch_size| {
        flags.push(flag);
        if let Ok(estimate) = Estimate::new(base, training, size(batch_size)) {
            least = format!("with `{}` it takes {}", flags.join(" "), human(estimate.gpu_bytes() + RESERVE_BYTES));
        }
    };
    if training.batch_size > 1 {
        training.batch_size = 1;
        try_with("--batch-size 1", &training, 1);
    }
    if !training.recompute {
        training.recompute = true;
        try_with("--recompute true", &training, 1);
    }
    if !training.use_lora {
        training.use_lora = true;
        try_with("--use-lora true", &training, 1);
    }
    let or = "a shorter `--max-length`, or a quantised base (a GGUF with `--precision quantized`), takes less again";
    if least.is_empty() { or.to_owned() } else { format!("{least}; {or}") }
}

fn text(told: &Told) -> String {
    let mut table = report::table();
    table.set_header(["GPU", "memory", "USD an hour", "time", "USD", ""]);
    for row in &told.recommendation.gpus {
        let mut notes = Vec::new();
        if row.gpu.name == told.recommendation.smallest {
            notes.push("smallest that fits");
        }
        if row.gpu.name == told.recommendation.cheapest {
            notes.push("cheapest training");
        }
        if !row.fits {
            notes.push(if row.gpu.can_train() { "too small" } else { "can't train: it has no bf16" });
        }
        let list = if row.price.is_list_price { "" } else { "`remote.prices`" };
        notes.extend(Some(list).filter(|list| !list.is_empty()));
        table.add_row([
            row.gpu.name.to_owned(),
            human(row.gpu.memory_bytes()),
            format!("{:.2}", row.price.usd_per_hour),
            row.seconds.map(duration).unwrap_or_default(),
            row.usd.map(usd).unwrap_or_default(),
            notes.join(", "),
        ]);
    }
    report::align_right(&mut table, &[1, 2, 3, 4]);
    format!(
        "{} of {} ({}): {} examples of {} tokens, {} epochs, batches of {}\n\
         memory: {} by the plan, {} kept for CUDA and the driver\n\n{table}\n\n\
         {}\n\
         an estimate: {:.2e} operations at {:.0}% of the GPU's bf16 peak, without loading and evaluation; {}",
        if told.lora { format!("{} with LoRA", told.method) } else { told.method.to_owned() },
        told.base_model,
        told.architecture,
        told.examples,
        told.tokens_per_example,
        told.epochs,
        told.batch_size,
        human(told.plan_bytes),
        human(told.reserve_bytes),
        format_args!("gpu = \"{}\"", told.recommendation.smallest),
        told.flops,
        100.0 * told.utilisation,
        about_prices(),
    )
}

/// Cents, and of less than a cent what there is.
fn usd(usd: f64) -> String {
    if usd < 0.01 { format!("{usd:.4}") } else { format!("{usd:.2}") }
}
