//! Whole runs on the CUDA device: as on the CPU up to bf16's rounding; the same bytes with graphs and without, with
//! activations kept or computed again, and broken off and gone on with.

#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

#[path = "../cuda/libraries.rs"]
mod libraries;
#[path = "../small/mod.rs"]
mod small;

use std::ops::ControlFlow;
use trainer_cuda::checkpoint::Checkpoints;
use trainer_cuda::config::{LoraConfig, Precision, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::cuda::{Cuda, CudaOptions};
use trainer_cuda::device::Device;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Dpo, Evaluation, Method, Sft, Triplets};
use trainer_cuda::trainer::{Event, StepMetrics, Stopped, Trainer};

fn gpu(graphs: bool) -> Cuda {
    let libraries = libraries::folder("memory");
    Cuda::open(0, CudaOptions { libraries, graphs, ..CudaOptions::default() }).expect("a GPU")
}

fn cpu() -> Cpu {
    Cpu::new(Some(1))
}

/// Four epochs of five steps.
fn config() -> TrainConfig {
    TrainConfig { epochs: 4, learning_rate: 5e-3, max_grad_norm: 1.0, ..TrainConfig::default() }
}

/// What a run left behind.
#[derive(Debug, PartialEq)]
struct Run {
    steps: Vec<StepMetrics>,
    end: Evaluation,
    weights: Vec<Vec<f32>>,
}

fn train<M: Method>(method: M, config: &TrainConfig, examples: &[M::Example]) -> Run {
    let mut trainer = Trainer::new(method, config.clone()).unwrap();
    let mut steps = Vec::new();
    let mut note = |event: &Event| {
        if let Event::Step(metrics) = event {
            steps.push(StepMetrics { step_ms: 0.0, ..metrics.clone() });
        }
        ControlFlow::Continue(())
    };
    trainer.train(examples, &[], None, &mut note).unwrap();
    let end = trainer.evaluate(examples).unwrap();
    Run { steps, end, weights: weights(trainer.method()) }
}

fn weights<M: Method>(method: &M) -> Vec<Vec<f32>> {
    method.trained().iter().map(|tensor| method.device().read_weight(&tensor.weight)).collect()
}

fn sft<D: Device>(device: D, base: &BaseModel, config: &TrainConfig) -> Run {
    let examples = small::sequences(base);
    train(Sft::new(device, base, config, &examples, &examples).unwrap(), config, &examples)
}

fn dpo<D: Device>(device: D, base: &BaseModel, config: &TrainConfig) -> Run {
    let examples = small::pairs(base);
    train(Dpo::new(device, base, config, &examples, &examples, None).unwrap(), config, &examples)
}

fn triplets<D: Device>(device: D, base: &BaseModel, config: &TrainConfig) -> Run {
    let examples = small::triplets(base);
    train(Triplets::new(device, base, config, &examples, &examples).unwrap(), config, &examples)
}

/// Losses of each step within `tolerance` of the first step's loss, and of what the run ends with.
#[track_caller]
fn assert_near(gpu: &Run, cpu: &Run, tolerance: f64) {
    assert_eq!(gpu.steps.len(), cpu.steps.len());
    let scale = cpu.steps[0].loss;
    for (gpu, cpu) in gpu.steps.iter().zip(&cpu.steps) {
        let off = (gpu.loss - cpu.loss).abs() / scale;
        println!("step {}: {} on the GPU, {} on the CPU: {off:.1e}", cpu.step, gpu.loss, cpu.loss);
        assert!(off < tolerance, "step {}: {off:e} off", cpu.step);
        let figures = |metrics: &StepMetrics| (metrics.step, metrics.n_tokens, metrics.n_tokens_flat, metrics.n_labels);
        assert_eq!(figures(gpu), figures(cpu));
        assert_eq!(gpu.learning_rate, cpu.learning_rate);
    }
    println!("end: {:?} on the GPU, {:?} on the CPU", gpu.end, cpu.end);
    assert!((gpu.end.loss - cpu.end.loss).abs() / scale < tolerance);
    assert!(cpu.end.loss < 0.9 * scale, "the run learnt something");
}

// Twenty steps at 25 times the usual learning rate: differences of one rounding grow with the weights' way.
const NEAR: f64 = 2e-2;

#[test]
fn sft_ends_where_it_does_on_the_cpu() {
    let base = small::base();
    assert_near(&sft(gpu(true), &base, &config()), &sft(cpu(), &base, &config()), NEAR);
}

#[test]
fn dpo_ends_where_it_does_on_the_cpu() {
    let base = small::base();
    assert_near(&dpo(gpu(true), &base, &config()), &dpo(cpu(), &base, &config()), NEAR);
}

#[test]
fn triplets_end_where_they_do_on_the_cpu() {
    let base = small::encoder_base();
    assert_near(&triplets(gpu(true), &base, &config()), &triplets(cpu(), &base, &config()), NEAR);
}

#[test]
fn full_fine_tuning_ends_where_it_does_on_the_cpu() {
    let config = TrainConfig { use_lora: false, learning_rate: 1e-3, epochs: 2, ..config() };
    let base = small::base();
    assert_near(&sft(gpu(true), &base, &config), &sft(cpu(), &base, &config), NEAR);
    let base = small::encoder_base();
    assert_near(&triplets(gpu(true), &base, &config), &triplets(cpu(), &base, &config), NEAR);
}

#[test]
fn dropped_inputs_are_those_of_the_cpu() {
    let config = TrainConfig { lora: LoraConfig { dropout: 0.3, ..LoraConfig::default() }, ..config() };
    let base = small::base();
    assert_near(&sft(gpu(true), &base, &config), &sft(cpu(), &base, &config), NEAR);
    let base = small::encoder_base();
    assert_near(&triplets(gpu(true), &base, &config), &triplets(cpu(), &base, &config), NEAR);
}

#[test]
fn a_run_from_quantised_blocks_ends_where_it_does_on_the_cpu() {
    let base = BaseModel::open(&small::fixture("llama_tied.gguf")).unwrap();
    let config = TrainConfig { precision: Precision::Quantized, ..config() };
    assert_near(&sft(gpu(true), &base, &config), &sft(cpu(), &base, &config), NEAR);
}

#[test]
fn a_recorded_step_and_one_that_runs_by_itself_end_with_the_same_bytes() {
    let dropout = LoraConfig { dropout: 0.3, ..LoraConfig::default() };
    let accumulated = TrainConfig { batch_size: 2, gradient_accumulation_steps: 2, epochs: 2, ..config() };
    for config in [config(), TrainConfig { lora: dropout, ..accumulated }] {
        let base = small::base();
        assert!(sft(gpu(true), &base, &config) == sft(gpu(false), &base, &config), "SFT");
        assert!(dpo(gpu(true), &base, &config) == dpo(gpu(false), &base, &config), "DPO");
        let base = small::encoder_base();
        assert!(triplets(gpu(true), &base, &config) == triplets(gpu(false), &base, &config), "triplets");
    }
}

#[test]
fn activations_that_are_computed_again_are_the_same_bytes() {
    let recompute = TrainConfig { recompute: true, ..config() };
    let base = small::base();
    assert!(sft(gpu(true), &base, &config()) == sft(gpu(true), &base, &recompute), "SFT");
    assert!(dpo(gpu(true), &base, &config()) == dpo(gpu(true), &base, &recompute), "DPO");
}

#[test]
fn a_run_that_was_broken_off_goes_on_to_the_same_bytes() {
    let (base, config) = (small::base(), config());
    let examples = small::sequences(&base);
    let unbroken = sft(gpu(true), &base, &config);
    let folder = tempfile::tempdir().unwrap();
    let checkpoints =
        Checkpoints { path: folder.path().join("checkpoint.safetensors"), every_steps: 3, base_sha256: "base".into() };
    let run = |stop_at: usize| {
        let method = Sft::new(gpu(true), &base, &config, &examples, &examples).unwrap();
        let mut trainer = Trainer::new(method, config.clone()).unwrap();
        let mut stop = |event: &Event| match event {
            Event::Step(metrics) if metrics.step == stop_at => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let outcome = trainer.train(&examples, &[], Some(&checkpoints), &mut stop).unwrap();
        (outcome, weights(trainer.method()))
    };
    let (outcome, _) = run(9);
    assert_eq!((outcome.stopped, outcome.steps), (Stopped::Cancelled, 9));
    let (outcome, weights) = run(usize::MAX);
    assert_eq!((outcome.stopped, outcome.resumed_at), (Stopped::Finished, Some(9)));
    assert!(weights == unbroken.weights);
}
