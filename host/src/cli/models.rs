//! Arguments of the commands that use a model without training it.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;

use crate::config::{ComputeOptions, Precision};

/// The model, and how it runs.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Model folder in Hugging Face's layout, a `.gguf` file, or a name in the hub cache
    #[arg(long, env = "TUNESMITH_BASE_MODEL", value_name = "PATH")]
    pub base_model: PathBuf,
    /// Folder of an adapter that was trained on it: ours, or any LoRA of PEFT [default: none]
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// How the model's matrices are held; `quantized` is as their file stores them [default: f32, on a GPU bf16]
    #[arg(long, env = "TUNESMITH_PRECISION", value_name = "TYPE")]
    pub precision: Option<Precision>,
    /// What runs it.
    #[command(flatten)]
    pub compute: ComputeOptions,
}

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text to go on from, as it stands [default: standard input, to its end]
    #[arg(long, value_name = "TEXT", conflicts_with = "chat")]
    pub prompt: Option<String>,
    /// What the user says, in the model's chat template
    #[arg(long, value_name = "TEXT")]
    pub chat: Option<String>,
    /// The system message before it
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value = "256")]
    pub max_new_tokens: NonZeroU32,
    /// Divides the logits that tokens are drawn by; 0 takes the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Draw from the fewest likeliest tokens that have this probability together
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Seeds the draws
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}

/// Arguments of `embed`.
#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Texts to embed [default: the lines of standard input]
    #[arg(value_name = "TEXT")]
    pub texts: Vec<String>,
}

/// Arguments of `merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Model folder in Hugging Face's layout, a `.gguf` file, or a name in the hub cache
    #[arg(long, env = "TUNESMITH_BASE_MODEL", value_name = "PATH")]
    pub base_model: PathBuf,
    /// Folder of an adapter that was trained on it
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Folder to make: a Hugging Face model with safetensors, in the types of the base
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The model that the adapter was trained on
    #[arg(long, env = "TUNESMITH_BASE_MODEL", value_name = "PATH")]
    pub base_model: PathBuf,
    /// Folder of the adapter
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE.gguf")]
    pub out: PathBuf,
}
