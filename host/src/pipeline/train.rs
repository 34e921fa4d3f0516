//! Training on this machine, and the scores before and after it.

use std::ops::ControlFlow;
use std::time::Duration;

use trainer_cuda::TrainerError;
use trainer_cuda::checkpoint::Checkpoints;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::device::Device;
use trainer_cuda::estimate::Estimate;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::Evaluation;
use trainer_cuda::trainer::{Event, Outcome, StepMetrics, Trainer};

use crate::config::LoraFallback;
use crate::error::HostError;
use crate::progress::Progress;
use crate::report;

use super::metrics::MetricsFile;
use super::recipe::Recipe;
use super::work::Work;
use super::workplace::Workplace;

/// What training took and gave.
#[derive(Debug)]
pub(super) struct Training {
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    pub(super) n_tokens: usize,
    pub(super) final_loss: f64,
}

impl Training {
    /// Tokens of the examples, each time they were trained on, by the wall time of the optimiser's steps.
    pub(super) fn tokens_per_second(&self) -> f64 {
        self.n_tokens as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// What is trained: where no module is a LoRA target and the configuration allows it, every weight.
///
/// # Errors
/// [`TrainerError::NoLoraTarget`] where it does not; those of reading the model's tables of contents.
pub(super) fn what<R: Recipe>(work: &Work<'_, R::Example>) -> Result<TrainConfig, HostError> {
    let training = work.training.clone();
    match Estimate::new(work.base, &training, R::batch_size(&training, work.train, work.held_out)) {
        Err(error @ TrainerError::NoLoraTarget { .. }) if work.lora_fallback == LoraFallback::Full => {
            tracing::warn!("Failed to apply LoRA (continuing with full fine-tuning): {error}");
            Ok(TrainConfig { use_lora: false, ..training })
        }
        Err(error) => Err(error.into()),
        Ok(_) => Ok(training),
    }
}

/// Loads the model for training.
pub(super) fn load<R: Recipe, D: Device>(
    device: D,
    training: &TrainConfig,
    base: &BaseModel,
    (train, held_out): (&[R::Example], &[R::Example]),
    place: &Workplace,
) -> Result<Trainer<R::Method<D>>, HostError> {
    let method = R::load(base, training, device, train, held_out, &place.reference)?;
    Ok(Trainer::new(method, training.clone())?)
}

/// The scores of the model that was just loaded, which is the base still, where any example is held out.
pub(super) fn base_scores<R: Recipe, D: Device>(
    trainer: &mut Trainer<R::Method<D>>,
    held_out: &[R::Example],
    progress: &Progress,
) -> Result<Option<Evaluation>, HostError> {
    scores("base", held_out, progress, || R::base_scores(trainer.method_mut(), held_out))
}

/// The scores after training.
pub(super) fn adapter_scores<R: Recipe, D: Device>(
    trainer: &mut Trainer<R::Method<D>>,
    held_out: &[R::Example],
    progress: &Progress,
) -> Result<Option<Evaluation>, HostError> {
    scores("adapter", held_out, progress, || trainer.evaluate(held_out))
}

fn scores<E>(
    who: &'static str,
    held_out: &[E],
    progress: &Progress,
    evaluate: impl FnOnce() -> trainer_cuda::Result<Evaluation>,
) -> Result<Option<Evaluation>, HostError> {
    if held_out.is_empty() {
        return Ok(None);
    }
    let stage = progress.stage(who, held_out.len() as u64);
    let scores = evaluate()?;
    let figures = report::figures(scores.loss, &scores.metrics);
    let figures: Vec<_> = figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
    stage.finish(&format!("held-out {}", figures.join(", ")));
    Ok(Some(scores))
}

/// Trains to the end, from the checkpoint where there is one, with every event in the metrics file.
pub(super) fn train<R: Recipe, D: Device>(
    trainer: &mut Trainer<R::Method<D>>,
    work: &Work<'_, R::Example>,
    place: &Workplace,
    progress: &Progress,
) -> Result<Training, HostError> {
    let checkpoints =
        Checkpoints { path: place.state.clone(), every_steps: work.checkpoint_steps, base_sha256: work.base.sha256()? };
    let mut metrics = MetricsFile::open(&place.metrics)?;
    let mut stage = None;
    let mut failure = None;
    let mut note = |event: &Event| -> Result<(), HostError> {
        metrics.note(event)?;
        match event {
            Event::Resumed { step } => tracing::info!("going on after step {step}"),
            Event::Step(step) => {
                let stage = stage.get_or_insert_with(|| progress.stage("train", step.total_steps as u64));
                stage.at(step.step as u64, &detail(step));
            }
            Event::Evaluation { .. } | Event::EarlyStop { .. } => {}
        }
        progress.check_stop()
    };
    let outcome = trainer.train(work.train, work.held_out, Some(&checkpoints), &mut |event| match note(event) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let training = Training { outcome, took: metrics.took, n_tokens: metrics.n_tokens, final_loss: metrics.final_loss };
    if let Some(stage) = stage {
        stage.finish(&format!("loss {:.4}, {:.0} tokens/s", training.final_loss, training.tokens_per_second()));
    }
    Ok(training)
}

fn detail(step: &StepMetrics) -> String {
    let figures = report::figures(step.loss, &step.metrics);
    let figures: Vec<_> = figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
    format!("{}  lr {:.1e}  epoch {:.1}", figures.join("  "), step.learning_rate, step.epoch)
}
