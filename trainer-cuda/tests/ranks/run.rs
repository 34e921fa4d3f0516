//! One run by any of the three methods, and how far two of them are apart.

use crate::small;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use trainer_cuda::Result;
use trainer_cuda::checkpoint::Checkpoints;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::method::{Dpo, Evaluation, Method, Sft, Triplets};
use trainer_cuda::trainer::{Event, Outcome, StepMetrics, Trainer};

/// Seventeen of the twenty examples train, three are held out.
pub(crate) const TRAIN: usize = 17;

/// Which method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Which {
    Sft,
    Dpo,
    Triplets,
}

pub(crate) const METHODS: [Which; 3] = [Which::Sft, Which::Dpo, Which::Triplets];

/// What a run left behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) steps: Vec<StepMetrics>,
    pub(crate) evaluations: Vec<Evaluation>,
    pub(crate) weights: Vec<Vec<f32>>,
    /// Steps done, the step that it went on from, the best one.
    pub(crate) outcome: (usize, Option<usize>, Option<usize>),
}

/// Three epochs of steps of eight, eight and one example: in the last, all ranks but one have nothing to do.
pub(crate) fn config() -> TrainConfig {
    TrainConfig {
        epochs: 3,
        batch_size: 4,
        gradient_accumulation_steps: 2,
        learning_rate: 1e-3,
        max_grad_norm: 1.0,
        eval_steps: Some(2),
        early_stopping_patience: Some(50),
        ..TrainConfig::default()
    }
}

/// How a run differs from one that goes through on one rank.
pub(crate) struct Ways<'a, M: Method> {
    /// Joins the other ranks.
    pub(crate) join: &'a dyn Fn(Trainer<M>) -> Result<Trainer<M>>,
    pub(crate) checkpoints: Option<&'a Checkpoints>,
    /// After which events it is cancelled.
    pub(crate) stop: &'a dyn Fn(&Event) -> bool,
}

/// Trains.
pub(crate) fn train<M: Method>(
    method: M,
    config: &TrainConfig,
    data: &[M::Example],
    ways: &Ways<'_, M>,
) -> Result<Run> {
    let mut trainer = (ways.join)(Trainer::new(method, config.clone())?)?;
    let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
    let (train, held_out) = data.split_at(TRAIN);
    let outcome = trainer.train(train, held_out, ways.checkpoints, &mut |event| {
        match event {
            Event::Step(metrics) => steps.push(StepMetrics { step_ms: 0.0, ..metrics.clone() }),
            Event::Evaluation { evaluation, .. } => evaluations.push(*evaluation),
            _ => {}
        }
        if (ways.stop)(event) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let Outcome { steps: n_steps, resumed_at, best_step, .. } = outcome;
    let method = trainer.method();
    let weights = method.trained().iter().map(|tensor| method.device().read_weight(&tensor.weight)).collect();
    Ok(Run { steps, evaluations, weights, outcome: (n_steps, resumed_at, best_step) })
}

/// A run that does not depend on the method's type: what it is joined with does.
pub(crate) trait Ranked {
    type Device: Device;

    fn device(&self) -> Self::Device;

    fn world_size(&self) -> usize;

    fn join<M: Method<Device = Self::Device>>(&self, trainer: Trainer<M>) -> Result<Trainer<M>>;

    fn checkpoints(&self) -> Option<&Checkpoints> {
        None
    }

    fn stop(&self, _: &Event) -> bool {
        false
    }

    fn run(&self, which: Which, config: &TrainConfig) -> Result<Run>
    where
        Self: Sized,
    {
        fn go<M: Method>(
            ranked: &impl Ranked<Device = M::Device>,
            method: M,
            config: &TrainConfig,
            data: &[M::Example],
        ) -> Result<Run> {
            let ways = Ways {
                join: &|trainer| ranked.join(trainer),
                checkpoints: ranked.checkpoints(),
                stop: &|event| ranked.stop(event),
            };
            train(method, config, data, &ways)
        }
        let device = self.device();
        let config = &TrainConfig { world_size: self.world_size(), ..config.clone() };
        match which {
            Which::Sft => {
                let base = small::base();
                let data = small::sequences(&base);
                let method = Sft::new(device, &base, config, &data[..TRAIN], &data[TRAIN..])?;
                go(self, method, config, &data)
            }
            Which::Dpo => {
                let base = small::base();
                let data = small::pairs(&base);
                let method = Dpo::new(device, &base, config, &data[..TRAIN], &data[TRAIN..], None)?;
                go(self, method, config, &data)
            }
            Which::Triplets => {
                let base = small::encoder_base();
                let data = small::triplets(&base);
                let method = Triplets::new(device, &base, config, &data[..TRAIN], &data[TRAIN..])?;
                go(self, method, config, &data)
            }
        }
    }
}

/// One rank, which is all.
pub(crate) struct Alone<'a>(pub(crate) Option<&'a Checkpoints>);

impl Ranked for Alone<'_> {
    type Device = Cpu;

    fn device(&self) -> Cpu {
        Cpu::new(Some(1))
    }

    fn world_size(&self) -> usize {
        1
    }

    fn join<M: Method<Device = Cpu>>(&self, trainer: Trainer<M>) -> Result<Trainer<M>> {
        Ok(trainer)
    }

    fn checkpoints(&self) -> Option<&Checkpoints> {
        self.0
    }
}

/// By how much a weight or a loss may be off: gradients are the same terms in another order of summation, 1e-7 of their
/// size a step, which AdamW turns into up to 1e-7 of a step's update, but for values near nothing, whose sign is rounding.
pub(crate) const TOLERANCE: f64 = 1e-5;

/// The steps from the last one's end, the evaluations and the weights are the same up to [`TOLERANCE`]. What is counted is
/// the same, but for tokens: prefixes are shared within a rank only.
pub(crate) fn assert_same(run: &Run, alone: &Run, what: &str) {
    assert_near(run, alone, what, [TOLERANCE; 2]);
}

/// The same up to other tolerances: of losses, and of weights.
pub(crate) fn assert_near(run: &Run, alone: &Run, what: &str, [of_losses, of_weights]: [f64; 2]) {
    assert!(!run.steps.is_empty() && run.steps.len() <= alone.steps.len(), "{what}");
    let skipped = alone.steps.len() - run.steps.len();
    for (run, alone) in run.steps.iter().zip(&alone.steps[skipped..]) {
        let counts = |step: &StepMetrics| (step.step, step.total_steps, step.n_tokens_flat, step.n_labels);
        assert_eq!(counts(run), counts(alone), "{what}");
        let off = (run.loss - alone.loss).abs();
        assert!(off <= of_losses, "{what}: the loss of step {} is off by {off:e}", run.step);
        let norm = f64::from((run.grad_norm - alone.grad_norm).abs() / alone.grad_norm);
        assert!(norm <= of_losses * 10.0, "{what}: the gradient's norm of step {} is off by {norm:e}", run.step);
    }
    let skipped = alone.evaluations.len() - run.evaluations.len();
    assert!(!run.evaluations.is_empty());
    for (run, alone) in run.evaluations.iter().zip(&alone.evaluations[skipped..]) {
        assert_eq!((run.n_examples, run.n_labels), (alone.n_examples, alone.n_labels), "{what}");
        let off = (run.loss - alone.loss).abs().max((run.accuracy() - alone.accuracy()).abs());
        assert!(off <= of_losses, "{what}: an evaluation is off by {off:e}");
    }
    let off = furthest(run, alone);
    println!("{what}: the furthest weight is off by {off:e}");
    assert!(off <= of_weights, "{what}: a weight is off by {off:e}");
}

/// The largest difference of two weights.
pub(crate) fn furthest(a: &Run, b: &Run) -> f64 {
    assert_eq!(a.weights.len(), b.weights.len());
    let pairs = a.weights.iter().flatten().zip(b.weights.iter().flatten());
    pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}
