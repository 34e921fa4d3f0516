//! Trains a LoRA adapter on triplets, and embeds texts with the result.
//!
//! `cargo run --release -p trainer-cuda --example triplets BASE TRIPLETS.jsonl OUT [steps]`
//!
//! `OUT` gets the adapter and `embeddings.jsonl`, lines of `{"text", "embedding"}` of the first 16 triplets:
//! `tests/peft/check_embedding.py` compares them with PEFT's and sentence-transformers'.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use trainer_cuda::config::TrainConfig;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::encode::{TripletRecord, encode_triplets};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::Triplets;
use trainer_cuda::trainer::Trainer;

const BATCH_SIZE: usize = 16;
const LEARNING_RATE: f32 = 2e-4;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, base, records, out, rest @ ..] = args.as_slice() else {
        return Err("usage: triplets BASE TRIPLETS.jsonl OUT [steps]".into());
    };
    let steps: usize = rest.first().map_or(Ok(20), |steps| steps.parse())?;
    let base = BaseModel::open(Path::new(base))?;
    let records = fs::read_to_string(records)?.lines().map(record).collect::<Result<Vec<_>, _>>()?;
    let examples = encode_triplets(&base.tokenizer, &records, base.config.max_length())?.examples;

    let config = TrainConfig { batch_size: BATCH_SIZE, epochs: 1, ..TrainConfig::default() };
    let device = Cpu::new(None);
    println!("{}, {} triplets", device.describe(), examples.len());
    let mut trainer = Trainer::new(Triplets::new(device, &base, &config, &examples, &[])?, config)?;
    for (index, batch) in examples.chunks(BATCH_SIZE).cycle().take(steps).enumerate() {
        let step = trainer.step(&[batch.iter().collect()], index + 1, LEARNING_RATE)?;
        println!("step {:3}  loss {:.4}", step.step, step.loss);
    }

    let out = Path::new(out);
    fs::create_dir_all(out)?;
    trainer.save(&base, out)?;
    let mut file = fs::File::create(out.join("embeddings.jsonl"))?;
    for record in &records[..BATCH_SIZE.min(records.len())] {
        for text in [&record.anchor, &record.positive, &record.negative] {
            let (ids, _) = base.tokenizer.encode_within(text, base.config.max_length())?;
            // A text of another batch may be longer than the buffers.
            if ids.len() <= trainer.method().encoder().budget().max_length {
                let embedding = trainer.method_mut().encoder_mut().embed(&[&ids])?.swap_remove(0);
                writeln!(file, "{}", json!({ "text": text, "embedding": embedding }))?;
            }
        }
    }
    Ok(())
}

fn record(line: &str) -> Result<TripletRecord, Box<dyn Error>> {
    let row: Value = serde_json::from_str(line)?;
    let text = |key: &str| row[key].as_str().map(str::to_owned).ok_or(format!("a line lacks `{key}`"));
    Ok(TripletRecord { anchor: text("anchor")?, positive: text("positive")?, negative: text("negative")? })
}
