//! Text encoders and triplet training against sentence-transformers 6.2, PEFT 0.21, transformers 5.23 (fp32): token ids,
//! embeddings, distances, losses, every gradient, and the weights after five steps.

use crate::bench::{self, Bench};
use crate::set::{self, Golden, Report, Row, encoders};
use serde_json::Value;
use trainer_cuda::config::{Distance, LoraConfig, ModelConfig, Precision, TargetModules, TrainConfig};
use trainer_cuda::device::Device;
use trainer_cuda::encode::{TripletRecord, encode_triplets};
use trainer_cuda::encoder::Encoder;
use trainer_cuda::formats::peft;
use trainer_cuda::method::{Method, MethodMetrics, TripletExample, Triplets};
use trainer_cuda::trainer::Trainer;

/// One bf16 rounding of weights and of products' inputs, 2^-9 each; a cosine distance of 0.05 is the rest of two nearly
/// equal vectors, and the loss adds a margin of 0.5 to a difference of two of them.
const BF16_LOSS: f64 = 2e-3; // relative; what we measure is 3e-4

const VARIANTS: [&str; 4] = ["triplet_cos_m0.5", "triplet_euc_m5", "triplet_euc_norm_m0.5", "triplet_cos_m5"];

#[test]
fn triplets_equal_hugging_face() {
    let mut report = Report::new();
    for mut golden in encoders() {
        encoding(&golden, &triplets(&golden, golden.list(&["triplet_data"])), &mut report);
        check(&bench::cpu(), &mut golden, &mut report);
    }
    report.finish();
}

#[test]
fn triplets_on_the_gpu_stay_near_hugging_faces_in_f32() {
    let mut report = Report::new();
    for mut golden in encoders() {
        check(&bench::gpu(), &mut golden, &mut report);
    }
    report.finish();
}

fn check<D: Device>(bench: &Bench<D>, golden: &mut Golden, report: &mut Report) {
    let data = triplets(golden, golden.list(&["triplet_data"]));
    embeddings(bench, golden, &data, report);
    for tag in VARIANTS {
        let normalize = golden.at(&[tag, "normalize"]).as_bool().expect("a switch");
        let ModelConfig::Encoder(encoder) = &mut golden.base.config else { unreachable!("checked by the caller") };
        encoder.normalize = normalize;
        first_step(bench, golden, tag, &data[..4], report);
        if golden.at(&[tag]).get("traj").is_some() {
            let config = config(golden, tag, bench.precision);
            let trainer = trainer(bench, golden, config.clone(), &data);
            report.trajectory(golden, tag, trainer, &data, &config, bench.bounds, bench.bounds.weights);
        }
    }
}

#[test]
fn triplets_in_bf16_stay_near_hugging_faces_in_f32() {
    let mut report = Report::new();
    for golden in &encoders().collect::<Vec<_>>() {
        let tag = VARIANTS[0];
        let data = triplets(golden, golden.list(&["triplet_data"]));
        let mut trainer = trainer(&bench::cpu(), golden, config(golden, tag, Precision::Bf16), &data);
        let mut worst = 0.0f64;
        for (index, (expected, batch)) in golden.trajectory(tag).iter().zip(data.chunks(4)).enumerate() {
            let rate = expected.learning_rate as f32;
            let step = trainer.step(&[batch.iter().collect()], index + 1, rate).expect("finite");
            worst = worst.max((step.loss - expected.loss).abs() / expected.loss);
        }
        report.row(Row::new(golden, tag, "5 steps in bf16: loss, relative", worst, BF16_LOSS));
    }
    report.finish();
}

fn config(golden: &Golden, tag: &str, precision: Precision) -> TrainConfig {
    let (rank, alpha) = golden.lora();
    let mut config = TrainConfig { epochs: 1, precision, ..TrainConfig::default() };
    let target_modules: TargetModules =
        serde_json::from_value(golden.at(&["lora", "target_modules"]).clone()).expect("target modules");
    config.lora = LoraConfig { rank, alpha, target_modules, ..LoraConfig::default() };
    config.triplet.margin = golden.number(&[tag, "margin"]) as f32;
    config.triplet.distance = match golden.at(&[tag, "metric"]).as_str() {
        Some("cosine") => Distance::Cosine,
        Some("euclidean") => Distance::Euclidean,
        other => panic!("{other:?}"),
    };
    config
}

fn triplets(golden: &Golden, rows: &[Value]) -> Vec<TripletExample> {
    let text = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
    let record = |row: &Value| TripletRecord {
        anchor: text(row, "anchor"),
        positive: text(row, "positive"),
        negative: text(row, "negative"),
    };
    let records: Vec<TripletRecord> = rows.iter().map(record).collect();
    encode_triplets(&golden.base.tokenizer, &records, golden.base.config.max_length()).expect("encodes").examples
}

/// A trainer at `adapter_init`.
fn trainer<D: Device>(
    bench: &Bench<D>,
    golden: &Golden,
    config: TrainConfig,
    data: &[TripletExample],
) -> Trainer<Triplets<D>> {
    let mut method = Triplets::new((bench.open)(), &golden.base, &config, data, &[]).expect("the model loads");
    let adapter = peft::read_adapter(&golden.folder.join("adapter_init")).expect("the adapter loads");
    method.encoder_mut().write_adapter(&adapter).expect("the adapter fits the model");
    Trainer::new(method, config).expect("a valid configuration")
}

/// Our token ids are sentence-transformers', and so is what is kept of a long text.
fn encoding(golden: &Golden, data: &[TripletExample], report: &mut Report) {
    assert_eq!(golden.base.config.max_length(), golden.number(&["max_seq_length"]) as usize);
    let ours = |of: fn(&TripletExample) -> &Vec<u32>| data[..4].iter().map(of).cloned().collect::<Vec<_>>();
    let ids = [
        ("anchor", ours(|example| &example.anchor)),
        ("positive", ours(|example| &example.positive)),
        ("negative", ours(|example| &example.negative)),
    ];
    for (side, ours) in ids {
        report.row(Row::exact(golden, "tokens", side, ours == golden.ids(&["input_ids", side])));
    }
    let text = golden.at(&["truncation", "text"]).as_str().expect("a text");
    let max_length = golden.base.config.max_length();
    let (ids, cut) = golden.base.tokenizer.encode_within(text, max_length).expect("encodes");
    let expected: Vec<u32> = serde_json::from_value(golden.at(&["truncation", "input_ids"]).clone()).expect("ids");
    report.row(Row::exact(golden, "tokens", "truncated", cut && ids == expected));
}

/// Mean-pooled embeddings of four triplets, with the adapter and without.
fn embeddings<D: Device>(bench: &Bench<D>, golden: &Golden, data: &[TripletExample], report: &mut Report) {
    let texts = golden.ids(&["input_ids_flat"]);
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let mut trainer = trainer(bench, golden, config(golden, VARIANTS[0], bench.precision), data);
    let encoder = trainer.method_mut().encoder_mut();
    let with_adapter = encoder.embed(&texts).expect("embeds").concat();
    let budget = encoder.budget();
    let base = Encoder::with_adapter((bench.open)(), &golden.base, None, bench.precision, budget);
    let base = base.expect("the base loads").embed(&texts).expect("embeds").concat();
    for (tag, ours) in [("adapter", with_adapter), ("base", base)] {
        let expected = golden.tensor(&format!("forward/mean_pool_{tag}"));
        assert_eq!(ours.len(), expected.len());
        let worst = ours.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        report.row(Row::new(golden, "embedding", &format!("{tag}, absolute"), worst, bench.bounds.embedding));
    }
}

/// Loss, distances and every gradient of the first batch, before clipping.
fn first_step<D: Device>(
    bench: &Bench<D>,
    golden: &Golden,
    tag: &str,
    examples: &[TripletExample],
    report: &mut Report,
) {
    let mut trainer = trainer(bench, golden, config(golden, tag, bench.precision), examples);
    let step = trainer.step(&[examples.iter().collect()], 1, 0.0).expect("finite");
    let expected = golden.number(&[tag, "loss"]);
    report.row(Row::new(golden, tag, "loss, relative", (step.loss - expected).abs() / expected, bench.bounds.loss));
    let MethodMetrics::Triplet { triplet_accuracy, positive_distance, negative_distance } = step.metrics else {
        panic!("{:?}", step.metrics)
    };
    let distances = |key| {
        let list = golden.list(&[tag, key]).iter();
        list.map(|value| value.as_f64().expect("a number")).collect::<Vec<_>>()
    };
    let (positive, negative) = (distances("d_pos"), distances("d_neg"));
    let nearer = positive.iter().zip(&negative).filter(|(positive, negative)| positive < negative).count();
    report.row(Row::exact(golden, tag, "accuracy", triplet_accuracy == nearer as f64 / positive.len() as f64));
    for (what, ours, expected) in
        [("positive", positive_distance, &positive), ("negative", negative_distance, &negative)]
    {
        let expected = expected.iter().sum::<f64>() / expected.len() as f64;
        let what = format!("{what} distance, absolute");
        report.row(Row::new(golden, tag, &what, (ours - expected).abs(), bench.bounds.distance * expected.max(0.1)));
    }
    gradients(bench, golden, tag, trainer.method(), report);
}

/// As [`Report::gradients`], where the tensors that the set names have none: the pooler's.
fn gradients<D: Device>(bench: &Bench<D>, golden: &Golden, tag: &str, method: &Triplets<D>, report: &mut Report) {
    let without: Vec<&str> = golden.list(&[tag, "none_grads"]).iter().filter_map(Value::as_str).collect();
    let mut worst = 0.0f64;
    let mut seen_without = 0;
    for tensor in method.trained() {
        let key = format!("base_model.model.{}", tensor.name);
        if without.contains(&key.as_str()) {
            let [rows, cols] = method.device().weight_shape(&tensor.weight);
            assert!(method.device().read_f32(&tensor.grad, rows * cols).iter().all(|&value| value == 0.0), "{key}");
            seen_without += 1;
            continue;
        }
        let expected = golden.tensor(&format!("{tag}/grad/{key}"));
        let ours = method.device().read_f32(&tensor.grad, expected.len());
        let deviation = set::relative_norm(&ours, &expected);
        report.tensor(golden, tag, &tensor.name, deviation);
        worst = worst.max(deviation);
    }
    assert_eq!(seen_without, without.len(), "{}: {without:?}", golden.name);
    report.row(Row::new(golden, tag, "worst gradient, relative norm", worst, bench.bounds.gradient));
}
