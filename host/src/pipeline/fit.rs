//! Whether a training fits into memory, before anything of it is allocated.

use trainer_cuda::config::{Precision, TrainConfig};
use trainer_cuda::estimate::Estimate;
use trainer_cuda::formats::BaseModel;

use crate::error::HostError;
use crate::memory::{Memory, MemoryLimit, OutOfMemory, human};

use super::recipe::Recipe;

/// Refuses a training whose buffers would not fit, with what would.
///
/// # Errors
/// [`HostError::OutOfMemory`].
pub(super) fn check<R: Recipe>(
    memory: Memory,
    limit: Option<MemoryLimit>,
    base: &BaseModel,
    config: &TrainConfig,
    train: &[R::Example],
    held_out: &[R::Example],
) -> Result<(), HostError> {
    let Some(limit) = limit else { return Ok(()) };
    let estimate = |config: &TrainConfig| Estimate::new(base, config, R::batch_size(config, train, held_out));
    let planned = estimate(config)?;
    let needed = memory.of(&planned);
    if needed <= limit.bytes() {
        return Ok(());
    }
    let mut remedy =
        "no batch of this model fits: use a smaller model, a shorter `--max-length`, or a machine with more \
                      memory"
            .to_owned();
    for (flags, smaller) in smaller_runs(config) {
        let needed = memory.of(&estimate(&smaller)?);
        if needed <= limit.bytes() {
            remedy = format!("`{flags}` would take {}", human(needed));
            break;
        }
    }
    Err(OutOfMemory { memory, needed, groups: planned.groups, limit, remedy }.into())
}

/// Runs of the same optimiser steps that take less memory, and the flags that make them; the least change first.
fn smaller_runs(config: &TrainConfig) -> impl Iterator<Item = (String, TrainConfig)> {
    let smaller_batch = |config: TrainConfig, flags: String| {
        let batch_size = config.batch_size;
        let divisors = (1..=batch_size).rev().filter(move |divisor| batch_size.is_multiple_of(*divisor));
        divisors.map(move |divisor| {
            let steps = config.gradient_accumulation_steps * (batch_size / divisor);
            let smaller = TrainConfig { batch_size: divisor, gradient_accumulation_steps: steps, ..config.clone() };
            let batch = match divisor == batch_size {
                true => String::new(),
                false => format!("--batch-size {divisor} --gradient-accumulation-steps {steps}"),
            };
            ([batch.as_str(), flags.as_str()].join(" ").trim().to_owned(), smaller)
        })
    };
    let recompute = TrainConfig { recompute: true, ..config.clone() };
    let halved = TrainConfig { recompute: true, precision: Precision::Bf16, ..config.clone() };
    let (with_recompute, with_bf16) = (!config.recompute, config.use_lora && config.precision == Precision::F32);
    let same = smaller_batch(config.clone(), String::new()).skip(1);
    let recomputed = smaller_batch(recompute, "--recompute true".to_owned()).filter(move |_| with_recompute);
    let flags = if with_recompute { "--recompute true --precision bf16" } else { "--precision bf16" };
    let halved = smaller_batch(halved, flags.to_owned()).filter(move |_| with_bf16);
    same.chain(recomputed).chain(halved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_runs_have_the_same_optimiser_steps_and_the_least_change_first() {
        let config = TrainConfig { batch_size: 4, ..TrainConfig::default() };
        let runs: Vec<_> = smaller_runs(&config).collect();
        let flags: Vec<_> = runs.iter().map(|(flags, _)| flags.as_str()).collect();
        assert_eq!(
            flags,
            [
                "--batch-size 2 --gradient-accumulation-steps 2",
                "--batch-size 1 --gradient-accumulation-steps 4",
                "--recompute true",
                "--batch-size 2 --gradient-accumulation-steps 2 --recompute true",
                "--batch-size 1 --gradient-accumulation-steps 4 --recompute true",
                "--recompute true --precision bf16",
                "--batch-size 2 --gradient-accumulation-steps 2 --recompute true --precision bf16",
                "--batch-size 1 --gradient-accumulation-steps 4 --recompute true --precision bf16",
            ]
        );
        assert!(runs.iter().all(|(_, run)| run.batch_size * run.gradient_accumulation_steps == 4));
        assert!(runs[3].1.recompute && runs[7].1.precision == Precision::Bf16);
    }
}
