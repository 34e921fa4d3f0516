//! Training with frozen weights in less than f32, and the memory that it saves.

#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

use std::path::{Path, PathBuf};
use trainer_cuda::batch::TokenExample;
use trainer_cuda::config::{Precision, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::encode::{EncodeConfig, Record, encode_sft};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::Sft;
use trainer_cuda::trainer::{Event, Trainer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn examples(base: &BaseModel) -> Vec<TokenExample> {
    let record = |i: usize| Record::PromptCompletion {
        prompt: format!("Route the query: find {i} cats and send them to"),
        completion: format!(" agent {}", ["search", "calendar", "weather"][i % 3]),
    };
    let records: Vec<Record> = (0..12).map(record).collect();
    encode_sft(&base.tokenizer, &records, &EncodeConfig::default()).unwrap().examples
}

/// The loss of every step of three epochs.
fn losses(base: &BaseModel, precision: Precision) -> Vec<f64> {
    let data = examples(base);
    let config = TrainConfig { precision, learning_rate: 5e-3, ..TrainConfig::default() };
    let method = Sft::new(Cpu::new(None), base, &config, &data, &[]).unwrap();
    let mut trainer = Trainer::new(method, config).unwrap();
    let mut losses = Vec::new();
    trainer
        .train(&data, &[], None, &mut |event| {
            if let Event::Step(step) = event {
                losses.push(step.loss);
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    losses
}

fn worst_relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f64::max)
}

#[test]
fn a_quantized_file_trains_to_the_losses_of_f32() {
    // The matrices of the first are f16, of the second bf16.
    for name in ["llama_tied.gguf", "llama_untied_rope3.gguf"] {
        let base = BaseModel::open(&fixture(name)).unwrap();
        let (f32, quantized) = (losses(&base, Precision::F32), losses(&base, Precision::Quantized));
        assert_eq!(f32.len(), 9);
        // The same values in another order of summation.
        let worst = worst_relative(&quantized, &f32);
        println!("{name}: {worst:.1e}");
        assert!(worst < 1e-6, "{name}: losses differ by {worst:e} of themselves");
    }
}

#[test]
fn a_precision_is_named_in_lower_case_and_f32_where_none_is() {
    let config = |text: &str| serde_json::from_str::<TrainConfig>(text).unwrap().precision;
    assert_eq!(config("{}"), Precision::F32);
    for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16), ("quantized", Precision::Quantized)] {
        assert_eq!(config(&format!(r#"{{"precision": "{name}"}}"#)), precision);
    }
    let error = serde_json::from_str::<TrainConfig>(r#"{"precision": "int8"}"#).unwrap_err().to_string();
    assert!(error.starts_with("unknown variant `int8`, expected one of `f32`, `bf16`, `quantized`"), "{error}");
}
