//! DPO against TRL 1.16, PEFT 0.21, transformers 5.23 (fp32): log-probabilities of policy and reference, rewards, margins,
//! loss, every gradient, and the weights after five steps.

use crate::bench::{self, Bench, Bounds};
use crate::set::{Golden, Report, Row, decoders};
use serde_json::Value;
use trainer_cuda::config::{LoraConfig, Precision, TrainConfig};
use trainer_cuda::device::Device;
use trainer_cuda::encode::{EncodeConfig, PairRecord, Prompt, encode_dpo};
use trainer_cuda::formats::peft;
use trainer_cuda::method::{Dpo, MethodMetrics, PairExample};
use trainer_cuda::trainer::Trainer;

#[test]
fn dpo_equals_hugging_face() {
    let mut report = Report::new();
    for golden in decoders() {
        encoding(&golden, &pairs(&golden, golden.list(&["dpo", "data"])), &mut report);
        check(&bench::cpu(), &golden, &mut report);
    }
    report.finish();
}

#[test]
fn dpo_on_the_gpu_stays_near_hugging_faces_in_f32() {
    let mut report = Report::new();
    for golden in decoders() {
        check(&bench::gpu(), &golden, &mut report);
    }
    report.finish();
}

fn check<D: Device>(bench: &Bench<D>, golden: &Golden, report: &mut Report) {
    let data = pairs(golden, golden.list(&["data_dpo"]));
    let first = pairs(golden, golden.list(&["dpo", "data"]));
    let mut trainer = trainer(bench, golden, &data);
    let metrics = trainer.step(&[first.iter().collect()], 1, 0.0).expect("finite");
    let expected = golden.number(&["dpo", "loss"]);
    report.row(Row::new(
        golden,
        "dpo",
        "loss, relative",
        (metrics.loss - expected).abs() / expected,
        bench.bounds.dpo_loss,
    ));
    report.gradients(golden, "dpo", trainer.method(), bench.bounds.gradient);
    rewards(bench, golden, metrics.metrics, report);

    let (trainer, config) = (self::trainer(bench, golden, &data), config(golden, bench.precision));
    let bounds = Bounds { loss: bench.bounds.dpo_loss, ..bench.bounds };
    report.trajectory(golden, "dpo", trainer, &data, &config, bounds, bounds.weights);
}

fn config(golden: &Golden, precision: Precision) -> TrainConfig {
    let (rank, alpha) = golden.lora();
    let mut config = TrainConfig { epochs: 1, precision, ..TrainConfig::default() };
    config.lora = LoraConfig { rank, alpha, ..LoraConfig::default() };
    config.dpo.beta = golden.number(&["dpo", "beta"]);
    config
}

fn pairs(golden: &Golden, rows: &[Value]) -> Vec<PairExample> {
    let text = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
    let record = |row: &Value| PairRecord {
        prompt: Prompt::Text(text(row, "prompt")),
        chosen: text(row, "chosen"),
        rejected: text(row, "rejected"),
    };
    let records: Vec<PairRecord> = rows.iter().map(record).collect();
    encode_dpo(&golden.base.tokenizer, &records, &EncodeConfig::default()).expect("encodes").examples
}

/// A trainer at `adapter_init`: its reference is the base.
fn trainer<D: Device>(bench: &Bench<D>, golden: &Golden, data: &[PairExample]) -> Trainer<Dpo<D>> {
    let config = config(golden, bench.precision);
    let mut method = Dpo::new((bench.open)(), &golden.base, &config, data, &[], None).expect("the model loads");
    let adapter = peft::read_adapter(&golden.folder.join("adapter_init")).expect("the adapter loads");
    method.decoder_mut().write_adapter(&adapter).expect("the adapter fits the model");
    Trainer::new(method, config).expect("a valid configuration")
}

/// Our token ids are TRL's, and responses start where its do.
fn encoding(golden: &Golden, pairs: &[PairExample], report: &mut Report) {
    let prompts = golden.ids(&["dpo", "prompt_ids"]);
    let sides = [golden.ids(&["dpo", "chosen_ids"]), golden.ids(&["dpo", "rejected_ids"])];
    let same = pairs.len() == prompts.len()
        && pairs.iter().enumerate().all(|(i, pair)| {
            [&pair.chosen, &pair.rejected].iter().zip(&sides).all(|(ours, theirs)| {
                let (prompt, response) = ours.input_ids.split_at(ours.response_start);
                prompt == prompts[i] && response == theirs[i]
            })
        });
    report.row(Row::exact(golden, "dpo", "token ids and response starts", same));
}

fn rewards<D: Device>(bench: &Bench<D>, golden: &Golden, metrics: MethodMetrics, report: &mut Report) {
    let MethodMetrics::Dpo { reward_accuracy, reward_margin, chosen_reward, rejected_reward } = metrics else {
        panic!("{metrics:?}")
    };
    let mean = |key: &str| {
        let values = golden.list(&["dpo", key]);
        values.iter().map(|value| value.as_f64().expect("a number")).sum::<f64>() / values.len() as f64
    };
    for (what, ours, expected) in [
        ("margin", reward_margin, mean("margins")),
        ("chosen reward", chosen_reward, mean("rewards_chosen")),
        ("rejected reward", rejected_reward, mean("rewards_rejected")),
        ("accuracy", reward_accuracy, golden.number(&["dpo", "accuracy"])),
    ] {
        report.row(Row::new(golden, "dpo", &format!("{what}, absolute"), (ours - expected).abs(), bench.bounds.reward));
    }
}
