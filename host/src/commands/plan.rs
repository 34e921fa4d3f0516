//! `tunesmith plan`: what a training will take, before there is any data.

use std::time::Duration;

use serde::Serialize;
use trainer_cuda::estimate::{self, BatchSize, Estimate, Group};
use trainer_cuda::formats::BaseModel;

use super::Answer;
use crate::cli::PlanArgs;
use crate::compute::Opened;
use crate::config::{ConfigError, Method, PlanConfig, size};
use crate::error::HostError;
use crate::memory::{Memory, MemoryLimit, human};
use crate::report;
use crate::tenants::Scope;

/// A step and a run are told of so many examples: none are known yet.
const EXAMPLES: usize = 100;

#[derive(Serialize)]
struct Plan {
    base_model: String,
    architecture: String,
    method: &'static str,
    lora: bool,
    batch_size: usize,
    max_length: usize,
    /// Tokens of a batch whose sequences share nothing.
    batch_tokens: usize,
    trained_values: u64,
    groups: Vec<Bytes>,
    block_activations: Bytes,
    total: Bytes,
    fits: Fits,
    time: Time,
}

#[derive(Serialize)]
struct Bytes {
    name: &'static str,
    cpu_bytes: u64,
    gpu_bytes: u64,
}

/// What fits into the memory of each kind of device, where it is known.
#[derive(Serialize)]
struct Fits {
    cpu: Option<Fit>,
    gpu: Option<Fit>,
}

/// The largest batch within an amount of memory; 0 where not even one example fits.
#[derive(Serialize)]
struct Fit {
    memory_bytes: u64,
    batch_size: usize,
}

#[derive(Serialize)]
struct Time {
    device: String,
    /// Measured, in the products that training is made of.
    flops_per_second: f64,
    step_flops: f64,
    step_s: f64,
    /// Optimiser steps of 100 examples.
    steps: usize,
    run_s: f64,
}

pub(super) fn run(scope: &Scope, args: &PlanArgs) -> Result<Answer, HostError> {
    let (options, _) = scope.load(args.run.config.as_deref(), &args.run.options)?;
    let mut config = PlanConfig::new(&options)?;
    let given = match &args.memory {
        Some(text) => Some(size::parse(text).ok_or_else(|| ConfigError::Invalid {
            key: "memory",
            value: format!("{text:?}"),
            want: "give a size such as `8GiB` or `512MiB`".to_owned(),
        })?),
        None => config.execution.memory_limit,
    };
    let base = BaseModel::open(&config.base_model)?;
    let (device, _) = config.compute.open()?;
    config.training.precision = config.compute.precision_on(&device)?;
    let plan = plan(&config, &base, &device, given)?;
    Ok(Answer::new(text(&plan, &config), &plan))
}

fn plan(config: &PlanConfig, base: &BaseModel, device: &Opened, given: Option<u64>) -> Result<Plan, HostError> {
    let (method, sequences) = match config.method {
        Method::Auto | Method::Sft => ("sft", 1),
        Method::Dpo => ("dpo", 2),
        Method::Triplet => ("triplet", 3),
    };
    match config.method {
        Method::Triplet => drop(base.encoder()?),
        Method::Auto | Method::Sft | Method::Dpo => drop(base.decoder()?),
    }
    let (training, max_length) = (&config.training, config.encoding.max_length.min(base.config.max_length()));
    let size = |batch_size: usize| {
        let size = BatchSize::at_most(&base.config, sequences * batch_size, max_length);
        if config.method == Method::Dpo { size.of_pairs() } else { size }
    };
    let estimate = Estimate::new(base, training, size(training.batch_size))?;
    // Of the GPU, if that is what trains; without one a GPU's memory is not known.
    let free_of_gpu = match device {
        Opened::Cuda(_) => device.memory_limit(given)?.map(MemoryLimit::bytes),
        Opened::Cpu(_) => given,
    };
    let fit = |memory: Memory, bytes: Option<u64>| -> Result<Option<Fit>, HostError> {
        let Some(memory_bytes) = bytes else { return Ok(None) };
        let batch_size =
            estimate::largest_that_fits(memory_bytes, |n| Ok(memory.of(&Estimate::new(base, training, size(n))?)))?;
        Ok(Some(Fit { memory_bytes, batch_size }))
    };
    let fits =
        Fits { cpu: fit(Memory::Cpu, given.or_else(crate::memory::available))?, gpu: fit(Memory::Cuda, free_of_gpu)? };
    let batch_tokens = size(training.batch_size).n_tokens();
    let rate = match device {
        Opened::Cpu(cpu) => estimate::measured_flops(cpu, &base.config, training.precision, batch_tokens)?,
        Opened::Cuda(cuda) => estimate::measured_flops(&**cuda, &base.config, training.precision, batch_tokens)?,
    };
    let step_flops = estimate.flops * training.gradient_accumulation_steps as f64;
    let steps = training.steps_per_epoch(EXAMPLES) * training.epochs;
    let n_batches = EXAMPLES.div_ceil(training.batch_size) * training.epochs;
    Ok(Plan {
        base_model: config.base_model.display().to_string(),
        architecture: base.config.architecture().to_owned(),
        method,
        lora: training.use_lora,
        batch_size: training.batch_size,
        max_length,
        batch_tokens,
        trained_values: estimate.n_trained,
        groups: estimate.groups.iter().map(Bytes::from).collect(),
        block_activations: Bytes::from(&estimate.of_a_block),
        total: Bytes { name: "total", cpu_bytes: estimate.cpu_bytes(), gpu_bytes: estimate.gpu_bytes() },
        fits,
        time: Time {
            device: device.describe(),
            flops_per_second: rate,
            step_flops,
            step_s: step_flops / rate,
            steps,
            run_s: n_batches as f64 * estimate.flops / rate,
        },
    })
}

impl From<&Group> for Bytes {
    fn from(group: &Group) -> Self {
        Self { name: group.name, cpu_bytes: group.cpu_bytes, gpu_bytes: group.gpu_bytes }
    }
}

fn text(plan: &Plan, config: &PlanConfig) -> String {
    let mut table = report::table();
    table.set_header(["memory", "CPU", "GPU (bf16)"]);
    let of_a_block = Bytes { name: "  of them, in each block", ..plan.block_activations };
    for bytes in &plan.groups {
        table.add_row([bytes.name.to_owned(), human(bytes.cpu_bytes), human(bytes.gpu_bytes)]);
        if bytes.name == "activations" {
            table.add_row([of_a_block.name.to_owned(), human(of_a_block.cpu_bytes), human(of_a_block.gpu_bytes)]);
        }
    }
    table.add_row(["total".to_owned(), human(plan.total.cpu_bytes), human(plan.total.gpu_bytes)]);
    report::align_right(&mut table, &[1, 2]);

    let what = match plan.method {
        "dpo" => "pairs of sequences",
        "triplet" => "triplets of texts",
        _ => "sequences",
    };
    let batch = |n: usize| match n {
        0 => "not even 1".to_owned(),
        n => n.to_string(),
    };
    let fits = [("CPU", &plan.fits.cpu), ("GPU", &plan.fits.gpu)].into_iter().filter_map(|(name, fit)| {
        let Fit { memory_bytes, batch_size } = fit.as_ref()?;
        Some(format!("largest batch in {} of a {name}: {}\n", human(*memory_bytes), batch(*batch_size)))
    });
    let fits: String = fits.collect();
    let time = &plan.time;
    format!(
        "{} of {} ({}), {:.2} million values trained\n\
         batches of {} {what} of {} tokens that share nothing: what shares a beginning takes less\n\n{table}\n\n{fits}\
         time on {}: a step of {:.3e} operations takes {} at the measured {:.0} GFLOP/s; {EXAMPLES} examples with \
         `epochs = {}`: {} steps, {}",
        plan.method,
        plan.base_model,
        plan.architecture,
        plan.trained_values as f64 / 1e6,
        plan.batch_size,
        plan.max_length,
        time.device,
        time.step_flops,
        duration(time.step_s),
        time.flops_per_second / 1e9,
        config.training.epochs,
        time.steps,
        duration(time.run_s),
    )
}

pub(super) fn duration(seconds: f64) -> String {
    let whole = Duration::from_secs_f64(seconds.round()).as_secs();
    match whole {
        0 if seconds < 0.5 => format!("{:.1} ms", 1e3 * seconds),
        0..10 => format!("{seconds:.2} s"),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min", whole / 60),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_told_in_the_unit_that_people_would_use() {
        assert_eq!([0.0125, 2.5, 42.4, 600.0, 9000.0].map(duration), ["12.5 ms", "2.50 s", "42 s", "10 min", "2.5 h"]);
    }
}
