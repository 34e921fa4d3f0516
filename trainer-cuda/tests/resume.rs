//! Checkpoints: a run that stops anywhere goes on to the same bytes; early stopping keeps the best weights.

#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

mod small;

use small::{pairs, sequences};
use std::ops::ControlFlow;
use std::path::Path;
use trainer_cuda::checkpoint::Checkpoints;
use trainer_cuda::config::{LoraConfig, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Dpo, Method, Sft};
use trainer_cuda::trainer::{Event, Outcome, Stopped, Trainer};

fn config() -> TrainConfig {
    TrainConfig {
        epochs: 2,
        learning_rate: 1e-2,
        early_stopping_patience: Some(3),
        eval_steps: Some(2),
        ..TrainConfig::default()
    }
}

fn checkpoints(folder: &Path) -> Checkpoints {
    Checkpoints { path: folder.join("checkpoint.safetensors"), every_steps: 1, base_sha256: "base".into() }
}

fn sft(base: &BaseModel, config: &TrainConfig) -> Trainer<Sft<Cpu>> {
    let data = sequences(base);
    let (train, held_out) = data.split_at(16);
    Trainer::new(Sft::new(Cpu::new(None), base, config, train, held_out).unwrap(), config.clone()).unwrap()
}

fn dpo(base: &BaseModel, config: &TrainConfig) -> Trainer<Dpo<Cpu>> {
    let data = pairs(base);
    let (train, held_out) = data.split_at(16);
    Trainer::new(Dpo::new(Cpu::new(None), base, config, train, held_out, None).unwrap(), config.clone()).unwrap()
}

/// Trains on the first sixteen examples until `stop` says so.
fn train<M: Method>(
    trainer: &mut Trainer<M>,
    data: &[M::Example],
    checkpoints: Option<&Checkpoints>,
    mut stop: impl FnMut(&Event) -> bool,
) -> trainer_cuda::Result<Outcome> {
    let (train, held_out) = data.split_at(16);
    trainer.train(train, held_out, checkpoints, &mut |event| {
        if stop(event) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

fn weights<M: Method>(trainer: &Trainer<M>) -> Vec<Vec<f32>> {
    let method = trainer.method();
    method.trained().iter().map(|tensor| method.device().read_weight(&tensor.weight)).collect()
}

/// Cancels after every event in turn, each time with a new trainer, and compares with the run that nobody stopped.
fn stops_anywhere<M: Method>(make: impl Fn() -> Trainer<M>, data: &[M::Example]) {
    let mut unbroken = make();
    let mut events = 0;
    let outcome = train(&mut unbroken, data, None, |_| {
        events += 1;
        false
    });
    let expected = (outcome.unwrap(), weights(&unbroken));
    assert_eq!(expected.0.stopped, Stopped::Finished);
    assert_eq!(events, 8 + 4, "eight steps, an evaluation after each second");

    for stop_after in 1..=events {
        let folder = tempfile::tempdir().unwrap();
        let saved = checkpoints(folder.path());
        let mut seen = 0;
        let cancelled = train(&mut make(), data, Some(&saved), |_| {
            seen += 1;
            seen == stop_after
        });
        assert_eq!(cancelled.unwrap().stopped, Stopped::Cancelled);

        let mut again = make();
        let outcome = train(&mut again, data, Some(&saved), |_| false).unwrap();
        assert_eq!(Outcome { resumed_at: None, ..outcome }, expected.0, "stopped after event {stop_after}");
        assert!(weights(&again) == expected.1, "stopped after event {stop_after}");
    }
}

#[test]
fn an_sft_run_cancelled_after_any_event_goes_on_to_the_same_bytes() {
    let base = small::base();
    stops_anywhere(|| sft(&base, &config()), &sequences(&base));
}

#[test]
fn a_dpo_run_cancelled_after_any_event_goes_on_to_the_same_bytes() {
    let base = small::base();
    let config = TrainConfig { learning_rate: 1e-3, early_stopping_patience: Some(5), ..config() };
    stops_anywhere(|| dpo(&base, &config), &pairs(&base));
}

#[test]
fn early_stopping_ends_the_run_and_keeps_the_weights_of_the_lowest_loss() {
    let base = small::base();
    // A rate that overshoots: the held-out loss rises after a few steps.
    let config = TrainConfig { learning_rate: 0.3, epochs: 20, early_stopping_patience: Some(2), ..config() };
    let data = sequences(&base);
    let mut trainer = sft(&base, &config);
    let mut losses = Vec::new();
    let outcome = train(&mut trainer, &data, None, |event| {
        if let Event::Evaluation { step, evaluation, .. } = event {
            losses.push((evaluation.loss, *step));
        }
        false
    });
    let outcome = outcome.unwrap();
    let best = losses.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert_eq!(outcome.stopped, Stopped::Early);
    assert_eq!(outcome.best_step, Some(best.1));
    assert_eq!(outcome.steps, best.1 + 2 * 2, "two evaluations of two steps each without a lower loss");
    assert_eq!(trainer.evaluate(&data[16..]).unwrap().loss, best.0);
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_what_differs() {
    let base = small::base();
    let data = sequences(&base);
    let folder = tempfile::tempdir().unwrap();
    let saved = checkpoints(folder.path());
    train(&mut sft(&base, &config()), &data, Some(&saved), |_| true).unwrap();
    let refused = |trainer: &mut Trainer<Sft<Cpu>>, saved: &Checkpoints, data| {
        train(trainer, data, Some(saved), |_| false).unwrap_err().to_string()
    };
    let message = |what: &str| {
        format!(
            "the checkpoint `{}` is of {what}; resume with what it was made with, or remove it to start anew",
            saved.path.display()
        )
    };

    let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
    let other = TrainConfig { epochs: 3, lora, ..config() };
    assert_eq!(
        refused(&mut sft(&base, &other), &saved, &data),
        message("another configuration: `epochs` is 2 there, 3 here, `lora.rank` is 8 there, 4 here")
    );
    let other_base = Checkpoints { base_sha256: "other".into(), ..saved.clone() };
    assert_eq!(refused(&mut sft(&base, &config()), &other_base, &data), message("another base model"));
    let mut other_data = data.clone();
    other_data.swap(0, 1);
    assert_eq!(refused(&mut sft(&base, &config()), &saved, &other_data), message("other training data"));

    std::fs::write(&saved.path, b"not a checkpoint").unwrap();
    let text = refused(&mut sft(&base, &config()), &saved, &data);
    assert!(text.starts_with(&format!("`{}`", saved.path.display())), "{text}");
}

/// The disk is full, in effect: the file beside the checkpoint can't be made.
#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_one_before() {
    let base = small::base();
    let data = sequences(&base);
    let folder = tempfile::tempdir().unwrap();
    let saved = checkpoints(folder.path());
    train(&mut sft(&base, &config()), &data, Some(&saved), |event| matches!(event, Event::Evaluation { .. })).unwrap();
    let before = std::fs::read(&saved.path).unwrap();

    std::fs::create_dir(folder.path().join("checkpoint.safetensors.unfinished")).unwrap();
    let error = train(&mut sft(&base, &config()), &data, Some(&saved), |_| false).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write `{}`", saved.path.display())), "{error}");
    assert_eq!(std::fs::read(&saved.path).unwrap(), before);
}
