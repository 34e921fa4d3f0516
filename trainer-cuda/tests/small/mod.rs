//! Models of 100,000 weights and twenty examples each, for tests of what surrounds the arithmetic.

#![allow(dead_code)] // each test uses its part

use serde_json::Value;
use std::path::{Path, PathBuf};
use trainer_cuda::batch::TokenExample;
use trainer_cuda::encode::{
    EncodeConfig, PairRecord, Prompt, Record, TripletRecord, encode_dpo, encode_sft, encode_triplets,
};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{PairExample, TripletExample};

const DECODER: &str = "llama_tied";
const ENCODER: &str = "bert";

/// A file of `tests/fixtures`. Where the executable is away from its sources, `CARGO_MANIFEST_DIR` says where they are.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).join("tests/fixtures").join(name)
}

fn folder(name: &str) -> PathBuf {
    fixture("golden").join(name)
}

pub(crate) fn base() -> BaseModel {
    BaseModel::open(&folder(DECODER).join("base")).unwrap()
}

pub(crate) fn encoder_base() -> BaseModel {
    BaseModel::open(&folder(ENCODER).join("base")).unwrap()
}

fn rows(name: &str, key: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder(name).join("ref.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[key].as_array().unwrap().clone()
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap().to_owned()
}

/// Twenty completions.
pub(crate) fn sequences(base: &BaseModel) -> Vec<TokenExample> {
    let record =
        |row: &Value| Record::PromptCompletion { prompt: text(row, "prompt"), completion: text(row, "completion") };
    let records: Vec<Record> = rows(DECODER, "data_sft").iter().map(record).collect();
    encode_sft(&base.tokenizer, &records, &EncodeConfig::default()).unwrap().examples
}

/// Twenty preference pairs.
pub(crate) fn pairs(base: &BaseModel) -> Vec<PairExample> {
    let record = |row: &Value| PairRecord {
        prompt: Prompt::Text(text(row, "prompt")),
        chosen: text(row, "chosen"),
        rejected: text(row, "rejected"),
    };
    let records: Vec<PairRecord> = rows(DECODER, "data_dpo").iter().map(record).collect();
    encode_dpo(&base.tokenizer, &records, &EncodeConfig::default()).unwrap().examples
}

/// Twenty triplets, of [`encoder_base`].
pub(crate) fn triplets(base: &BaseModel) -> Vec<TripletExample> {
    let record = |row: &Value| TripletRecord {
        anchor: text(row, "anchor"),
        positive: text(row, "positive"),
        negative: text(row, "negative"),
    };
    let records: Vec<TripletRecord> = rows(ENCODER, "triplet_data").iter().map(record).collect();
    encode_triplets(&base.tokenizer, &records, base.config.max_length()).unwrap().examples
}
