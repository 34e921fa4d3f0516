//! Training on this machine's CPU, and the scores before and after it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use trainer_cuda::batch::TokenExample;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Evaluation, Method, Sft};
use trainer_cuda::trainer::{Event, StepMetrics, Trainer};

use crate::config::RunConfig;
use crate::error::HostError;
use crate::progress::Progress;
use crate::run_dir::RunDir;

/// The file of a run folder with one line per event of the training.
const METRICS_FILE: &str = "metrics.jsonl";

/// What training took and gave.
#[derive(Debug, Default)]
pub(super) struct Training {
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

pub(super) fn load(
    config: &RunConfig,
    base: &BaseModel,
    train: &[TokenExample],
    held_out: &[TokenExample],
) -> Result<Trainer<Sft<Cpu>>, HostError> {
    let method = Sft::new(Cpu::new(None), base, &config.training, train, held_out)?;
    Ok(Trainer::new(method, config.training.clone())?)
}

/// What the trainer runs on.
pub(super) fn device(trainer: &Trainer<Sft<Cpu>>) -> String {
    trainer.method().device().describe()
}

/// Scores the held-out examples, where there are any.
pub(super) fn evaluate(
    trainer: &mut Trainer<Sft<Cpu>>,
    held_out: &[TokenExample],
    who: &'static str,
    progress: &Progress,
) -> Option<Evaluation> {
    if held_out.is_empty() {
        return None;
    }
    let stage = progress.stage(who, held_out.len() as u64);
    let scores = trainer.evaluate(held_out);
    stage.finish(&format!("held-out loss {:.4}, exact match {:.1}%", scores.loss, 100.0 * scores.accuracy()));
    Some(scores)
}

/// Trains to the end, with every event in the run folder's metrics file.
pub(super) fn train(
    trainer: &mut Trainer<Sft<Cpu>>,
    train: &[TokenExample],
    held_out: &[TokenExample],
    run_dir: &RunDir,
    progress: &Progress,
) -> Result<Training, HostError> {
    let (mut metrics, metrics_path) = (run_dir.file(METRICS_FILE)?, run_dir.path().join(METRICS_FILE));
    let mut stage = None;
    let mut training = Training::default();
    let mut failure = None;
    let mut note = |event: &Event| -> Result<(), HostError> {
        if let Event::Step(step) = event {
            training.final_loss = step.loss;
            training.n_tokens += step.n_tokens_flat;
            training.took += Duration::from_secs_f64(step.step_ms / 1e3);
            let stage = stage.get_or_insert_with(|| progress.stage("train", step.total_steps as u64));
            stage.at(step.step as u64, &detail(step));
        }
        write_line(&mut metrics, event).map_err(HostError::io("write", &metrics_path))?;
        progress.check_stop()
    };
    trainer.train(train, held_out, None, &mut |event| match note(event) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    metrics.flush().map_err(HostError::io("write", &metrics_path))?;
    if let Some(stage) = stage {
        stage.finish(&format!("loss {:.4}, {:.0} tokens/s", training.final_loss, training.tokens_per_second()));
    }
    Ok(training)
}

fn detail(step: &StepMetrics) -> String {
    format!("loss {:.4}  lr {:.1e}  epoch {:.1}", step.loss, step.learning_rate, step.epoch)
}

fn write_line(metrics: &mut BufWriter<File>, event: &Event) -> std::io::Result<()> {
    serde_json::to_writer(&mut *metrics, event)?;
    metrics.write_all(b"\n")
}
