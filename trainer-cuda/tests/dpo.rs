//! DPO beyond the goldens: where it starts, what is cached, and that a forest across pairs changes nothing.

#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

mod small;

use std::ops::ControlFlow;
use trainer_cuda::TrainerError;
use trainer_cuda::config::TrainConfig;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Dpo, Method, MethodMetrics, PairExample};
use trainer_cuda::trainer::{StepMetrics, Trainer};

fn trainer(base: &BaseModel, config: TrainConfig, pairs: &[PairExample]) -> Trainer<Dpo<Cpu>> {
    let method = Dpo::new(Cpu::new(None), base, &config, pairs, pairs, None).unwrap();
    Trainer::new(method, config).unwrap()
}

#[test]
fn the_first_loss_is_ln_2_with_and_without_an_adapter() {
    let base = small::base();
    let pairs = small::pairs(&base);
    for use_lora in [true, false] {
        let mut trainer = trainer(&base, TrainConfig { use_lora, ..TrainConfig::default() }, &pairs);
        let start = trainer.evaluate(&pairs).unwrap();
        // Policy and reference are the same numbers summed in other batches: f32 leaves 1e-6 of 50 nats, times beta.
        assert!((start.loss - std::f64::consts::LN_2).abs() < 1e-6, "{start:?}");
        let metrics = trainer.step(&[pairs.iter().take(4).collect()], 1, 1e-3).unwrap();
        assert!((metrics.loss - std::f64::consts::LN_2).abs() < 1e-6, "{metrics:?}");
    }
}

#[test]
fn training_raises_the_margin_and_the_accuracy() {
    let base = small::base();
    let pairs = small::pairs(&base);
    let mut trainer = trainer(&base, TrainConfig { epochs: 4, learning_rate: 5e-3, ..TrainConfig::default() }, &pairs);
    trainer.train(&pairs, &[], None, &mut |_| ControlFlow::Continue(())).unwrap();
    let MethodMetrics::Dpo { reward_accuracy, reward_margin, chosen_reward, rejected_reward } =
        trainer.evaluate(&pairs).unwrap().metrics
    else {
        panic!("another method's figures")
    };
    assert_eq!(reward_accuracy, 1.0);
    assert!(reward_margin > 1.0, "{reward_margin}");
    assert!((chosen_reward - rejected_reward - reward_margin).abs() < 1e-12);
}

/// Six pairs in one forest, and each pair in a micro-batch of its own: the same step.
#[test]
fn a_forest_across_pairs_equals_pairs_alone() {
    let base = small::base();
    let pairs = small::pairs(&base);
    let gradients = |micro_batches: &[Vec<&PairExample>]| {
        let mut trainer = trainer(&base, TrainConfig { use_lora: false, ..TrainConfig::default() }, &pairs);
        let metrics = trainer.step(micro_batches, 1, 0.0).unwrap();
        let grads: Vec<Vec<f32>> = trainer.method().trained().iter().map(|tensor| tensor.grad.clone()).collect();
        (metrics, grads)
    };
    let (together, grads_together) = gradients(&[pairs[..6].iter().collect()]);
    let (alone, grads_alone) = gradients(&pairs[..6].iter().map(|pair| vec![pair]).collect::<Vec<_>>());
    assert!(together.n_tokens < alone.n_tokens, "six pairs share their instruction");
    assert_eq!(together.n_tokens_flat, alone.n_tokens_flat);
    assert!((together.loss - alone.loss).abs() < 1e-6);
    let square = |x: f32| f64::from(x) * f64::from(x);
    let (mut difference, mut norm) = (0.0, 0.0);
    for (a, b) in grads_together.iter().flatten().zip(grads_alone.iter().flatten()) {
        difference += square(a - b);
        norm += square(*b);
    }
    assert!(difference.sqrt() < 1e-5 * norm.sqrt(), "{} of {}", difference.sqrt(), norm.sqrt());
}

/// Twenty pairs that share their instruction are scored in batches of as many as fit the tokens, though a step has one.
#[test]
fn a_batch_that_is_only_scored_may_hold_more_pairs_than_a_step() {
    let base = small::base();
    let pairs = small::pairs(&base);
    let mut trainer = trainer(&base, TrainConfig { batch_size: 1, ..TrainConfig::default() }, &pairs);
    let start = trainer.evaluate(&pairs).unwrap();
    assert_eq!(start.n_examples, 20);
    assert!((start.loss - std::f64::consts::LN_2).abs() < 1e-6, "{start:?}");
    assert!((trainer.step(&[vec![&pairs[7]]], 1, 1e-3).unwrap().loss - std::f64::consts::LN_2).abs() < 1e-6);
}

#[test]
fn a_reference_of_other_data_is_computed_anew_and_one_of_another_model_is_found_out() {
    let base = small::base();
    let pairs = small::pairs(&base);
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("reference.json");
    let config = TrainConfig::default();
    let start = |pairs: &[PairExample]| -> trainer_cuda::Result<StepMetrics> {
        let method = Dpo::new(Cpu::new(None), &base, &config, pairs, &[], Some(&cache)).unwrap();
        let step = Trainer::new(method, config.clone()).unwrap().step(&[pairs.iter().collect()], 1, 0.0)?;
        Ok(StepMetrics { step_ms: 0.0, ..step }) // the clock's
    };
    let first = start(&pairs[..8]).unwrap();
    let written = std::fs::read(&cache).unwrap();
    assert_eq!(start(&pairs[..8]).unwrap(), first);
    assert_eq!(std::fs::read(&cache).unwrap(), written, "read, not written again");

    start(&pairs[8..16]).unwrap();
    let other = std::fs::read_to_string(&cache).unwrap();
    assert_ne!(other.as_bytes(), written);

    // The right key over numbers of another model.
    let mut forged: serde_json::Value = serde_json::from_str(&other).unwrap();
    for pair in forged["pairs"].as_array_mut().unwrap() {
        pair["chosen"] = (pair["chosen"].as_f64().unwrap() + 20.0).into();
    }
    std::fs::write(&cache, forged.to_string()).unwrap();
    let error = start(&pairs[8..16]).unwrap_err();
    let TrainerError::StaleReference { loss } = error else { panic!("{error}") };
    assert!((loss - 2.126928).abs() < 1e-5, "-log sigmoid(-0.1 * 20) = 2.126928, not {loss}");
}
