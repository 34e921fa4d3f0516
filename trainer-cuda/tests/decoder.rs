//! What a decoder may do beside computing: drop inputs of its adapter, recompute activations, find where numbers break.

#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

use safetensors::SafeTensors;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use trainer_cuda::batch::{Budget, Forest, TokenExample};
use trainer_cuda::checkpoint::Checkpoints;
use trainer_cuda::config::{LoraConfig, Precision, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::decoder::{Decoder, Ends, Loss, Scores};
use trainer_cuda::device::{AttentionShape, Device, Place};
use trainer_cuda::formats::{BaseModel, peft};
use trainer_cuda::linear::{DroppedInput, Lora, Parameter, Pass, Projection, Updates};
use trainer_cuda::loader::Training;
use trainer_cuda::method::{Method, Sft};
use trainer_cuda::ranks::Share;
use trainer_cuda::trainer::{Event, Trainer};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
}

/// A golden model with its two blocks twice: four, so that a recomputed one has recomputed neighbours.
fn four_blocks(name: &str) -> (tempfile::TempDir, BaseModel) {
    let (base, folder) = (BaseModel::open(&golden(name).join("base")).unwrap(), tempfile::tempdir().unwrap());
    let mut config = base.hf_config();
    config["num_hidden_layers"] = 4.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    base.write_tokenizer_files(folder.path()).unwrap();
    let weights = std::fs::read(golden(name).join("base/model.safetensors")).unwrap();
    let mut tensors = SafeTensors::deserialize(&weights).unwrap().tensors();
    for (name, view) in tensors.clone() {
        for (own, copy) in [("model.layers.0.", "model.layers.2."), ("model.layers.1.", "model.layers.3.")] {
            tensors.extend(name.starts_with(own).then(|| (name.replace(own, copy), view.clone())));
        }
    }
    safetensors::serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).unwrap();
    let base = BaseModel::open(folder.path()).unwrap();
    (folder, base)
}

/// Sequences of `lengths` that share a prefix of 3 tokens, wholly labelled.
fn sequences(lengths: &[usize]) -> Vec<TokenExample> {
    let token =
        |example: usize, place: usize| (if place < 3 { 7 + place } else { 11 + 37 * example + 5 * place }) as u32;
    let of = |(example, &length): (usize, &usize)| TokenExample {
        input_ids: (0..length).map(|place| token(example, place) % 350).collect(),
        labels: vec![true; length],
        response_start: 0,
    };
    lengths.iter().enumerate().map(of).collect()
}

fn forest(examples: &[TokenExample]) -> Forest {
    Forest::new(&examples.iter().collect::<Vec<_>>())
}

fn with_dropout(dropout: f32) -> TrainConfig {
    let lora = LoraConfig { rank: 4, alpha: 8.0, dropout, ..LoraConfig::default() };
    TrainConfig { lora, learning_rate: 1e-2, ..TrainConfig::default() }
}

/// The golden adapter, whose `B` is not zero, on its base.
fn decoder(name: &str, config: &TrainConfig, budget: Budget) -> Decoder<Cpu> {
    let base = BaseModel::open(&golden(name).join("base")).unwrap();
    let mut decoder =
        Decoder::load(Cpu::new(None), &base, Training::of(config), budget, config.recompute, true).unwrap();
    decoder.write_adapter(&peft::read_adapter(&golden(name).join("adapter_init")).unwrap()).unwrap();
    decoder
}

fn gradients(decoder: &Decoder<Cpu>) -> Vec<Vec<f32>> {
    decoder.trained().iter().map(|tensor| tensor.grad.clone()).collect()
}

/// What a pass scored that trains on `loss` and updates nothing; its gradient is the decoder's.
fn train_on(decoder: &mut Decoder<Cpu>, forest: &Forest, loss: Loss<'_>) -> Scores {
    decoder.train(forest, loss, Ends { first: true, update: None });
    decoder.scores(forest)
}

/// Mean loss of a training pass at `step`, whose gradient the decoder has then.
fn train_pass(decoder: &mut Decoder<Cpu>, forest: &Forest, step: usize) -> f64 {
    let d_logprob = vec![-1.0 / forest.n_edges() as f32; forest.n_edges()];
    decoder.begin_step(step, Share::WHOLE);
    let scores = train_on(decoder, forest, Loss::Weighted { d_logprob: &d_logprob });
    -scores.logprob.iter().map(|&logprob| f64::from(logprob)).sum::<f64>() / forest.n_edges() as f64
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

/// Along each tensor's own gradient the loss rises by the gradient's norm, the masks held still.
#[test]
fn the_gradient_through_dropout_is_that_of_finite_differences() {
    for name in ["llama_tied", "qwen3"] {
        let batch = forest(&sequences(&[9, 7, 12, 12]));
        let mut decoder = decoder(name, &with_dropout(0.4), batch.budget());
        train_pass(&mut decoder, &batch, 3);
        let expected = gradients(&decoder);
        for (index, gradient) in expected.iter().enumerate() {
            let name = decoder.trained()[index].name.clone();
            let weight = decoder.device().read_weight(&decoder.trained()[index].weight);
            let length = norm(gradient);
            let mut loss_at = |distance: f64| {
                let along = |(w, g): (&f32, &f32)| w + (distance * f64::from(*g) / length) as f32;
                let moved: Vec<f32> = weight.iter().zip(gradient).map(along).collect();
                let (device, trained) = decoder.trained_mut();
                device.write_weight(&mut trained[index].weight, &moved);
                train_pass(&mut decoder, &batch, 3)
            };
            // 1e-2: the third derivative adds about 1e-4, the loss's last f32 bits (5e-7 of 6) 2.5e-5.
            let slope = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
            loss_at(0.0);
            println!("{name}: {slope:.6} {length:.6}");
            assert!((slope - length).abs() <= 1e-4 + 1e-3 * length, "{name}: slope {slope} of a gradient of {length}");
        }
        // Had the backward pass drawn other masks, it would be this far off.
        train_pass(&mut decoder, &batch, 4);
        let other = gradients(&decoder);
        assert!(expected.iter().zip(&other).all(|(a, b)| distance(a, b) > 0.05 * norm(a)));
    }
}

/// Over 4000 masks the update's mean is the update without dropout, within five standard errors.
#[test]
fn dropout_keeps_the_expected_update() {
    let (device, tokens, inp, out, rank) = (Cpu::new(Some(1)), 3, 16, 5, 2);
    let values = |n: usize, seed: f32| (0..n).map(|i| (seed * (i + 1) as f32).sin()).collect::<Vec<f32>>();
    let tensor = |values: Vec<f32>, rows, cols| device.upload_trained(String::new(), values, rows, cols, Place::Matrix);
    let trained = [tensor(values(rank * inp, 1.7), rank, inp), tensor(values(out * rank, 2.3), out, rank)];
    let layer = Projection::<Cpu, 1> {
        packed: (),
        weight: [Parameter::Frozen(tensor(vec![0.0; out * inp], out, inp).weight)],
        bias: [None],
        lora: [Some(Lora { a: 0, b: 1, scaling: 2.0, module: 1 })],
        out_features: [out],
        in_features: inp,
    };
    let mut dropped = Some(DroppedInput { x: vec![0.0; tokens * inp], dx: vec![0.0; tokens * inp] });
    let x = values(tokens * inp, 0.9);
    let shape = AttentionShape { n_tokens: tokens, heads: 1, kv_heads: 1, head_dim: 1 };
    let mut forward = |updates: Updates<'_, Cpu>| {
        let (mut y, mut h) = (vec![0.0; tokens * out], [Some(vec![0.0; tokens * rank])]);
        let pass = Pass { device: &device, updates, shape };
        layer.forward(&pass, &trained, [&mut y], &mut h, &mut dropped, &x, None);
        y.into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    let whole = forward(Updates::On);
    let n = 4000;
    // The second module's: low and high half.
    let samples: Vec<Vec<f64>> =
        (0..n).map(|seed| forward(Updates::Dropped { probability: 0.3, seeds: &vec![0, 0, seed, 0] })).collect();
    for (i, whole) in whole.iter().enumerate() {
        let mean = samples.iter().map(|y| y[i]).sum::<f64>() / f64::from(n);
        let variance = samples.iter().map(|y| (y[i] - mean).powi(2)).sum::<f64>() / f64::from(n);
        assert!(variance > 0.1, "the masks differ: {variance}");
        let error = (variance / f64::from(n)).sqrt();
        assert!((mean - whole).abs() < 5.0 * error, "output {i}: mean {mean}, without dropout {whole}, error {error}");
    }
}

#[test]
fn dropout_0_is_no_dropout_and_a_mask_that_keeps_all_changes_nothing() {
    let batch = forest(&sequences(&[9, 7, 12, 12]));
    let pass = |config: &TrainConfig| {
        let mut decoder = decoder("llama_tied", config, batch.budget());
        (train_pass(&mut decoder, &batch, 1), gradients(&decoder))
    };
    let (none, gradient) = pass(&TrainConfig {
        lora: LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() },
        ..TrainConfig::default()
    });
    assert_eq!((none, gradient.clone()), pass(&with_dropout(0.0)));
    // 1e-10 of 2^32 is below one: nothing is dropped, and 1 / (1 - 1e-10) is 1 in f32.
    let (kept, through) = pass(&with_dropout(1e-10));
    assert_eq!(kept, none);
    // The input's gradient is added as a whole rather than term by term: f32's rounding.
    assert!(gradient.iter().zip(&through).all(|(a, b)| distance(a, b) <= 1e-6 * norm(a)));
    assert_ne!(pass(&with_dropout(0.1)).0, none);
}

#[test]
fn scores_drop_nothing() {
    let batch = forest(&sequences(&[9, 7, 12]));
    let score = |dropout| {
        let mut decoder = decoder("qwen2", &with_dropout(dropout), batch.budget());
        train_pass(&mut decoder, &batch, 1); // and leave no mask behind
        decoder.score(&batch)
    };
    assert_eq!(score(0.5), score(0.0));
}

#[test]
fn each_step_and_each_pass_drops_other_inputs_whatever_came_before() {
    let batch = forest(&sequences(&[9, 7, 12, 12]));
    let fresh = || decoder("qwen3", &with_dropout(0.2), batch.budget());
    let mut decoder = fresh();
    let d_logprob = vec![1.0; batch.n_edges()];
    let weighted = Loss::Weighted { d_logprob: &d_logprob };
    decoder.begin_step(1, Share::WHOLE);
    let first = train_on(&mut decoder, &batch, weighted);
    let second = train_on(&mut decoder, &batch, weighted);
    decoder.score(&batch); // counts as no training pass
    let third = train_on(&mut decoder, &batch, Loss::Preferences { reference: &[-50.0; 4], n_step: 2, beta: 0.1 });
    decoder.begin_step(2, Share::WHOLE);
    let next = train_on(&mut decoder, &batch, weighted);
    assert!(first != second && second != third && first != third && first != next && second != next);

    let mut resumed = fresh();
    resumed.begin_step(2, Share::WHOLE);
    assert_eq!(train_on(&mut resumed, &batch, weighted), next);

    // The first pass of a step of preferences drops what the first pass of any step of that number does.
    resumed.begin_step(1, Share::WHOLE);
    let preferences = Loss::Preferences { reference: &[-50.0; 4], n_step: 2, beta: 0.1 };
    assert_eq!(train_on(&mut resumed, &batch, preferences), first);
}

/// Trains over twelve examples and returns the losses and the trained weights; stops for good after `stop_at` steps.
fn train(
    base: &BaseModel,
    config: &TrainConfig,
    checkpoint: Option<&Path>,
    stop_at: Option<usize>,
) -> (Vec<f64>, Vec<Vec<f32>>) {
    let data = sequences(&[9, 7, 12, 12, 4, 20, 17, 8, 8, 11, 16, 5]);
    let sft = Sft::new(Cpu::new(None), base, config, &data, &data[..3]).unwrap();
    let mut trainer = Trainer::new(sft, config.clone()).unwrap();
    let checkpoints = checkpoint.map(|path| Checkpoints { path: path.into(), every_steps: 1, base_sha256: "b".into() });
    let mut losses = Vec::new();
    let on_event = &mut |event: &Event| {
        losses.extend(match event {
            Event::Step(metrics) => Some(metrics.loss),
            Event::Evaluation { evaluation, .. } => Some(evaluation.loss),
            _ => None,
        });
        if stop_at == Some(losses.len()) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    trainer.train(&data, &data[..3], checkpoints.as_ref(), on_event).unwrap();
    let method = trainer.method();
    let weights = method.trained().iter().map(|tensor| method.device().read_weight(&tensor.weight)).collect();
    (losses, weights)
}

#[test]
fn recomputed_activations_train_to_the_same_bytes() {
    for name in ["llama_tied", "qwen3"] {
        let (_folder, base) = four_blocks(name);
        let small = TrainConfig { epochs: 1, batch_size: 2, gradient_accumulation_steps: 2, ..with_dropout(0.2) };
        let full = TrainConfig { use_lora: false, learning_rate: 1e-3, ..small.clone() };
        let without_dropout = TrainConfig { lora: with_dropout(0.0).lora, ..small.clone() };
        let bf16 = TrainConfig { precision: Precision::Bf16, ..small.clone() };
        for config in [small, without_dropout, full, bf16] {
            let recompute = TrainConfig { recompute: true, ..config.clone() };
            assert!(train(&base, &config, None, None) == train(&base, &recompute, None, None), "{name}: {config:?}");
        }
    }
}

#[test]
fn a_run_with_dropout_resumes_to_the_same_bytes() {
    let base = BaseModel::open(&golden("qwen2").join("base")).unwrap();
    let config = TrainConfig { epochs: 2, recompute: true, ..with_dropout(0.3) };
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint");
    let (losses, weights) = train(&base, &config, None, None);
    let (first, _) = train(&base, &config, Some(&checkpoint), Some(2));
    let (rest, resumed) = train(&base, &config, Some(&checkpoint), None);
    assert_eq!([first, rest].concat(), losses);
    assert!(resumed == weights);
}

#[test]
fn the_adapters_configuration_records_its_dropout() {
    let base = BaseModel::open(&golden("llama_tied").join("base")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = with_dropout(0.1);
    let sft = Sft::with_budget(Cpu::new(Some(1)), &base, &config, forest(&sequences(&[4])).budget()).unwrap();
    Trainer::new(sft, config).unwrap().save(&base, folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["lora_dropout"], 0.1);

    let refused = |dropout| with_dropout(dropout).validate().unwrap_err().to_string();
    assert_eq!(refused(1.0), "`lora.dropout` must be from 0 to below 1, not 1");
    assert_eq!(refused(f32::NAN), "`lora.dropout` must be from 0 to below 1, not NaN");
}

#[test]
fn the_buffer_where_numbers_break_is_named() {
    let (long, short) = (forest(&sequences(&[20, 17, 12])), forest(&sequences(&[9, 7])));
    let open = |name: &str, config: &TrainConfig| {
        let base = BaseModel::open(&golden(name).join("base")).unwrap();
        Decoder::load(Cpu::new(None), &base, Training::of(config), long.budget(), config.recompute, false).unwrap()
    };
    let full = TrainConfig { use_lora: false, ..TrainConfig::default() };
    let recompute = TrainConfig { recompute: true, ..full.clone() };
    let lora = with_dropout(0.0);
    for (model, config, tensor, buffer) in [
        ("llama_tied", &full, "model.embed_tokens.weight", "layers.0.x"),
        ("llama_tied", &full, "model.layers.0.input_layernorm.weight", "layers.0.q"),
        ("llama_tied", &full, "model.layers.1.self_attn.v_proj.weight", "layers.1.v"),
        ("llama_tied", &full, "model.layers.0.self_attn.o_proj.weight", "layers.0.x_mid"),
        ("llama_tied", &full, "model.layers.1.mlp.gate_proj.weight", "layers.1.gate"),
        ("llama_tied", &full, "model.layers.0.mlp.down_proj.weight", "layers.1.x"),
        ("llama_tied", &full, "model.layers.1.mlp.down_proj.weight", "x_final"),
        ("llama_tied", &full, "model.norm.weight", "head.normed"),
        ("qwen2", &full, "model.layers.1.self_attn.k_proj.bias", "layers.1.k"),
        ("qwen3", &full, "model.layers.1.self_attn.q_norm.weight", "layers.1.lse"),
        ("qwen3", &full, "lm_head.weight", "batch.logprob"),
        ("qwen3", &lora, "model.layers.1.mlp.up_proj.lora_A.weight", "layers.1.lora.up_proj"),
        ("qwen3", &lora, "model.layers.1.mlp.up_proj.lora_B.weight", "layers.1.up"),
        ("qwen3", &recompute, "model.layers.0.mlp.gate_proj.weight", "layers.1.x"),
    ] {
        let mut decoder = open(model, config);
        decoder.score(&long);
        assert_eq!(decoder.find_not_finite(), None);
        let replace = |decoder: &mut Decoder<Cpu>, value: f32| {
            let (device, trained) = decoder.trained_mut();
            let weight = &mut trained.iter_mut().find(|own| own.name == tensor).unwrap().weight;
            let mut values = device.read_weight(weight);
            let token_7 = 7 * device.weight_shape(weight)[1]; // begins every sequence
            let at = if tensor.contains("embed_tokens") { token_7 } else { 0 };
            let before = std::mem::replace(&mut values[at], value);
            device.write_weight(weight, &values);
            before
        };
        let before = replace(&mut decoder, f32::NAN);
        decoder.score(&long);
        assert_eq!(decoder.find_not_finite().as_deref(), Some(buffer), "{model}: {tensor}");
        replace(&mut decoder, before);
        decoder.score(&short); // the rest of the buffers still holds the long batch
        assert_eq!(decoder.find_not_finite(), None, "{model}: {tensor}");
    }
}
