//! SFT, log-probabilities and logits against TRL 1.16, PEFT 0.21, transformers 5.23 (fp32, eager attention).

use crate::bench::{self, Bench, Bounds};
use crate::set::{self, Golden, Report, Row, decoders};
use trainer_cuda::batch::{Forest, TokenExample};
use trainer_cuda::config::{LoraConfig, Precision, TrainConfig};
use trainer_cuda::device::Device;
use trainer_cuda::encode::{EncodeConfig, LossOn, OverLength, Record, encode_sft};
use trainer_cuda::formats::{Adapter, peft};
use trainer_cuda::generator::Generator;
use trainer_cuda::method::{Method, Sft};
use trainer_cuda::trainer::Trainer;

#[test]
fn sft_equals_hugging_face() {
    let mut report = Report::new();
    for golden in decoders() {
        tokens(&golden, &mut report);
        check(&bench::cpu(), &golden, &mut report);
    }
    report.finish();
}

#[test]
fn sft_on_the_gpu_stays_near_hugging_faces_in_f32() {
    let mut report = Report::new();
    for golden in decoders() {
        check(&bench::gpu(), &golden, &mut report);
    }
    report.finish();
}

/// One bf16 rounding, 2^-9: weights and, where the processor multiplies bf16, activations are each off by up to that,
/// independently, and a loss is a mean over tokens. What we measure is 2e-4 to 8e-4.
const BF16_LOSS: f64 = 2e-3; // relative

#[test]
fn sft_in_bf16_stays_near_hugging_faces_in_f32() {
    let mut report = Report::new();
    for golden in &decoders().collect::<Vec<_>>() {
        for (tag, loss_on) in [("sft_full", LossOn::Whole), ("sft_comp", LossOn::Completion)] {
            let (data, config) = (golden.data_sft(loss_on), config(golden, Precision::Bf16));
            let steps = golden.trajectory(tag);
            let mut trainer = trainer(&bench::cpu(), golden, config.clone(), &data);
            let mut worst = 0.0f64;
            for (index, (expected, examples)) in steps.iter().zip(data.chunks(config.batch_size)).enumerate() {
                let rate = expected.learning_rate as f32;
                let metrics = trainer.step(&[examples.iter().collect()], index + 1, rate).expect("finite");
                worst = worst.max((metrics.loss - expected.loss).abs() / expected.loss);
            }
            report.row(Row::new(golden, tag, "5 steps in bf16: loss, relative", worst, BF16_LOSS));
        }
    }
    report.finish();
}

/// What does not depend on a device: our token ids and labels are TRL's.
fn tokens(golden: &Golden, report: &mut Report) {
    for (tag, loss_on) in [("sft_full", LossOn::Whole), ("sft_comp", LossOn::Completion)] {
        encoding(golden, tag, &golden.data_sft(loss_on)[..4], report);
    }
    truncation(golden, report);
    boundary(golden, report);
}

fn check<D: Device>(bench: &Bench<D>, golden: &Golden, report: &mut Report) {
    forward_logprobs(bench, golden, report);
    for (tag, adapter) in [("logits_base", None), ("logits_adapter", Some("adapter_init"))] {
        cached_logits(bench, golden, tag, adapter, report);
    }
    let Bounds { weights, stress_weights, .. } = bench.bounds;
    let config = config(golden, bench.precision);
    for (tag, loss_on) in [("sft_full", LossOn::Whole), ("sft_comp", LossOn::Completion)] {
        let data = golden.data_sft(loss_on);
        first_gradient(bench, golden, tag, &data[..4], report);
        trajectory(bench, golden, tag, &data, config.clone(), weights, report);
    }
    let mut accumulated = config.clone();
    (accumulated.batch_size, accumulated.gradient_accumulation_steps) = (2, 2);
    trajectory(bench, golden, "sft_accum", &golden.data_sft(LossOn::Whole), accumulated, weights, report);
    let mut stress = config;
    (stress.learning_rate, stress.warmup_ratio, stress.weight_decay, stress.max_grad_norm) = (5e-3, 0.4, 0.1, 0.5);
    let data = golden.data_sft(LossOn::Completion);
    trajectory(bench, golden, "sft_stress", &data, stress, stress_weights, report);
    packing(bench, golden, report);
}

/// The configuration of every run of the set, but for what a run says otherwise.
fn config(golden: &Golden, precision: Precision) -> TrainConfig {
    let (rank, alpha) = golden.lora();
    let lora = LoraConfig { rank, alpha, ..LoraConfig::default() };
    TrainConfig { epochs: 1, precision, lora, ..TrainConfig::default() }
}

/// A trainer at `adapter_init`, with room for any batch of `examples`.
fn trainer<D: Device>(
    bench: &Bench<D>,
    golden: &Golden,
    config: TrainConfig,
    examples: &[TokenExample],
) -> Trainer<Sft<D>> {
    let budget = Forest::new(&examples.iter().collect::<Vec<_>>()).budget();
    let method = Sft::with_budget((bench.open)(), &golden.base, &config, budget).expect("the model loads");
    let mut trainer = Trainer::new(method, config).expect("a valid configuration");
    let adapter = peft::read_adapter(&golden.folder.join("adapter_init")).expect("the adapter loads");
    trainer.method_mut().decoder_mut().write_adapter(&adapter).expect("the adapter fits the model");
    trainer
}

/// Log-probability of every token after the first, adapter on.
fn forward_logprobs<D: Device>(bench: &Bench<D>, golden: &Golden, report: &mut Report) {
    let mut worst = 0.0f64;
    let mut sequences = Vec::new();
    for ids in golden.ids(&["forward", "input_ids"]) {
        sequences.push(set::labelled_from(ids, 0));
    }
    let mut trainer = trainer(bench, golden, config(golden, bench.precision), &sequences);
    for (index, sequence) in sequences.iter().enumerate() {
        let forest = Forest::new(&[sequence]);
        let scores = trainer.method_mut().decoder_mut().score(&forest);
        let expected = golden.tensor(&format!("forward/logprob_{index}"));
        assert_eq!(scores.logprob.len(), expected.len());
        let deviations = scores.logprob.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs()));
        worst = deviations.fold(worst, f64::max);
    }
    report.row(Row::new(golden, "forward", "logprobs, absolute", worst, bench.bounds.logprob));
}

/// Logits over a key-value cache: a pass over the whole prefix, and a token at a time.
fn cached_logits<D: Device>(bench: &Bench<D>, golden: &Golden, tag: &str, adapter: Option<&str>, report: &mut Report) {
    let adapter = adapter.map(|name| Adapter::open(&golden.folder.join(name)).expect("the adapter opens"));
    let max_length = golden.base.config.max_length();
    let generator = Generator::load((bench.open)(), &golden.base, adapter.as_ref(), bench.precision, max_length);
    let mut generator = generator.expect("the model loads");
    let expected = golden.tensor(&format!("forward/{tag}"));
    let mut expected = expected.chunks_exact(golden.base.config.vocab_size());
    let (mut worst, mut between) = (0.0f64, 0.0f64);
    let positions = golden.ids(&["forward", "logit_positions"]);
    for (ids, positions) in golden.ids(&["forward", "input_ids"]).iter().zip(&positions) {
        let one_pass = |generator: &mut Generator<D>, last: u32| {
            generator.forget();
            generator.append(&ids[..=last as usize])
        };
        let one_pass: Vec<_> = positions.iter().map(|&last| one_pass(&mut generator, last)).collect();
        generator.forget();
        let stepwise: Vec<_> = ids.iter().map(|&id| generator.append(&[id])).collect();
        for (&position, one_pass) in positions.iter().zip(&one_pass) {
            let stepwise = &stepwise[position as usize];
            let expected = expected.next().expect("a row for each position");
            worst = worst.max(largest_difference(one_pass, expected)).max(largest_difference(stepwise, expected));
            between = between.max(largest_difference(one_pass, stepwise));
        }
    }
    assert!(expected.next().is_none(), "a position for each row");
    report.row(Row::new(golden, "forward", &format!("{tag}, absolute"), worst, bench.bounds.logits));
    report.row(Row::new(golden, "forward", &format!("{tag}, a token at a time"), between, bench.bounds.cached));
}

fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// Our token ids and labels are TRL's.
fn encoding(golden: &Golden, tag: &str, examples: &[TokenExample], report: &mut Report) {
    let ids = golden.ids(&[tag, "input_ids"]);
    let labels = golden.labels(&[tag, "labels"]);
    let same = (examples.iter().zip(ids.iter().zip(&labels)))
        .all(|(ours, (ids, labels))| &ours.input_ids == ids && &ours.labels == labels);
    report.row(Row::exact(golden, tag, "token ids and labels", same && examples.len() == ids.len()));
}

/// Loss and every gradient of the first batch, before clipping.
fn first_gradient<D: Device>(
    bench: &Bench<D>,
    golden: &Golden,
    tag: &str,
    examples: &[TokenExample],
    report: &mut Report,
) {
    let mut trainer = trainer(bench, golden, config(golden, bench.precision), examples);
    let batch: Vec<&TokenExample> = examples.iter().collect();
    let loss = trainer.method_mut().accumulate(&[batch], 1).expect("computes").loss;
    let expected = golden.number(&[tag, "loss"]);
    report.row(Row::new(golden, tag, "loss, relative", (loss - expected).abs() / expected, bench.bounds.loss));

    report.gradients(golden, tag, trainer.method(), bench.bounds.gradient);
}

fn trajectory<D: Device>(
    bench: &Bench<D>,
    golden: &Golden,
    tag: &str,
    data: &[TokenExample],
    config: TrainConfig,
    weights: f64,
    report: &mut Report,
) {
    let trainer = trainer(bench, golden, config.clone(), data);
    report.trajectory(golden, tag, trainer, data, &config, bench.bounds, weights);
}

/// Documents packed in one row don't see each other, with position ids that restart.
fn packing<D: Device>(bench: &Bench<D>, golden: &Golden, report: &mut Report) {
    let documents = golden.packed_documents();
    let batch: Vec<&TokenExample> = documents.iter().collect();
    let mut trainer = trainer(bench, golden, config(golden, bench.precision), &documents);
    let loss = trainer.method_mut().accumulate(&[batch], 1).expect("computes").loss;
    let expected = golden.number(&["packing", "loss_isolated_docs"]);
    report.row(Row::new(golden, "packing", "loss, relative", (loss - expected).abs() / expected, bench.bounds.loss));
}

/// The start of a long text is kept; a row without labels is dropped.
fn truncation(golden: &Golden, report: &mut Report) {
    let encode = |records: &[Record], tag: &str, loss_on| {
        let max_length = golden.number(&[tag, "max_length"]) as usize;
        let config = EncodeConfig { max_length, loss_on, over_length: OverLength::Truncate };
        encode_sft(&golden.base.tokenizer, records, &config).expect("encodes").examples
    };
    let texts = encode(&golden.records(&["data_sft"]), "truncation", LossOn::Whole);
    let same = golden.ids(&["truncation", "input_ids"]).iter().zip(&texts).all(|(ids, ours)| ids == &ours.input_ids);
    report.row(Row::exact(golden, "truncation", "token ids", same));

    let kept = encode(&golden.records(&["truncation_comp", "data"]), "truncation_comp", LossOn::Completion);
    let expected = golden.rows(&["truncation_comp", "kept"]);
    let same = kept.len() == expected.len()
        && kept.iter().zip(&expected).all(|(ours, (ids, labels))| &ours.input_ids == ids && &ours.labels == labels);
    report.row(Row::exact(golden, "truncation", "completion rows kept", same));
}

/// Prompt and completion whose tokens merge across the boundary.
fn boundary(golden: &Golden, report: &mut Report) {
    let records = golden.records(&["boundary"]);
    let config = EncodeConfig { loss_on: LossOn::Completion, ..EncodeConfig::default() };
    let examples = encode_sft(&golden.base.tokenizer, &records, &config).expect("encodes").examples;
    let expected = golden.rows(&["boundary"]);
    let same = examples.len() == expected.len()
        && examples.iter().zip(&expected).all(|(ours, (ids, labels))| &ours.input_ids == ids && &ours.labels == labels);
    report.row(Row::exact(golden, "boundary", "token ids and labels", same));
}
