//! Prints what a training step costs against how many tokens of its batch are unique: sequences of 256 random tokens
//! that share their first 0 to 192.
//!
//! `cargo run --release -p trainer-cuda --example prefix_table -- --base-model M [--precision f32|bf16] [--steps 2]
//! [--threads 2] [--recompute]`
//!
//! LoRA of rank 8 on all linear modules, every token labelled. Of `--steps` steps the cheapest is printed. With the shape
//! of SmolLM2-135M, the largest batch (64 sequences, nothing shared) holds some 12 GiB, a fifth of that with
//! `--recompute`.

#[path = "step_cost/flags.rs"]
mod flags;
#[path = "step_cost/random_tokens.rs"]
mod random_tokens;
#[path = "step_cost/since_start.rs"]
mod since_start;
#[path = "step_cost/usage.rs"]
mod usage;

use std::error::Error;
use std::io::{Write, stdout};
use std::path::PathBuf;

use trainer_cuda::batch::{Budget, Forest, TokenExample};
use trainer_cuda::config::{Precision, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Method, Sft};
use trainer_cuda::trainer::Trainer;

use flags::Flags;
use random_tokens::random_token;

const LENGTH: usize = 256;
const BATCH_SIZES: [usize; 3] = [4, 16, 64];
const PREFIXES: [usize; 4] = [192, 128, 64, 0];
const LEARNING_RATE: f32 = 2e-4;

fn main() -> Result<(), Box<dyn Error>> {
    let mut flags = Flags::of_command_line();
    let base = BaseModel::open(&flags.required::<PathBuf>("--base-model")?)?;
    let precision = flags.value("--precision")?.unwrap_or(Precision::F32);
    let steps: usize = flags.value("--steps")?.unwrap_or(2);
    let threads = flags.value("--threads")?.unwrap_or(2);
    let config = TrainConfig { precision, recompute: flags.switch("--recompute"), ..TrainConfig::default() };
    flags.finish()?;

    let vocab = base.config.vocab_size();
    let batch = |size, prefix| (0..size).map(|index| sequence(index, prefix, vocab)).collect::<Vec<_>>();
    // Memory that no batch has touched yet is not there: one set of buffers serves all, from the smallest up.
    let largest = Forest::new(&batch(BATCH_SIZES[2], 0).iter().collect::<Vec<_>>());
    let budget = Budget { n_rows: largest.n_tokens(), ..largest.budget() };
    let mut trainer = Trainer::new(Sft::with_budget(Cpu::new(Some(threads)), &base, &config, budget)?, config)?;

    println!("{}, {precision:?}\n", trainer.method().device().describe());
    println!("| batch | shared of {LENGTH} | flat tokens | unique tokens | CPU s per step | CPU ms per unique token |");
    println!("|---:|---:|---:|---:|---:|---:|");
    let mut step = 0;
    for size in BATCH_SIZES {
        for prefix in PREFIXES {
            let examples = batch(size, prefix);
            let (mut cheapest, mut tokens) = (f64::INFINITY, (0, 0));
            for _ in 0..steps {
                step += 1;
                let before = usage::cpu_seconds();
                let done = trainer.step(&[examples.iter().collect()], step, LEARNING_RATE)?;
                cheapest = cheapest.min(usage::cpu_seconds() - before);
                tokens = (done.n_tokens_flat, done.n_tokens);
            }
            let (flat, unique) = tokens;
            let per_token = 1e3 * cheapest / unique as f64;
            println!("| {size} | {prefix} | {flat} | {unique} | {cheapest:.2} | {per_token:.2} |");
            stdout().flush()?;
        }
    }
    println!("\npeak memory {:.0} MiB", usage::peak_rss_mib());
    println!("{:.1} s from the start", since_start::seconds_since_start()?);
    Ok(())
}

/// `LENGTH` labelled tokens, of which every sequence has the first `prefix` in common.
fn sequence(index: usize, prefix: usize, vocab: usize) -> TokenExample {
    let token = |place| random_token(if place < prefix { 0 } else { 1 + index }, place, vocab);
    TokenExample { input_ids: (0..LENGTH).map(token).collect(), labels: vec![true; LENGTH], response_start: 0 }
}
