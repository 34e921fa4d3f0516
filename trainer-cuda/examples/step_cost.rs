//! Trains a LoRA adapter for a few steps and prints what a step costs, as one line of JSON.
//!
//! `cargo run --release -p trainer-cuda --example step_cost -- --method sft --base-model M --data F.jsonl`
//!
//! | flag | |
//! |---|---|
//! | `--method` | `sft`, `dpo` or `triplet` |
//! | `--data` | lines of `{"prompt", "completion"}`, `{"prompt", "chosen", "rejected"}` or `{"anchor", "positive", "negative"}`, taken in order |
//! | `--examples N` | the first N lines only; the reference of DPO is computed for as many before the first step |
//! | `--loss` | of SFT: `completion` (default), or `whole` for every token |
//! | `--batch-size`, `--steps`, `--max-length`, `--threads` | 4, 8, 512, 2 |
//! | `--precision` | `f32` (default) or `bf16` |
//! | `--no-shared-prefix` | puts random token ids in the place of each prompt's; the sides of a pair keep one prompt |
//!
//! Where the environment says that it is one of several ranks, it is: see `benchmarks/ranks/run.sh`.
//!
//! `benchmarks/trainer/peers.py` prints the same fields of what one would run instead.

#[path = "step_cost/flags.rs"]
mod flags;
#[path = "step_cost/random_tokens.rs"]
mod random_tokens;
#[path = "step_cost/since_start.rs"]
mod since_start;
#[path = "step_cost/usage.rs"]
mod usage;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};
use trainer_cuda::batch::TokenExample;
use trainer_cuda::config::{LoraConfig, Precision, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::encode::{EncodeConfig, LossOn, PairRecord, Prompt, Record, Skipped, TripletRecord};
use trainer_cuda::encode::{encode_dpo, encode_sft, encode_triplets};
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Dpo, Method, Sft, Triplets};
use trainer_cuda::ranks::{Ranks, Timeouts};
use trainer_cuda::trainer::Trainer;

use flags::Flags;
use random_tokens::random_token;

const LEARNING_RATE: f32 = 2e-4;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Sft,
    Dpo,
    Triplet,
}

struct Options {
    kind: Kind,
    base_model: PathBuf,
    data: PathBuf,
    examples: usize,
    loss: LossOn,
    steps: usize,
    max_length: usize,
    threads: usize,
    shared_prefix: bool,
    config: TrainConfig,
    ranks: Option<Ranks>,
}

fn main() -> Result<()> {
    let options = Options::read()?;
    let base = BaseModel::open(&options.base_model)?;
    let report = match options.kind {
        Kind::Sft => sft(&options, &base)?,
        Kind::Dpo => dpo(&options, &base)?,
        Kind::Triplet => triplets(&options, &base)?,
    };
    println!("{report}");
    Ok(())
}

impl Options {
    fn read() -> Result<Self> {
        let mut flags = Flags::of_command_line();
        let ranks = Ranks::from_environment()?;
        let config = TrainConfig {
            world_size: ranks.as_ref().map_or(1, Ranks::world_size),
            batch_size: flags.value("--batch-size")?.unwrap_or(4),
            precision: flags.value("--precision")?.unwrap_or(Precision::F32),
            lora: LoraConfig { rank: 8, alpha: 16.0, ..LoraConfig::default() },
            ..TrainConfig::default()
        };
        let options = Self {
            kind: flags.required("--method")?,
            base_model: flags.required("--base-model")?,
            data: flags.required("--data")?,
            examples: flags.value("--examples")?.unwrap_or(usize::MAX),
            loss: flags.value("--loss")?.unwrap_or(LossOn::Completion),
            steps: flags.value("--steps")?.unwrap_or(8),
            max_length: flags.value("--max-length")?.unwrap_or(512),
            threads: flags.value("--threads")?.unwrap_or(2),
            shared_prefix: !flags.switch("--no-shared-prefix"),
            config,
            ranks,
        };
        flags.finish()?;
        match options.steps {
            0 | 1 => Err("--steps has to be 2 at least: the first step is not counted".into()),
            _ => Ok(options),
        }
    }

    fn device(&self) -> Cpu {
        Cpu::new(Some(self.threads))
    }

    fn encoding(&self) -> EncodeConfig {
        EncodeConfig { max_length: self.max_length, loss_on: self.loss, ..EncodeConfig::default() }
    }

    /// The rows of the data, each as the strings under `keys`.
    fn rows<const N: usize>(&self, keys: [&str; N]) -> Result<Vec<[String; N]>> {
        let text = fs::read_to_string(&self.data).map_err(|error| format!("{}: {error}", self.data.display()))?;
        let row = |(index, line)| -> Result<[String; N]> {
            let row: Value = serde_json::from_str(line)?;
            match keys.iter().find(|&&key| !row[key].is_string()) {
                Some(key) => Err(format!("line {} of {} lacks `{key}`", index + 1, self.data.display()).into()),
                None => Ok(keys.map(|key| row[key].as_str().unwrap_or_default().to_owned())),
            }
        };
        text.lines().take(self.examples).enumerate().map(row).collect()
    }
}

fn sft(options: &Options, base: &BaseModel) -> Result<Value> {
    let records: Vec<Record> = options
        .rows(["prompt", "completion"])?
        .into_iter()
        .map(|[prompt, completion]| Record::PromptCompletion { prompt, completion })
        .collect();
    let encoded = encode_sft(&base.tokenizer, &records, &options.encoding())?;
    refuse_skipped(&encoded.skipped)?;
    let mut examples = encoded.examples;
    if !options.shared_prefix {
        examples.iter_mut().enumerate().for_each(|(index, example)| randomize_prompt(example, index, base));
    }
    measure(options, Sft::new(options.device(), base, &options.config, &examples, &[])?, &examples)
}

fn dpo(options: &Options, base: &BaseModel) -> Result<Value> {
    let records: Vec<PairRecord> = options
        .rows(["prompt", "chosen", "rejected"])?
        .into_iter()
        .map(|[prompt, chosen, rejected]| PairRecord { prompt: Prompt::Text(prompt), chosen, rejected })
        .collect();
    let encoded = encode_dpo(&base.tokenizer, &records, &options.encoding())?;
    refuse_skipped(&encoded.skipped)?;
    let mut pairs = encoded.examples;
    if !options.shared_prefix {
        for (index, pair) in pairs.iter_mut().enumerate() {
            randomize_prompt(&mut pair.chosen, index, base);
            randomize_prompt(&mut pair.rejected, index, base);
        }
    }
    measure(options, Dpo::new(options.device(), base, &options.config, &pairs, &[], None)?, &pairs)
}

fn triplets(options: &Options, base: &BaseModel) -> Result<Value> {
    if !options.shared_prefix {
        return Err("--no-shared-prefix is of prompts, which triplets lack".into());
    }
    let records: Vec<TripletRecord> = options
        .rows(["anchor", "positive", "negative"])?
        .into_iter()
        .map(|[anchor, positive, negative]| TripletRecord { anchor, positive, negative })
        .collect();
    let max_length = options.max_length.min(base.config.max_length());
    let encoded = encode_triplets(&base.tokenizer, &records, max_length)?;
    refuse_skipped(&encoded.skipped)?;
    let examples = encoded.examples;
    measure(options, Triplets::new(options.device(), base, &options.config, &examples, &[])?, &examples)
}

/// Both sides of a comparison have to train on the same rows.
fn refuse_skipped(skipped: &[Skipped]) -> Result<()> {
    match skipped.first() {
        Some(Skipped { index, reason }) => Err(format!("line {} can't be trained: {reason}", index + 1).into()),
        None => Ok(()),
    }
}

fn randomize_prompt(example: &mut TokenExample, index: usize, base: &BaseModel) {
    for (place, id) in example.input_ids[..example.response_start].iter_mut().enumerate() {
        *id = random_token(index, place, base.config.vocab_size());
    }
}

/// Steps over `examples` in order, and what they cost.
fn measure<M: Method>(options: &Options, method: M, examples: &[M::Example]) -> Result<Value> {
    let Options { config, steps, .. } = options;
    if examples.len() < config.batch_size {
        return Err(format!("{} examples are less than a batch of {}", examples.len(), config.batch_size).into());
    }
    let mut trainer = Trainer::new(method, config.clone())?;
    if let Some(ranks) = &options.ranks {
        trainer = trainer.over(ranks.meet(Timeouts::default())?)?;
    }
    let setup_cpu = usage::cpu_seconds();
    let (mut wall, mut cpu, mut done) = (Vec::new(), Vec::new(), Vec::new());
    let mut first_step = 0.0;
    for (index, batch) in examples.chunks_exact(config.batch_size).cycle().take(*steps).enumerate() {
        let (started, cpu_before) = (Instant::now(), usage::cpu_seconds());
        done.push(trainer.step(&[batch.iter().collect()], index + 1, LEARNING_RATE)?);
        wall.push(started.elapsed().as_secs_f64());
        cpu.push(usage::cpu_seconds() - cpu_before);
        if index == 0 {
            first_step = since_start::seconds_since_start()?;
        }
    }
    let per_step = |tokens: usize| tokens as f64 / *steps as f64;
    Ok(json!({
        "program": "tunesmith",
        "rank": trainer.share().rank(),
        "ranks": trainer.share().world_size(),
        "device": trainer.method().device().describe(),
        "batch_size": config.batch_size,
        "precision": config.precision,
        "steps": steps,
        "wall_s_median": median(&wall[1..]),
        "wall_s_min": minimum(&wall[1..]),
        "cpu_s_median": median(&cpu[1..]),
        "cpu_s_min": minimum(&cpu[1..]),
        "tokens_computed": per_step(done.iter().map(|step| step.n_tokens).sum()),
        "tokens_flat": per_step(done.iter().map(|step| step.n_tokens_flat).sum()),
        "peak_rss_mib": usage::peak_rss_mib(),
        "setup_cpu_s": setup_cpu,
        "first_step_s": first_step,
        "loss_first": done[0].loss,
        "loss_last": done[steps - 1].loss,
    }))
}

fn minimum(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}
