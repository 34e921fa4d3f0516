//! A model of 100,000 weights and twenty examples, for tests of what surrounds the arithmetic.

#![allow(dead_code)] // each test uses its part

use serde_json::Value;
use std::path::{Path, PathBuf};
use trainer_cuda::batch::TokenExample;
use trainer_cuda::encode::{EncodeConfig, PairRecord, Prompt, Record, encode_dpo, encode_sft};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::PairExample;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/llama_tied")
}

pub(crate) fn base() -> BaseModel {
    BaseModel::open(&folder().join("base")).unwrap()
}

fn rows(key: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("ref.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[key].as_array().unwrap().clone()
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap().to_owned()
}

/// Twenty completions.
pub(crate) fn sequences(base: &BaseModel) -> Vec<TokenExample> {
    let record =
        |row: &Value| Record::PromptCompletion { prompt: text(row, "prompt"), completion: text(row, "completion") };
    let records: Vec<Record> = rows("data_sft").iter().map(record).collect();
    encode_sft(&base.tokenizer, &records, &EncodeConfig::default()).unwrap().examples
}

/// Twenty preference pairs.
pub(crate) fn pairs(base: &BaseModel) -> Vec<PairExample> {
    let record = |row: &Value| PairRecord {
        prompt: Prompt::Text(text(row, "prompt")),
        chosen: text(row, "chosen"),
        rejected: text(row, "rejected"),
    };
    let records: Vec<PairRecord> = rows("data_dpo").iter().map(record).collect();
    encode_dpo(&base.tokenizer, &records, &EncodeConfig::default()).unwrap().examples
}
