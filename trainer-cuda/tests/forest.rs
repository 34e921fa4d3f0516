//! A prefix forest is exact: its loss and gradients are those of the flat padded batch.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::path::Path;
use trainer_cuda::batch::{Forest, TokenExample};
use trainer_cuda::config::TrainConfig;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Method, Sft};
use trainer_cuda::trainer::Trainer;

/// Loss and gradients, relative: the sums are the same in another order.
const TOLERANCE: f64 = 1e-5;

fn base() -> BaseModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/llama_tied/base");
    BaseModel::open(&folder).expect("the fixture opens")
}

/// Sequences drawn from a small alphabet, so that many share a prefix, some are equal and some are prefixes of others.
fn random_examples(seed: u64) -> Vec<TokenExample> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut below = |n: u32| rng.next_u32() % n;
    (0..2 + below(6))
        .map(|_| {
            let length = 2 + below(12) as usize;
            let input_ids: Vec<u32> = (0..length).map(|_| 5 + below(2)).collect();
            let start = below(length as u32) as usize;
            let labels = (0..length).map(|i| i >= start.min(length - 1)).collect();
            TokenExample { input_ids, labels, response_start: start }
        })
        .collect()
}

/// Each example as a tree of its own, every token kept, padded with `pad` to the longest: what a flat loader computes.
fn flat(examples: &[TokenExample], pad: u32) -> Forest {
    let longest = examples.iter().map(|example| example.input_ids.len()).max().unwrap_or(0);
    let mut flat = Forest { edge_start: vec![0], example_start: vec![0], ..Forest::default() };
    for example in examples {
        let first = flat.token_ids.len() as u32;
        let length = example.input_ids.len() as u32;
        for (depth, &id) in (0..).zip(&example.input_ids) {
            flat.token_ids.push(id);
            flat.position.push(depth);
            flat.subtree_end.push(first + length);
            if example.labels.get(depth as usize + 1) == Some(&true) {
                flat.rows.push(first + depth);
                flat.edge_target.push(example.input_ids[depth as usize + 1]);
                flat.edge_weight.push(1.0);
                flat.edge_start.push(flat.edge_target.len() as u32);
                flat.example_edges.push(flat.edge_target.len() as u32 - 1);
            }
        }
        for depth in length..longest as u32 {
            flat.token_ids.push(pad);
            flat.position.push(depth);
            flat.subtree_end.push(first + depth + 1);
        }
        flat.example_start.push(flat.example_edges.len() as u32);
        flat.response_edges.push(0);
    }
    flat.n_tokens_flat = flat.token_ids.len();
    flat
}

fn assert_forest_equals_flat(use_lora: bool, seeds: std::ops::Range<u64>) {
    let base = base();
    for seed in seeds {
        let examples = random_examples(seed);
        let config = TrainConfig { use_lora, ..TrainConfig::default() };
        let separate = flat(&examples, 2);
        let method = Sft::with_budget(Cpu::new(Some(2)), &base, &config, separate.budget()).expect("the model loads");
        let mut trainer = Trainer::new(method, config).expect("a valid configuration");
        if use_lora {
            // B is zero at the start, and with it A's gradient: give both something to say.
            trainer.step(&[examples.iter().collect()], 1, 1e-2).expect("finite");
        }
        let merged = Forest::new(&examples.iter().collect::<Vec<_>>());
        let mut accumulate = |forest: Forest| {
            trainer.method_mut().run_forests(&[forest], None);
            let (device, optimizer) = trainer.method_mut().optimizer_mut();
            let [loss, ..] = optimizer.take_sums(device);
            let grads = trainer.method().trained().iter().map(|tensor| tensor.grad.clone()).collect();
            (loss, grads)
        };
        let (forest_loss, forest_grads): (f64, Vec<Vec<f32>>) = accumulate(merged);
        let (flat_loss, flat_grads) = accumulate(separate);
        assert!((forest_loss - flat_loss).abs() <= TOLERANCE * flat_loss, "seed {seed}: {forest_loss} {flat_loss}");
        let names = trainer.method().trained().iter().map(|tensor| &tensor.name);
        for ((name, flat_grad), forest_grad) in names.zip(&flat_grads).zip(&forest_grads) {
            let square = |x: f32| f64::from(x) * f64::from(x);
            let difference: f64 = flat_grad.iter().zip(forest_grad).map(|(a, b)| square(a - b)).sum();
            let norm: f64 = flat_grad.iter().map(|&a| square(a)).sum();
            assert!(difference.sqrt() <= TOLERANCE * norm.sqrt(), "seed {seed}: gradient of `{name}`");
        }
    }
}

#[test]
fn forest_equals_flat_batch_for_lora() {
    assert_forest_equals_flat(true, 0..150);
}

#[test]
fn forest_equals_flat_batch_for_every_parameter() {
    assert_forest_equals_flat(false, 200..250);
}
