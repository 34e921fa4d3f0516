//! The training loop: shuffle, step, evaluate, stop early, save, go on where a killed run stopped.

use crate::checkpoint::{self, BestWeights, Checkpoints, Identity, Position};
use crate::config::TrainConfig;
use crate::device::Device;
use crate::formats::{BaseModel, peft};
use crate::method::{Evaluation, Method, MethodMetrics, StepCounts};
use crate::optimizer::StepScalars;
use crate::ranks::{Collective, Group, Share, sum_evaluation};
use crate::schedule::LearningRate;
use crate::{Result, TrainerError, adapter};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// Steps are read from the device's log at least so often: a person watches them.
const READ_EVERY: Duration = Duration::from_millis(500);

/// One optimiser step, a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// From 1.
    pub step: usize,
    /// Steps of the run.
    pub total_steps: usize,
    /// Passes over the data so far, in fractions.
    pub epoch: f64,
    /// The method's mean loss over the step.
    pub loss: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f32,
    /// Rate of this step.
    pub learning_rate: f32,
    /// Tokens computed: unique ones of the forests.
    pub n_tokens: usize,
    /// Tokens that separate sequences would have.
    pub n_tokens_flat: usize,
    /// Tokens that carry loss.
    pub n_labels: usize,
    /// Wall time, in milliseconds; where several steps are read at once, their mean.
    pub step_ms: f64,
    /// The method's own figures.
    #[serde(flatten)]
    pub metrics: MethodMetrics,
}

/// What a run tells while it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run goes on after this step of a checkpoint.
    Resumed {
        /// Steps that are done.
        step: usize,
    },
    /// An optimiser step is done.
    Step(StepMetrics),
    /// The held-out set was scored.
    Evaluation {
        /// Optimiser steps done.
        step: usize,
        /// Passes over the data so far, in fractions.
        epoch: f64,
        /// True where no evaluation before had a lower loss.
        best: bool,
        /// The scores.
        #[serde(flatten)]
        evaluation: Evaluation,
    },
    /// The held-out loss has not fallen for as many evaluations as the configuration allows.
    EarlyStop {
        /// Optimiser steps done.
        step: usize,
        /// The step whose weights are kept.
        best_step: usize,
    },
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// All steps are done.
    Finished,
    /// The held-out loss stopped falling.
    Early,
    /// The caller asked.
    Cancelled,
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub stopped: Stopped,
    /// Optimiser steps done, those before a resume included.
    pub steps: usize,
    /// The step whose weights the model has now, where early stopping keeps the best.
    pub best_step: Option<usize>,
    /// The step of the checkpoint that it went on from.
    pub resumed_at: Option<usize>,
}

/// Trains one model by one method.
pub struct Trainer<M: Method> {
    method: M,
    config: TrainConfig,
    /// `None` where this is the only rank.
    collective: Option<Box<dyn Collective<M::Device>>>,
}

impl<M: Method> Trainer<M> {
    /// A trainer of what `method` has loaded.
    ///
    /// # Errors
    /// Those of [`TrainConfig::validate`].
    pub fn new(method: M, config: TrainConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { method, config, collective: None })
    }

    /// Trains with the other ranks of `group`, each of which has the same configuration, model and data: the step is that
    /// of one rank, to the order of its sums. From here on every rank makes the same calls; only rank 0 writes
    /// checkpoints, and only its [`Trainer::save`] is needed.
    ///
    /// # Errors
    /// Those of [`Device::join`].
    pub fn over(self, group: Group) -> Result<Self> {
        let collective = self.method.device().join(group)?;
        Ok(self.with_collective(collective))
    }

    /// [`Trainer::over`] ranks that are joined already.
    pub fn with_collective(self, collective: Box<dyn Collective<M::Device>>) -> Self {
        Self { collective: Some(collective), ..self }
    }

    /// Which part of each step is computed here.
    pub fn share(&self) -> Share {
        self.collective.as_ref().map_or(Share::WHOLE, |collective| collective.share())
    }

    /// The method and its model.
    pub fn method(&self) -> &M {
        &self.method
    }

    /// The method and its model, to overwrite an adapter.
    pub fn method_mut(&mut self) -> &mut M {
        &mut self.method
    }

    /// Scores `examples`; ranks share them out, and all get the same scores.
    ///
    /// # Errors
    /// Those of [`Device::check`] and of [`Collective::sum`].
    pub fn evaluate(&mut self, examples: &[M::Example]) -> Result<Evaluation> {
        let own = self.method.evaluate(self.share().slice(examples))?;
        match &mut self.collective {
            None => Ok(own),
            Some(collective) => sum_evaluation(collective.as_mut(), own),
        }
    }

    /// True where any rank wants to stop: all of them do, at the same place.
    fn agree(&mut self, cancelled: bool) -> Result<bool> {
        let Some(collective) = &mut self.collective else { return Ok(cancelled) };
        let mut wishes = [f64::from(u8::from(cancelled))];
        collective.sum(&mut wishes)?;
        Ok(wishes[0] > 0.0)
    }

    /// Trains over `train`, scoring `held_out` as often as the configuration says. Where `checkpoints` names a file that
    /// is there, goes on from it. Stops between steps where `on_event` breaks, with the state saved: on any rank, where
    /// there are several, at the same step of all.
    ///
    /// # Errors
    /// [`TrainerError::NotFinite`] where the loss or a gradient is no number, the weights being those before that step;
    /// [`TrainerError::OtherCheckpoint`]; [`TrainerError::Io`] where a checkpoint can't be written: the one before it is
    /// still there; [`TrainerError::RankLost`] and [`TrainerError::Collective`] where there are several ranks.
    pub fn train(
        &mut self,
        train: &[M::Example],
        held_out: &[M::Example],
        checkpoints: Option<&Checkpoints>,
        on_event: &mut dyn FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        let outcome = self.run(train, held_out, checkpoints, on_event);
        if let Some(collective) = self.collective.as_mut().filter(|_| outcome.is_err()) {
            collective.give_up();
        }
        outcome
    }

    fn run(
        &mut self,
        train: &[M::Example],
        held_out: &[M::Example],
        checkpoints: Option<&Checkpoints>,
        on_event: &mut dyn FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        let config = self.config.clone();
        let steps_per_epoch = config.steps_per_epoch(train.len());
        let total_steps = steps_per_epoch * config.epochs;
        let rate = LearningRate::new(config.learning_rate, config.lr_scheduler, config.warmup_ratio, total_steps)?;
        let eval_steps = config.eval_steps.unwrap_or(steps_per_epoch);
        let patience = config.early_stopping_patience.filter(|_| !held_out.is_empty());
        let saved = checkpoints.map(|checkpoints| (checkpoints, self.identity(checkpoints, train, held_out)));

        let (mut position, mut best_weights) = (Position::default(), None);
        let mut resumed_at = None;
        let mut cancelled = false;
        if let Some((restored, best)) = self.restore(saved.as_ref())? {
            resumed_at = Some(restored.step);
            cancelled = on_event(&Event::Resumed { step: restored.step }).is_break();
            (position, best_weights) = (restored, best);
        }
        self.check_same_position(&position)?;
        cancelled = self.agree(cancelled)?;
        let exhausted = |position: &Position| patience.is_some_and(|patience| position.stale_evaluations >= patience);
        let mut epoch_batches = Vec::new();
        let mut running = Running::new();
        while !cancelled && position.step < total_steps && !exhausted(&position) {
            let (epoch, within) = (position.step / steps_per_epoch, position.step % steps_per_epoch);
            if within == 0 || epoch_batches.is_empty() {
                epoch_batches = micro_batches(&config, train, epoch).collect();
            }
            let accumulated = config.gradient_accumulation_steps;
            let end = ((within + 1) * accumulated).min(epoch_batches.len());
            let batches = &epoch_batches[within * accumulated..end];
            self.begin_step(&mut running, batches, position.step + 1, rate.at(position.step))?;
            position.step += 1;

            let is_last = position.step == total_steps;
            let evaluates =
                !held_out.is_empty() && (position.step.is_multiple_of(eval_steps) || (patience.is_some() && is_last));
            let saves = |every_steps| position.step.is_multiple_of(every_steps);
            let saves = saved.as_ref().is_some_and(|(checkpoints, _)| saves(checkpoints.every_steps));
            // Ranks read every step: they have to do so at the same ones, which a clock would not give.
            if self.collective.is_some() || running.is_due() || evaluates || saves || is_last {
                for mut metrics in self.end_steps(&mut running)? {
                    metrics.total_steps = total_steps;
                    metrics.epoch = metrics.step as f64 / steps_per_epoch as f64;
                    cancelled |= on_event(&Event::Step(metrics)).is_break();
                }
                cancelled = self.agree(cancelled)?;
            }
            if evaluates {
                if cancelled {
                    // The evaluation belongs to the step: without it the state is not one that an unbroken run has.
                    // What was saved before is.
                    break;
                }
                let evaluation = self.evaluate(held_out)?;
                let best = position.note(evaluation.loss);
                if best && patience.is_some() {
                    best_weights = Some(self.read_weights());
                    self.method.device().check()?;
                }
                let epoch = position.step as f64 / steps_per_epoch as f64;
                let event = Event::Evaluation { step: position.step, epoch, best, evaluation };
                cancelled = on_event(&event).is_break();
                cancelled = self.agree(cancelled)?;
            }
            if let Some((checkpoints, identity)) = &saved
                && (cancelled || saves)
                && self.share().rank() == 0
            {
                let (device, trained) = self.method.trained_mut();
                checkpoint::save(&checkpoints.path, identity, &position, device, trained, best_weights.as_ref())?;
            }
        }

        let outcome = |stopped, best_step| Outcome { stopped, steps: position.step, best_step, resumed_at };
        let best_step = best_weights.as_ref().and(position.best).map(|(_, step)| step);
        if cancelled {
            return Ok(outcome(Stopped::Cancelled, best_step));
        }
        if let Some(weights) = &best_weights {
            self.write_weights(weights);
        }
        match best_step.filter(|_| exhausted(&position)) {
            Some(best_step) => {
                let _ = on_event(&Event::EarlyStop { step: position.step, best_step }); // nothing is left to cancel
                Ok(outcome(Stopped::Early, Some(best_step)))
            }
            None => Ok(outcome(Stopped::Finished, best_step)),
        }
    }

    /// Goes back to the state of the checkpoint, where there is one.
    fn restore(&mut self, saved: Option<&(&Checkpoints, Identity)>) -> Result<Option<(Position, Option<BestWeights>)>> {
        let Some((checkpoints, identity)) = saved else { return Ok(None) };
        let (device, trained) = self.method.trained_mut();
        checkpoint::restore(&checkpoints.path, identity, device, trained)
    }

    /// Every rank goes on from the same step, or none does.
    fn check_same_position(&mut self, position: &Position) -> Result<()> {
        let Some(collective) = &mut self.collective else { return Ok(()) };
        let step = position.step as f64;
        let mut sums = [step, step * step];
        collective.sum(&mut sums)?;
        // All equal exactly where the square of the sum is the number of ranks times the sum of the squares.
        let [sum, squares] = sums;
        if sum * sum == squares * collective.share().world_size() as f64 {
            return Ok(());
        }
        Err(TrainerError::Collective {
            operation: "resuming".to_owned(),
            message: format!(
                "this rank's checkpoint is of step {}, another's is not; keep it where every rank reads the same file",
                position.step
            ),
        })
    }

    /// One optimiser step over its micro-batches, of which every rank computes its share.
    ///
    /// # Errors
    /// [`TrainerError::NotFinite`]; those of [`Method::check_loss`], of [`Device::check`] and of [`Collective::sum_step`].
    pub fn step(&mut self, micro_batches: &[Vec<&M::Example>], step: usize, learning_rate: f32) -> Result<StepMetrics> {
        let mut running = Running::new();
        self.begin_step(&mut running, micro_batches, step, learning_rate)?;
        let mut metrics = self.end_steps(&mut running)?;
        Ok(metrics.remove(0))
    }

    /// Hands a step to the device, and does not wait for it. On one rank its last pass updates the weights; on several
    /// that comes after their sum.
    fn begin_step<'a>(
        &mut self,
        running: &mut Running<'a, M>,
        micro_batches: &[Vec<&'a M::Example>],
        step: usize,
        learning_rate: f32,
    ) -> Result<()> {
        let TrainConfig { max_grad_norm, weight_decay, .. } = self.config;
        let log_row = running.steps.len();
        if log_row == 0 {
            running.since = Instant::now();
        }
        let update = StepScalars { step, learning_rate, weight_decay, max_grad_norm, log_row };
        let (share, alone) = (self.share(), self.collective.is_none());
        let counts = self.method.run_step(micro_batches, share, step, Some(update).filter(|_| alone));
        if let Some(collective) = &mut self.collective {
            let (device, trained, optimizer) = self.method.parts_mut();
            optimizer.write(device, update);
            optimizer.sum_over(collective.as_mut(), device, trained)?;
            optimizer.end_step(device, trained);
        }
        running.steps.push(RunningStep { step, learning_rate, counts, micro_batches: micro_batches.to_vec() });
        Ok(())
    }

    /// Waits for the steps that were begun, and reads what they computed.
    fn end_steps(&mut self, running: &mut Running<'_, M>) -> Result<Vec<StepMetrics>> {
        let device = self.method.device();
        if let Some(collective) = &mut self.collective {
            collective.wait(device)?;
        }
        let logged = self.method.optimizer().read_log(device, running.steps.len());
        device.check()?;
        let step_ms = running.since.elapsed().as_secs_f64() * 1e3 / running.steps.len().max(1) as f64;
        let mut metrics = Vec::with_capacity(logged.len());
        for (step, logged) in running.steps.drain(..).zip(logged) {
            let (loss, figures) = M::figures(&logged.sums);
            if !(loss.is_finite() && logged.grad_norm.is_finite()) {
                return Err(self.not_finite(&step, loss)?);
            }
            self.method.check_loss(loss)?;
            let RunningStep { step, learning_rate, counts, .. } = step;
            let StepCounts { n_tokens, n_tokens_flat, n_labels } = self.sum_counts(counts)?;
            metrics.push(StepMetrics {
                step,
                total_steps: step,
                epoch: 0.0,
                loss,
                grad_norm: logged.grad_norm as f32,
                learning_rate,
                n_tokens,
                n_tokens_flat,
                n_labels,
                step_ms,
                metrics: figures,
            });
        }
        Ok(metrics)
    }

    /// What all ranks computed of a step.
    fn sum_counts(&mut self, own: StepCounts) -> Result<StepCounts> {
        let Some(collective) = &mut self.collective else { return Ok(own) };
        let mut counts = [own.n_tokens, own.n_tokens_flat, own.n_labels].map(|count| count as f64);
        collective.sum(&mut counts)?;
        let [n_tokens, n_tokens_flat, n_labels] = counts.map(|count| count as usize);
        Ok(StepCounts { n_tokens, n_tokens_flat, n_labels })
    }

    /// Says where a step left the numbers. No weight has changed since: its forward and backward pass are run again, and
    /// leave the same values in the buffers. A rank looks at its own share, which may not be where it happened.
    fn not_finite(&mut self, step: &RunningStep<'_, M>, loss: f64) -> Result<TrainerError> {
        self.method.run_step(&step.micro_batches, self.share(), step.step, None);
        self.method.device().check()?;
        let what = if !loss.is_finite() {
            match self.method.find_not_finite() {
                Some(buffer) => format!("the loss (first in `{buffer}`)"),
                None => "the loss".into(),
            }
        } else {
            let (device, trained) = (self.method.device(), self.method.trained());
            let broken = trained.iter().find(|tensor| {
                let len = device.weight_shape(&tensor.weight).iter().product();
                device.read_f32(&tensor.grad, len).iter().any(|value| !value.is_finite())
            });
            match broken {
                Some(tensor) => format!("the gradient of `{}`", tensor.name),
                None => "the gradient norm".into(),
            }
        };
        let (device, optimizer) = self.method.optimizer_mut();
        optimizer.forget(device);
        Ok(TrainerError::NotFinite { what, step: step.step })
    }

    fn read_weights(&self) -> BestWeights {
        let device = self.method.device();
        self.method.trained().iter().map(|tensor| device.read_weight(&tensor.weight)).collect()
    }

    fn write_weights(&mut self, weights: &BestWeights) {
        let (device, trained) = self.method.trained_mut();
        for (tensor, values) in trained.iter_mut().zip(weights) {
            device.write_weight(&mut tensor.weight, values);
        }
    }

    fn identity(&self, checkpoints: &Checkpoints, train: &[M::Example], held_out: &[M::Example]) -> Identity {
        let mut hash = Sha256::new();
        for set in [train, held_out] {
            hash.update((set.len() as u64).to_le_bytes());
            set.iter().for_each(|example| M::digest(example, &mut hash));
        }
        Identity {
            format: checkpoint::FORMAT,
            method: M::NAME.to_owned(),
            device: M::Device::KIND.to_owned(),
            config: self.config.clone(),
            base_sha256: checkpoints.base_sha256.clone(),
            data_sha256: hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// Writes the result into `folder`: the adapter as PEFT reads it, or the whole model where every weight was trained.
    ///
    /// # Errors
    /// [`TrainerError::Io`].
    pub fn save(&self, base: &BaseModel, folder: &Path) -> Result<()> {
        let tensors = adapter::read(self.method.device(), self.method.trained());
        self.method.device().check()?;
        match self.config.use_lora {
            true => peft::write_adapter(folder, base, &self.config.lora, &tensors)?,
            false => peft::write_model(folder, base, &tensors)?,
        }
        base.write_tokenizer_files(folder)
    }
}

/// Steps that the device has, and that were not read yet.
struct Running<'a, M: Method> {
    steps: Vec<RunningStep<'a, M>>,
    /// When the first of them began.
    since: Instant,
}

struct RunningStep<'a, M: Method> {
    step: usize,
    learning_rate: f32,
    counts: StepCounts,
    micro_batches: Vec<Vec<&'a M::Example>>,
}

impl<M: Method> Running<'_, M> {
    fn new() -> Self {
        Self { steps: Vec::new(), since: Instant::now() }
    }

    /// The log is full, or nothing was heard for a while, or this is the first step of the run: what is wrong with a run
    /// mostly shows there.
    fn is_due(&self) -> bool {
        let first = self.steps.first().is_some_and(|step| step.step == 1);
        first || self.steps.len() == <M::Device as Device>::SIZES.log_rows || self.since.elapsed() > READ_EVERY
    }
}

/// The micro-batches of an epoch: the seed's shuffle cut in order, so that what shares a step does not depend on
/// what shares a prefix.
pub(crate) fn micro_batches<'a, E>(
    config: &TrainConfig,
    train: &'a [E],
    epoch: usize,
) -> impl Iterator<Item = Vec<&'a E>> + use<'a, E> {
    let mut order: Vec<usize> = (0..train.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    rng.set_stream(u64::MAX - epoch as u64); // LoRA's initial values take the streams from 0 up
    for last in (1..order.len()).rev() {
        // Fisher-Yates; the bias of a 64-bit product is below 2^-40 for any set that fits memory.
        let pick = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, pick as usize);
    }
    let batch_size = config.batch_size;
    let n_batches = order.len().div_ceil(batch_size);
    (0..n_batches).map(move |batch| {
        let end = (batch + 1) * batch_size;
        order[batch * batch_size..end.min(order.len())].iter().map(|&index| &train[index]).collect()
    })
}
