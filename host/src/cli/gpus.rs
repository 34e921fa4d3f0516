//! Arguments of `gpus`.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};

use super::RunArgs;

/// Subcommands of `gpus`.
#[derive(Debug, Subcommand)]
pub enum GpusCommand {
    /// List the GPUs that are known, with what an hour of each costs
    #[command(after_help = "Example:\n  tunesmith gpus list --json")]
    List(Box<RunArgs>),
    /// Say which GPU is the smallest that a training fits, how long it would take there and what that would cost
    #[command(after_help = "\
Examples:
  tunesmith gpus recommend --base-model models/Llama-3.1-8B
  tunesmith gpus recommend --base-model models/Llama-3.1-8B --method dpo --examples 5000 --tokens-per-example 400 --json")]
    Recommend(Box<RecommendArgs>),
}

/// Arguments of `gpus recommend`.
#[derive(Debug, Args)]
pub struct RecommendArgs {
    /// Configuration and settings.
    #[command(flatten)]
    pub run: RunArgs,
    /// Examples that train, each as often as there are epochs
    #[arg(long, value_name = "N", default_value = "1000")]
    pub examples: NonZeroU32,
    /// Tokens of an example on average; for pairs and triplets, of each of its texts [default: the longest, `max_length`]
    #[arg(long, value_name = "N")]
    pub tokens_per_example: Option<NonZeroU32>,
}
