//! A training, from the model's loading to the adapter's files, wherever it runs: nothing here knows of telemetry or of jobs.

use std::time::Instant;

use sha2::{Digest, Sha256};
use trainer_cuda::config::{Precision, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::Method;
use trainer_cuda::ranks::Group;

use super::recipe::Recipe;
use super::workplace::Workplace;
use super::{fit, peak_rss_bytes, train};
use crate::compute::{ComputeConfig, Opened};
use crate::config::LoraFallback;
use crate::error::HostError;
use crate::job::Produced;
use crate::memory::{Memory, MemoryLimit};
use crate::progress::Progress;

/// What is to be trained, and how.
pub(super) struct Work<'a, E> {
    /// The base, whose weights are read now.
    pub(super) base: &'a BaseModel,
    /// How the optimiser runs; its precision is the device's.
    pub(super) training: &'a TrainConfig,
    /// Where no module is a LoRA target.
    pub(super) lora_fallback: LoraFallback,
    /// Optimiser steps between checkpoints.
    pub(super) checkpoint_steps: usize,
    /// Examples that train.
    pub(super) train: &'a [E],
    /// Examples that judge.
    pub(super) held_out: &'a [E],
}

/// What trains, open.
pub(super) struct Machine {
    pub(super) device: Opened,
    /// Why it is that, where `auto` chose.
    pub(super) choice: Option<String>,
    /// Whose memory the training takes, and what it must stay within.
    pub(super) memory: (Memory, Option<MemoryLimit>),
    /// The other processes that train with this one, where there are any.
    pub(super) group: Option<Group>,
}

impl Machine {
    /// Opens the device that `compute` names, and says how it holds frozen weights.
    ///
    /// # Errors
    /// Those of [`ComputeConfig::open`], [`ComputeConfig::precision_on`] and the driver's.
    pub(super) fn open(compute: &ComputeConfig, memory_limit: Option<u64>) -> Result<(Self, Precision), HostError> {
        let (device, choice) = compute.open()?;
        let precision = compute.precision_on(&device)?;
        let memory = (device.memory(), device.memory_limit(memory_limit)?);
        Ok((Self { device, choice, memory, group: None }, precision))
    }
}

impl<E> Work<'_, E> {
    /// Trains, scores base and adapter, and writes the adapter.
    ///
    /// # Errors
    /// [`HostError`], before training wherever that can be known.
    pub(super) fn on<R: Recipe<Example = E>>(
        &self,
        machine: Machine,
        place: &Workplace,
        progress: &Progress,
    ) -> Result<Produced, HostError> {
        let Machine { device, choice, memory, group } = machine;
        let produced = match device {
            Opened::Cpu(cpu) => self.on_device::<R, Cpu>(cpu, group, memory, place, progress),
            Opened::Cuda(cuda) => self.on_device::<R, _>(*cuda, group, memory, place, progress),
        };
        Ok(Produced { device_choice: choice, ..produced? })
    }

    fn on_device<R: Recipe<Example = E>, D: Device>(
        &self,
        device: D,
        group: Option<Group>,
        (memory, limit): (Memory, Option<MemoryLimit>),
        place: &Workplace,
        progress: &Progress,
    ) -> Result<Produced, HostError> {
        let start = Instant::now();
        let sets = (self.train, self.held_out);
        let trained = train::what::<R>(self)?;
        fit::check::<R>(memory, limit, self.base, &trained, sets.0, sets.1)?;
        let mut trainer = train::load::<R, D>(device, &trained, self.base, sets, place)?;
        if let Some(group) = group {
            trainer = trainer.over(group)?;
        }
        let base_scores = train::base_scores::<R, D>(&mut trainer, self.held_out, progress)?;
        let before_training = start.elapsed();

        let training = train::train::<R, D>(&mut trainer, self, place, progress)?;
        let adapter_scores = train::adapter_scores::<R, D>(&mut trainer, self.held_out, progress)?;
        if trainer.share().rank() == 0 {
            trainer.save(self.base, &place.adapter)?;
        }
        Ok(Produced {
            lora: trained.use_lora,
            device: trainer.method().device().describe(),
            device_choice: None,
            held_out: base_scores.zip(adapter_scores),
            final_train_loss: training.final_loss,
            steps: training.outcome.steps,
            stopped: training.outcome.stopped,
            best_step: training.outcome.best_step,
            resumed_at: training.outcome.resumed_at,
            before_training_s: before_training.as_secs_f64(),
            training_s: training.took.as_secs_f64(),
            tokens_per_second: training.tokens_per_second(),
            peak_rss_bytes: peak_rss_bytes(),
        })
    }

    /// SHA-256 over the tokens and labels of all examples, in hexadecimal.
    pub(super) fn tokens_sha256<R: Recipe<Example = E>>(&self) -> String {
        let mut sha256 = Sha256::new();
        for set in [self.train, self.held_out] {
            sha256.update((set.len() as u64).to_le_bytes());
            set.iter().for_each(|example| R::Method::<Cpu>::digest(example, &mut sha256));
        }
        sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
