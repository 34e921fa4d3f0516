//! Text encoders: full fine-tuning against Hugging Face, texts that stand together or alone, what is skipped, saved and
//! read back.

#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};
use trainer_cuda::config::{
    Distance, LoraConfig, ModelConfig, Pooling, Precision, TargetModules, TrainConfig, TripletConfig,
};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::encode::{EncodedTriplets, Skipped, TripletRecord, encode_triplets};
use trainer_cuda::encoder::Encoder;
use trainer_cuda::encoder::text_batch::TextBudget;
use trainer_cuda::formats::{BaseModel, peft};
use trainer_cuda::loader::Training;
use trainer_cuda::method::{Method, TripletExample, Triplets};
use trainer_cuda::trainer::Trainer;

const MODELS: [&str; 3] = ["bert", "jina_v3", "xlm_roberta"];

/// A small model with twenty triplets of its set.
struct Fixture {
    base: BaseModel,
    data: Vec<TripletExample>,
}

fn fixtures_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> Fixture {
    let folder = fixtures_folder().join("golden").join(name);
    let base = BaseModel::open(&folder.join("base")).unwrap();
    let reference: Value = serde_json::from_slice(&std::fs::read(folder.join("ref.json")).unwrap()).unwrap();
    let records: Vec<TripletRecord> = reference["triplet_data"].as_array().unwrap().iter().map(record).collect();
    let data = encode_triplets(&base.tokenizer, &records, base.config.max_length()).unwrap().examples;
    Fixture { base, data }
}

fn record(row: &Value) -> TripletRecord {
    let text = |key: &str| row[key].as_str().unwrap().to_owned();
    TripletRecord { anchor: text("anchor"), positive: text("positive"), negative: text("negative") }
}

/// The loop on two threads.
fn trainer(base: &BaseModel, config: &TrainConfig, train: &[TripletExample]) -> Trainer<Triplets<Cpu>> {
    let method = Triplets::new(Cpu::new(Some(2)), base, config, train, &[]).unwrap();
    Trainer::new(method, config.clone()).unwrap()
}

fn texts(data: &[TripletExample]) -> Vec<&[u32]> {
    data.iter().flat_map(|example| [&example.anchor[..], &example.positive[..], &example.negative[..]]).collect()
}

/// An encoder without training, for any of the fixture's texts.
fn encoder(base: &BaseModel, n_tokens: usize) -> Encoder<Cpu> {
    let lora = LoraConfig::default();
    let budget = TextBudget { n_tokens, n_segments: n_tokens, max_length: base.config.max_length(), n_triplets: 0 };
    Encoder::load(Cpu::new(Some(2)), base, Training::Lora { config: &lora, seed: 1, precision: Precision::F32 }, budget)
        .unwrap()
}

fn worst(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.concat().iter().zip(b.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_gradient_of_full_fine_tuning_equals_hugging_face() {
    let variants = [
        ("bert", Pooling::Mean, false, Distance::Euclidean, 5.0),
        ("jina_v3", Pooling::Mean, true, Distance::Euclidean, 0.5),
        ("xlm_roberta", Pooling::Cls, true, Distance::Cosine, 0.5),
    ];
    for (name, pooling, normalize, distance, margin) in variants {
        let Fixture { mut base, data } = fixture(name);
        let ModelConfig::Encoder(config) = &mut base.config else { panic!("{name} is an encoder") };
        (config.pooling, config.normalize) = (pooling, normalize);
        let triplet = TripletConfig { distance, margin };
        let config = TrainConfig { use_lora: false, triplet, ..TrainConfig::default() };
        let bytes = std::fs::read(fixtures_folder().join(format!("full_fine_tuning/{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let expected = |name: &str| -> Vec<f32> {
            let data = file.tensor(name).unwrap().data().to_vec();
            data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let mut method = Triplets::new(Cpu::new(Some(2)), &base, &config, &data[..4], &[]).unwrap();
        let loss = method.accumulate(&[data[..4].iter().collect()], 1).unwrap().loss;
        let deviation = (loss - f64::from(expected("loss")[0])).abs() / loss;
        assert!(deviation <= 1e-5, "{name}: loss differs by {deviation:e}");
        assert_eq!(method.trained().len(), file.len() - 1, "every parameter but the pooler's trains");
        for tensor in method.trained() {
            let expected = expected(&tensor.name);
            let square =
                |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let difference = square(&mut tensor.grad.iter().zip(&expected).map(|(a, b)| a - b));
            // Attention does not change with the keys' bias, nor a difference of embeddings with the last norm's: their
            // gradients are rounding alone, up to 4e-7 on both sides.
            let bound = (1e-4 * square(&mut expected.iter().copied())).max(1e-6);
            println!("{name:12} {:48} {difference:.1e} of {bound:.0e}", tensor.name);
            assert!(difference <= bound, "{name}: gradient of `{}` differs by {difference:e}", tensor.name);
        }
    }
}

#[test]
fn a_text_has_the_same_embedding_alone_and_among_others() {
    for name in MODELS {
        let Fixture { base, data } = fixture(name);
        let texts = texts(&data);
        let n_tokens = texts.iter().map(|ids| ids.len()).sum();
        let together = encoder(&base, n_tokens).embed(&texts).unwrap();
        // Room for the longest text only: most are embedded alone.
        let alone = encoder(&base, base.config.max_length()).embed(&texts).unwrap();
        // f32 sums of one text in another split over tiles: two of 48 terms, 1e-7 each, on values up to 3.
        assert!(worst(&together, &alone) <= 2e-6, "{name}: {:e}", worst(&together, &alone));
    }
}

#[test]
fn equal_texts_of_a_batch_are_computed_once_and_their_gradients_add() {
    let Fixture { base, data } = fixture("bert");
    let config = TrainConfig { triplet: TripletConfig { margin: 5.0, ..Default::default() }, ..Default::default() };
    // All share an anchor; the third is the second with its sides exchanged.
    let shared: Vec<TripletExample> = (0..3)
        .map(|i| {
            let of = &data[i.min(1)];
            let (positive, negative) = (of.positive.clone(), of.negative.clone());
            let anchor = data[0].anchor.clone();
            match i {
                2 => TripletExample { anchor, positive: negative, negative: positive },
                _ => TripletExample { anchor, positive, negative },
            }
        })
        .collect();
    let batch: Vec<&TripletExample> = shared.iter().collect();
    let mut together = Triplets::new(Cpu::new(Some(2)), &base, &config, &shared, &[]).unwrap();
    let step = together.accumulate(std::slice::from_ref(&batch), 1).unwrap();
    let flat: usize = texts(&shared).iter().map(|ids| ids.len()).sum();
    let unique = flat - 2 * data[0].anchor.len() - data[1].positive.len() - data[1].negative.len();
    assert_eq!((step.counts.n_tokens_flat, step.counts.n_tokens), (flat, unique));

    // One triplet a micro-batch: nothing is shared.
    let mut apart = Triplets::new(Cpu::new(Some(2)), &base, &config, &shared, &[]).unwrap();
    let singles: Vec<Vec<&TripletExample>> = batch.iter().map(|&example| vec![example]).collect();
    let alone = apart.accumulate(&singles, 1).unwrap();
    assert_eq!(alone.counts.n_tokens, flat);
    assert!((alone.loss - step.loss).abs() <= 1e-7, "{} and {}", alone.loss, step.loss);
    for (a, b) in together.trained().iter().zip(apart.trained()) {
        let largest = b.grad.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let worst = a.grad.iter().zip(&b.grad).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        // Gradients of opposite triplets cancel: f32's rounding of the parts, 6e-8 of 0.1, stays.
        assert!(worst <= 1e-4 * largest + 1e-8, "`{}`: {worst:e} of {largest:e}", a.name);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let Fixture { base, data } = fixture("xlm_roberta");
    let config = TrainConfig { epochs: 2, learning_rate: 1e-3, ..TrainConfig::default() };
    let run = |threads| {
        let method = Triplets::new(Cpu::new(Some(threads)), &base, &config, &data, &data[..4]).unwrap();
        let mut trainer = Trainer::new(method, config.clone()).unwrap();
        trainer.train(&data, &data[..4], None, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        trainer.save(&base, folder.path()).unwrap();
        std::fs::read(folder.path().join("adapter_model.safetensors")).unwrap()
    };
    assert!(run(1) == run(3), "an adapter depends on the threads");
}

#[test]
fn training_lowers_the_held_out_loss_and_a_saved_adapter_gives_the_same_embeddings() {
    for name in MODELS {
        let Fixture { base, data } = fixture(name);
        let config = TrainConfig { epochs: 3, learning_rate: 5e-3, ..TrainConfig::default() };
        let mut trainer = trainer(&base, &config, &data);
        let before = trainer.evaluate(&data).unwrap();
        trainer.train(&data, &[], None, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        let after = trainer.evaluate(&data).unwrap();
        assert!(after.loss < 0.9 * before.loss, "{name}: {before:?}, {after:?}");
        let folder = tempfile::tempdir().unwrap();
        trainer.save(&base, folder.path()).unwrap();

        let budget = trainer.method().encoder().budget();
        let training = Training::Lora { config: &config.lora, seed: 99, precision: Precision::F32 };
        let mut read_back = Encoder::load(Cpu::new(Some(2)), &base, training, budget).unwrap();
        read_back.write_adapter(&peft::read_adapter(folder.path()).unwrap()).unwrap();
        let ours = trainer.method_mut().encoder_mut().embed(&texts(&data)).unwrap();
        assert_eq!(read_back.embed(&texts(&data)).unwrap(), ours, "{name}");
        let mut without = Encoder::with_adapter(Cpu::new(Some(2)), &base, None, Precision::F32, budget).unwrap();
        assert!(worst(&without.embed(&texts(&data)).unwrap(), &ours) > 0.01, "{name}");
    }
}

#[test]
fn dropout_follows_the_step_and_spares_evaluation() {
    let Fixture { base, data } = fixture("bert");
    let config = |dropout| {
        let mut config = TrainConfig::default();
        config.lora.dropout = dropout;
        config
    };
    let adapter = peft::read_adapter(&fixtures_folder().join("golden/bert/adapter_init")).unwrap();
    let loss_of = |dropout: f32, step: Option<usize>| {
        let mut config = config(dropout);
        config.lora.rank = 4; // adapter_init's
        let mut trainer = trainer(&base, &config, &data);
        trainer.method_mut().encoder_mut().write_adapter(&adapter).unwrap();
        match step {
            Some(step) => trainer.step(&[data.iter().collect()], step, 0.0).unwrap().loss,
            None => trainer.evaluate(&data).unwrap().loss,
        }
    };
    assert_eq!(loss_of(0.5, Some(3)), loss_of(0.5, Some(3)));
    assert_ne!(loss_of(0.5, Some(3)), loss_of(0.5, Some(4)));
    assert_ne!(loss_of(0.5, Some(3)), loss_of(0.0, Some(3)));
    assert_eq!(loss_of(0.5, None), loss_of(0.0, None));
}

#[test]
fn an_adapter_folder_says_what_peft_and_sentence_transformers_need() {
    let Fixture { mut base, data } = fixture("bert");
    let ModelConfig::Encoder(config) = &mut base.config else { panic!("bert is an encoder") };
    (config.pooling, config.normalize) = (Pooling::Cls, true);
    let trainer = trainer(&base, &TrainConfig::default(), &data);
    let folder = tempfile::tempdir().unwrap();
    trainer.save(&base, folder.path()).unwrap();
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.path().join(name)).unwrap()).unwrap() };
    let adapter = read("adapter_config.json");
    assert_eq!(adapter["task_type"], "FEATURE_EXTRACTION");
    assert_eq!(adapter["target_modules"], serde_json::json!(["query", "key", "value", "dense"]));
    let kinds: Vec<String> =
        read("modules.json").as_array().unwrap().iter().map(|module| module["type"].to_string()).collect();
    assert_eq!(
        kinds,
        ["Transformer", "Pooling", "Normalize"].map(|kind| format!("\"sentence_transformers.models.{kind}\""))
    );
    assert_eq!(read("1_Pooling/config.json")["pooling_mode_cls_token"], true);
    assert_eq!(read("1_Pooling/config.json")["pooling_mode_mean_tokens"], false);
    assert_eq!(read("sentence_bert_config.json")["max_seq_length"], 64);

    // PEFT's all-linear has the pooler too; nothing trains it, and a file without it would not load cleanly.
    let names: Vec<String> = peft::read_adapter(folder.path()).unwrap().into_iter().map(|tensor| tensor.name).collect();
    assert_eq!(names.len(), 2 * (2 * 6 + 1));
    assert!(names.contains(&"pooler.dense.lora_A.weight".to_owned()));
    assert!(names.contains(&"encoder.layer.1.attention.output.dense.lora_B.weight".to_owned()));
}

#[test]
fn a_fully_trained_model_is_a_folder_that_opens_with_the_same_embeddings() {
    for name in MODELS {
        let Fixture { base, data } = fixture(name);
        let config = TrainConfig { use_lora: false, epochs: 1, learning_rate: 1e-3, ..TrainConfig::default() };
        let mut trainer = trainer(&base, &config, &data);
        trainer.train(&data, &[], None, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        let ours = trainer.method_mut().encoder_mut().embed(&texts(&data)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        trainer.save(&base, folder.path()).unwrap();
        let saved = BaseModel::open(folder.path()).unwrap();
        assert_eq!(saved.config, base.config);
        assert_eq!(saved.tensor("pooler.dense.weight").unwrap(), base.tensor("pooler.dense.weight").unwrap());
        let n_tokens = trainer.method().encoder().budget().n_tokens;
        assert!(worst(&encoder(&saved, n_tokens).embed(&texts(&data)).unwrap(), &ours) <= 2e-6, "{name}");
        assert!(worst(&encoder(&base, n_tokens).embed(&texts(&data)).unwrap(), &ours) > 0.01, "{name}");
    }
}

#[test]
fn lora_targets_are_the_models_own_names() {
    let Fixture { base, data } = fixture("jina_v3");
    let mut config = TrainConfig::default();
    config.lora.target_modules = TargetModules::List(vec!["query".into()]);
    let error = Triplets::new(Cpu::new(Some(1)), &base, &config, &data, &[]).err().unwrap().to_string();
    let expected = "no module matches the LoRA target modules `query`; the model has `q_proj`, `k_proj`, `v_proj`, \
                    `o_proj`, `fc1`, `fc2`";
    assert_eq!(error, expected);
    config.lora.target_modules = TargetModules::List(vec!["fc2".into(), "v_proj".into()]);
    let method = Triplets::new(Cpu::new(Some(1)), &base, &config, &data, &[]).unwrap();
    let names: Vec<&str> = method.trained().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names.len(), 8);
    assert_eq!(names[..2], ["layers.0.self_attn.v_proj.lora_A.weight", "layers.0.self_attn.v_proj.lora_B.weight"]);
}

#[test]
fn a_triplet_with_an_empty_text_or_with_equal_sides_is_skipped_with_its_reason() {
    let Fixture { base, .. } = fixture("bert");
    let record = |anchor: &str, positive: &str, negative: &str| TripletRecord {
        anchor: anchor.into(),
        positive: positive.into(),
        negative: negative.into(),
    };
    let long = "late invoices ".repeat(60);
    let records = [
        record("late invoices", "clip 1", "clip 2"),
        record(" \n", "clip 1", "clip 2"),
        record("late invoices", "", "clip 2"),
        record("late invoices", "clip 1", "\t"),
        record("late invoices", "clip 1", "clip 1"),
        record("late invoices", &format!("{long} one"), &format!("{long} two")), // equal once truncated
        record("late invoices", &long, "clip 2"),
    ];
    let EncodedTriplets { examples, record_index, skipped, n_truncated } =
        encode_triplets(&base.tokenizer, &records, 64).unwrap();
    let (empty, equal) = ("empty text in a triplet", "positive equals negative");
    let expected = [(1, empty), (2, empty), (3, empty), (4, equal), (5, equal)];
    assert_eq!(skipped, expected.map(|(index, reason)| Skipped { index, reason }));
    assert_eq!((examples.len(), &record_index[..], n_truncated), (2, &[0, 6][..], 1));
    let cut = &examples[1].positive;
    assert_eq!((cut.len(), cut[0], cut[63]), (64, 2, 3), "[CLS] and [SEP] stay");
}

#[test]
fn a_length_that_the_special_tokens_fill_is_refused() {
    let Fixture { base, .. } = fixture("bert");
    let records = [TripletRecord { anchor: "a".into(), positive: "b".into(), negative: "c".into() }];
    let error = encode_triplets(&base.tokenizer, &records, 2).unwrap_err().to_string();
    assert_eq!(error, "`max_length` 2 leaves no room beside the 2 special tokens of a text");
}

#[test]
fn a_text_longer_than_the_model_is_refused() {
    let Fixture { base, mut data } = fixture("xlm_roberta");
    data[3].negative = vec![5; 65]; // 66 positions, the first two of which stand for padding
    let error = Triplets::new(Cpu::new(Some(1)), &base, &TrainConfig::default(), &data, &[]).err().unwrap();
    assert_eq!(
        error.to_string(),
        "an example of 65 tokens is longer than the model's 64 positions; lower `max_length`"
    );
}

#[test]
fn a_decoder_has_no_embeddings_to_train() {
    let Fixture { data, .. } = fixture("bert");
    let base = BaseModel::open(&fixtures_folder().join("golden/llama_tied/base")).unwrap();
    let error = Triplets::new(Cpu::new(Some(1)), &base, &TrainConfig::default(), &data, &[]).err().unwrap();
    let path = base.path().display().to_string();
    let expected = "`m` is a `LlamaForCausalLM`, a causal language model; this needs a text embedding model";
    assert_eq!(error.to_string().replace(&path, "m"), expected);
}

#[test]
fn the_buffer_that_holds_a_nan_is_named() {
    let Fixture { base, data } = fixture("bert");
    let mut trainer = trainer(&base, &TrainConfig::default(), &data[..4]);
    let mut adapter: Vec<peft::NamedTensor> = Vec::new();
    for tensor in trainer.method().trained() {
        let [rows, cols] = trainer_cuda::device::Device::weight_shape(trainer.method().device(), &tensor.weight);
        let value = if tensor.name == "encoder.layer.1.attention.self.key.lora_B.weight" { f32::NAN } else { 0.0 };
        adapter.push(peft::NamedTensor {
            name: tensor.name.clone(),
            shape: [rows, cols],
            data: vec![value; rows * cols],
        });
    }
    trainer.method_mut().encoder_mut().write_adapter(&adapter).unwrap();
    let error = trainer.step(&[data[..4].iter().collect()], 3, 1e-4).unwrap_err().to_string();
    let expected = "the loss (first in `layers.1.k`) is not finite at step 3; lower the learning rate, or look at the \
                    examples of that step";
    assert_eq!(error, expected);
}
