//! The training loop: full fine-tuning against Hugging Face, determinism, saving, and what stops a run.

#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

use safetensors::SafeTensors;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};
use trainer_cuda::TrainerError;
use trainer_cuda::batch::{Forest, TokenExample};
use trainer_cuda::config::{LoraConfig, TargetModules, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::encode::{EncodeConfig, OverLength, Record, Skipped, encode_sft};
use trainer_cuda::formats::{BaseModel, peft};
use trainer_cuda::method::{Method, MethodMetrics, Sft};
use trainer_cuda::trainer::{Event, Trainer};

const MODELS: [&str; 4] = ["llama_tied", "llama_untied_rope3", "qwen2", "qwen3"];

/// A small model with twenty examples of its set, completion-only.
struct Fixture {
    name: &'static str,
    base: BaseModel,
    data: Vec<TokenExample>,
}

fn fixtures() -> impl Iterator<Item = Fixture> {
    MODELS.into_iter().map(|name| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name);
        let base = BaseModel::open(&folder.join("base")).unwrap();
        let reference: Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join("ref.json")).unwrap()).unwrap();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let rows = reference["data_sft"].as_array().unwrap().iter();
        let records: Vec<Record> = rows
            .map(|row| Record::PromptCompletion { prompt: text(row, "prompt"), completion: text(row, "completion") })
            .collect();
        let data = encode_sft(&base.tokenizer, &records, &EncodeConfig::default()).unwrap().examples;
        Fixture { name, base, data }
    })
}

fn fixture() -> Fixture {
    fixtures().next().unwrap()
}

/// `|a - b| / |b|`.
fn relative_norm(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (difference / b.iter().map(|&b| square(b)).sum::<f64>()).sqrt()
}

fn quick(config: TrainConfig) -> TrainConfig {
    TrainConfig { epochs: 2, learning_rate: 1e-2, ..config }
}

/// A trainer by SFT.
fn sft(
    device: Cpu,
    base: &BaseModel,
    config: TrainConfig,
    train: &[TokenExample],
    held_out: &[TokenExample],
) -> trainer_cuda::Result<Trainer<Sft<Cpu>>> {
    Trainer::new(Sft::new(device, base, &config, train, held_out)?, config)
}

/// Trains on all but the last four examples and returns the trained tensors by name.
fn run(fixture: &Fixture, threads: usize, config: TrainConfig) -> Vec<(String, Vec<f32>)> {
    let (train, held_out) = fixture.data.split_at(fixture.data.len() - 4);
    let mut trainer = sft(Cpu::new(Some(threads)), &fixture.base, config, train, held_out).unwrap();
    trainer.train(train, held_out, None, &mut |_| ControlFlow::Continue(())).unwrap();
    let decoder = trainer.method().decoder();
    decoder.trained().iter().map(|t| (t.name.clone(), decoder.device().read_weight(&t.weight))).collect()
}

/// f32 against f32 in another order of summation, as for the adapters.
#[test]
fn every_gradient_of_full_fine_tuning_equals_hugging_face() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/full_fine_tuning");
    for Fixture { name, base, data } in fixtures() {
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let expected = |name: &str| -> Vec<f32> {
            let data = file.tensor(name).unwrap().data().to_vec();
            data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let batch: Vec<&TokenExample> = data[..4].iter().collect();
        let budget = Forest::new(&batch).budget();
        let config = TrainConfig { use_lora: false, ..TrainConfig::default() };
        let mut method = Sft::with_budget(Cpu::new(None), &base, &config, budget).unwrap();
        let loss = method.accumulate(&[batch], 1).unwrap().loss;
        let deviation = (loss - f64::from(expected("loss")[0])).abs() / loss;
        assert!(deviation <= 1e-5, "{name}: loss differs by {deviation:e}");
        assert_eq!(method.decoder().trained().len(), file.len() - 1, "every parameter trains");
        for tensor in method.decoder().trained() {
            let deviation = relative_norm(&tensor.grad, &expected(&tensor.name));
            println!("{name:20} {:48} {deviation:.1e}", tensor.name);
            assert!(deviation <= 1e-4, "{name}: gradient of `{}` differs by {deviation:e}", tensor.name);
        }
    }
}

/// llama_tied with `attention_bias` and `mlp_bias`: all seven linear layers of a block have one.
#[test]
fn a_llama_with_biases_equals_hugging_face() {
    let Fixture { base, data, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let mut config = base.hf_config();
    (config["attention_bias"], config["mlp_bias"]) = (true.into(), true.into());
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    base.write_tokenizer_files(folder.path()).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let weights = std::fs::read(fixtures.join("golden/llama_tied/base/model.safetensors")).unwrap();
    let biases = std::fs::read(fixtures.join("full_fine_tuning/llama_biased.safetensors")).unwrap();
    let biases = SafeTensors::deserialize(&biases).unwrap();
    let mut tensors = SafeTensors::deserialize(&weights).unwrap().tensors();
    tensors.extend(biases.tensors().into_iter().filter(|(name, _)| name.starts_with("model.")));
    safetensors::serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).unwrap();

    let base = BaseModel::open(folder.path()).unwrap();
    let batch: Vec<&TokenExample> = data[..4].iter().collect();
    let config = TrainConfig { use_lora: false, ..TrainConfig::default() };
    let mut method = Sft::with_budget(Cpu::new(None), &base, &config, Forest::new(&batch).budget()).unwrap();
    let loss = method.accumulate(&[batch], 1).unwrap().loss;
    let expected = |name: &str| -> Vec<f32> {
        let (values, _) = biases.tensor(name).unwrap().data().as_chunks::<4>();
        values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    assert!((loss - f64::from(expected("loss")[0])).abs() <= 1e-5 * loss, "{loss}");
    let trained = method.decoder().trained().iter().filter(|tensor| tensor.name.ends_with(".bias"));
    let mut n_biases = 0;
    for tensor in trained {
        let deviation = relative_norm(&tensor.grad, &expected(&format!("grad/{}", tensor.name)));
        assert!(deviation <= 1e-4, "gradient of `{}` differs by {deviation:e}", tensor.name);
        n_biases += 1;
    }
    assert_eq!(n_biases, 2 * 7);
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let fixture = fixture();
    let one = run(&fixture, 1, quick(TrainConfig::default()));
    assert_eq!(one, run(&fixture, 2, quick(TrainConfig::default())));
    assert_eq!(one, run(&fixture, 3, quick(TrainConfig::default())));
    assert_ne!(one, run(&fixture, 2, quick(TrainConfig { seed: 43, ..TrainConfig::default() })));
}

#[test]
fn an_adapter_starts_as_its_base_and_learns() {
    let Fixture { base, data, .. } = fixture();
    let config = quick(TrainConfig::default());
    let mut trainer = sft(Cpu::new(None), &base, config, &data, &data).unwrap();
    let before = trainer.evaluate(&data).unwrap();
    let full = TrainConfig { use_lora: false, ..TrainConfig::default() };
    let mut whole = sft(Cpu::new(None), &base, full, &data, &data).unwrap();
    assert_eq!(before, whole.evaluate(&data).unwrap()); // B is zero: bit for bit
    trainer.train(&data, &data, None, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(trainer.evaluate(&data).unwrap().loss < 0.8 * before.loss);
}

#[test]
fn a_saved_adapter_scores_as_it_did() {
    let Fixture { base, data, .. } = fixture();
    let config = quick(TrainConfig {
        lora: LoraConfig {
            target_modules: TargetModules::List(vec!["q_proj".into(), "down_proj".into()]),
            ..LoraConfig::default()
        },
        ..TrainConfig::default()
    });
    let mut trainer = sft(Cpu::new(None), &base, config.clone(), &data, &data).unwrap();
    trainer.train(&data, &[], None, &mut |_| ControlFlow::Continue(())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    trainer.save(&base, folder.path()).unwrap();

    let adapter = peft::read_adapter(folder.path()).unwrap();
    let modules = 2 * base.decoder().expect("a decoder").num_hidden_layers;
    assert_eq!(adapter.len(), 2 * modules);
    let mut again = sft(Cpu::new(None), &base, config, &data, &data).unwrap();
    again.method_mut().decoder_mut().write_adapter(&adapter).unwrap();
    assert_eq!(again.evaluate(&data).unwrap(), trainer.evaluate(&data).unwrap());
}

#[test]
fn a_fully_fine_tuned_model_is_a_base_again() {
    for Fixture { name, base, data } in fixtures() {
        let config = TrainConfig { use_lora: false, epochs: 1, learning_rate: 1e-3, ..TrainConfig::default() };
        let mut trainer = sft(Cpu::new(None), &base, config.clone(), &data, &data).unwrap();
        let before = trainer.evaluate(&data).unwrap();
        trainer.train(&data, &[], None, &mut |_| ControlFlow::Continue(())).unwrap();
        let after = trainer.evaluate(&data).unwrap();
        assert!(after.loss < before.loss);
        let folder = tempfile::tempdir().unwrap();
        trainer.save(&base, folder.path()).unwrap();

        let saved = BaseModel::open(folder.path()).unwrap();
        let mut again = sft(Cpu::new(None), &saved, config, &data, &data).unwrap();
        assert_eq!(again.evaluate(&data).unwrap(), after, "{name}: f32 on disk loses nothing");
    }
}

#[test]
fn an_example_that_is_cut_is_counted_and_a_response_that_is_cut_off_is_no_match() {
    let Fixture { base, .. } = fixture();
    let record = |response: &str| {
        let prompt = "Route the query:";
        Record::Text { text: format!("{prompt}{response}"), response_start: Some(prompt.len()) }
    };
    let prompt_length = base.tokenizer.encode("Route the query:").unwrap().len();
    let config =
        EncodeConfig { max_length: prompt_length, over_length: OverLength::Truncate, ..EncodeConfig::default() };
    let encoded = encode_sft(&base.tokenizer, &[record("agent")], &config).unwrap();
    assert_eq!((encoded.examples.len(), encoded.n_truncated), (1, 1));
    let mut trainer = sft(Cpu::new(None), &base, TrainConfig::default(), &encoded.examples, &encoded.examples).unwrap();
    let evaluation = trainer.evaluate(&encoded.examples).unwrap();
    assert_eq!(evaluation.metrics, MethodMetrics::Sft { exact_match: Some(0.0) });

    let dropped = EncodeConfig { over_length: OverLength::Drop, ..config };
    let encoded = encode_sft(&base.tokenizer, &[record("agent")], &dropped).unwrap();
    assert_eq!(encoded.skipped, [Skipped { index: 0, reason: "longer than max_length" }]);
}

#[test]
fn a_loss_that_is_no_number_names_its_step() {
    let Fixture { base, data, .. } = fixture();
    let config = TrainConfig { learning_rate: 1e30, max_grad_norm: 0.0, ..TrainConfig::default() };
    let mut trainer = sft(Cpu::new(None), &base, config, &data, &[]).unwrap();
    let error = trainer.train(&data, &[], None, &mut |_| ControlFlow::Continue(())).unwrap_err();
    let TrainerError::NotFinite { step, .. } = error else { panic!("{error}") };
    assert!(step > 1, "the first step computes on the base");
    let text = error.to_string();
    assert!(
        text.ends_with(&format!(
            "is not finite at step {step}; lower the learning rate, or look at the examples of that step"
        )),
        "{text}"
    );
}

#[test]
fn what_cannot_train_is_refused_before_it_loads() {
    let Fixture { base, data, .. } = fixture();
    let refused = |config: TrainConfig, data: &[TokenExample]| {
        sft(Cpu::new(Some(1)), &base, config, data, &[]).err().expect("refused").to_string()
    };
    assert_eq!(
        refused(TrainConfig::default(), &[]),
        "Cannot train with empty dataset. No training examples available after formatting."
    );
    assert_eq!(refused(TrainConfig { epochs: 0, ..TrainConfig::default() }, &data), "`epochs` must be at least 1");
    assert_eq!(
        refused(TrainConfig { learning_rate: -1.0, ..TrainConfig::default() }, &data),
        "`learning_rate` must be above 0, not -1"
    );
    let long = TokenExample { input_ids: vec![5; 513], labels: vec![true; 513], response_start: 0 };
    assert_eq!(
        refused(TrainConfig::default(), &[long]),
        "an example of 513 tokens is longer than the model's 512 positions; lower `max_length`"
    );
    let foreign = TokenExample { input_ids: vec![5, 400], labels: vec![true; 2], response_start: 0 };
    assert_eq!(
        refused(TrainConfig::default(), &[foreign]),
        "token id 400 is outside the model's vocabulary of 400; the tokenizer is not this model's"
    );
    let lora = LoraConfig { target_modules: TargetModules::List(vec!["query".into()]), ..LoraConfig::default() };
    assert!(refused(TrainConfig { lora, ..TrainConfig::default() }, &data).starts_with("no module matches"));
}

/// What is between steps is not of them: here a pause at each evaluation, as scoring and saving are.
#[test]
fn a_steps_wall_time_is_its_own() {
    let Fixture { base, data, .. } = fixture();
    let config = quick(TrainConfig { eval_steps: Some(1), ..TrainConfig::default() });
    let mut trainer = sft(Cpu::new(None), &base, config, &data, &data).unwrap();
    let (started, mut in_steps, mut paused) = (Instant::now(), Duration::ZERO, Duration::ZERO);
    let pause = Duration::from_millis(30);
    let on_event = &mut |event: &Event| {
        match event {
            Event::Step(step) => in_steps += Duration::from_secs_f64(step.step_ms / 1e3),
            _ => {
                std::thread::sleep(pause);
                paused += pause;
            }
        }
        ControlFlow::Continue(())
    };
    trainer.train(&data, &data, None, on_event).unwrap();
    let whole = started.elapsed();
    assert!(in_steps > Duration::ZERO);
    assert!(in_steps + paused <= whole, "{in_steps:?} in steps and {paused:?} between them of {whole:?}");
}

#[test]
fn a_break_stops_the_run_between_two_steps() {
    let Fixture { base, data, .. } = fixture();
    let mut trainer = sft(Cpu::new(None), &base, TrainConfig::default(), &data, &[]).unwrap();
    let mut steps = 0;
    let stop_at_two = &mut |event: &Event| {
        steps += usize::from(matches!(event, Event::Step(_)));
        if steps == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    trainer.train(&data, &[], None, stop_at_two).unwrap();
    assert_eq!(steps, 2);
}
