//! Everything that can go wrong in the trainer, told apart where a caller can act on the difference.

use std::path::PathBuf;

/// The trainer's error.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// A file could not be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No model where one was expected.
    #[error("no model at `{}`: expected a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a .gguf file", path.display())]
    ModelNotFound {
        /// The path given.
        path: PathBuf,
    },
    /// A hub name that this machine has no copy of.
    #[error("no model at `{name}`: expected a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a .gguf file, and the hub cache `{}` has no model of that name", cache.display())]
    NotInHubCache {
        /// `organisation/name`.
        name: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// A file of the model is missing, truncated or corrupt.
    #[error("`{}` is damaged: {what}; fetch or copy it again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place: a tensor, an offset.
        what: String,
    },
    /// A part of the model folder that the run needs is not there.
    #[error("`{}` lacks {what}", path.display())]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// The missing thing: `tensor \`model.norm.weight\``.
        what: String,
    },
    /// The architecture is not one that this build trains.
    #[error("`{}` is a `{architecture}` model; supported: {supported}", path.display())]
    UnsupportedArchitecture {
        /// The configuration file.
        path: PathBuf,
        /// `architectures[0]` of config.json, or `general.architecture` of a GGUF.
        architecture: String,
        /// What this build supports.
        supported: &'static str,
    },
    /// The architecture is known, and not what this method trains.
    #[error("`{}` is a `{architecture}`, {is}; this needs {needs}", path.display())]
    WrongKind {
        /// The model.
        path: PathBuf,
        /// `BertModel`.
        architecture: String,
        /// `a text embedding model`.
        is: &'static str,
        /// `a causal language model`.
        needs: &'static str,
    },
    /// The model needs something that this build does not do.
    #[error("`{}` needs {what}, which is not supported", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The feature: `rope scaling \`yarn\``, `GGUF type \`IQ2_XS\``.
        what: String,
    },
    /// No adapter where one was expected.
    #[error("no adapter at `{}`: expected a PEFT folder (adapter_config.json, adapter_model.safetensors)", path.display())]
    AdapterNotFound {
        /// The path given.
        path: PathBuf,
    },
    /// The adapter is more than low-rank updates of whole layers.
    #[error("`{}` needs {what}, which is not supported in adapters", path.display())]
    UnsupportedAdapter {
        /// The file.
        path: PathBuf,
        /// The feature: `\`use_dora: true\``.
        what: String,
    },
    /// The adapter was trained on another model.
    #[error("the adapter `{}` does not fit the model `{}`: {what}; name the model that it was trained on", adapter.display(), base.display())]
    AdapterMismatch {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The model.
        base: PathBuf,
        /// What is different.
        what: String,
    },
    /// A prompt that the model can't answer.
    #[error("{0}")]
    Prompt(String),
    /// The model computes no numbers.
    #[error("the model's logits are not numbers: its weights, or the adapter's, are damaged")]
    Logits,
    /// The training configuration contradicts itself or the data.
    #[error("{0}")]
    Config(String),
    /// No target module of the LoRA configuration is in the model.
    #[error("no module matches the LoRA target modules `{}`; the model has `{}`", targets.join("`, `"), modules.join("`, `"))]
    NoLoraTarget {
        /// What was asked for.
        targets: Vec<String>,
        /// What is there.
        modules: Vec<String>,
    },
    /// Nothing to train on.
    #[error("Cannot train with empty dataset. No training examples available after formatting.")]
    EmptyDataset,
    /// The tokenizer or the chat template refused a text.
    #[error("cannot encode example {index}: {what}")]
    Encode {
        /// Index into the list of records.
        index: usize,
        /// Why.
        what: String,
    },
    /// A checkpoint that this run cannot go on from.
    #[error("the checkpoint `{}` is of {what}; resume with what it was made with, or remove it to start anew", path.display())]
    OtherCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// `another configuration: \`epochs\` is 3 there, 4 here`.
        what: String,
    },
    /// DPO started from a loss that is not ln 2, so the reference is not of this model.
    #[error(
        "the first DPO loss is {loss}, not ln 2 = 0.6931: the cached reference is of another model; remove it and start again"
    )]
    StaleReference {
        /// What the first step gave.
        loss: f64,
    },
    /// The buffers and parameters of a run do not fit on the GPU.
    #[error(
        "CUDA out of memory. Tried to allocate {:.2} GiB, and {device} has {:.2} GiB free of {:.2} GiB; lower the batch size or \
         the maximum length, train with `recompute`, or hold the base as `quantized`",
        gib(*.needed), gib(*.free), gib(*.total)
    )]
    OutOfMemory {
        /// `NVIDIA H100`
        device: String,
        /// Bytes of the memory plan.
        needed: u64,
        /// Bytes that the driver says are free.
        free: u64,
        /// Bytes of the device.
        total: u64,
    },
    /// There is no GPU that this build can train on.
    #[error("{what}; {remedy}")]
    NoGpu {
        /// What is missing or wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// An operation failed on the GPU.
    #[error("the GPU failed in `{operation}`: {message}")]
    Cuda {
        /// The operation at which the driver reported it; with every operation waited for, the one that failed.
        operation: String,
        /// The driver's words.
        message: String,
    },
    /// The environment says something about ranks that makes no sense.
    #[error("{what}; {remedy}")]
    RankEnvironment {
        /// The variable, and what is wrong with it: `\`RANK\` is 2 of \`WORLD_SIZE\` 2`.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The ranks of a run did not find each other.
    #[error(
        "no rendezvous at `{address}`: {what}; see that the launcher started every rank, and that they reach that address"
    )]
    Rendezvous {
        /// `node1:29500`
        address: String,
        /// Who or what is missing: `rank 1 of 2 did not come within 120 s`.
        what: String,
    },
    /// The library that joins ranks is not there.
    #[error("{what}; {remedy}")]
    NoRankLibrary {
        /// What is missing or wrong.
        what: String,
        /// What to install.
        remedy: String,
    },
    /// Another rank ended before the run did.
    #[error(
        "rank {rank} of {world_size} was lost: its process ended or can't be reached; see its own error, and start all ranks \
         again: they go on from the last checkpoint"
    )]
    RankLost {
        /// Whose.
        rank: usize,
        /// Of how many.
        world_size: usize,
    },
    /// The ranks could not put their results together.
    #[error("`{operation}` failed between the ranks: {message}")]
    Collective {
        /// `MPI_Iallreduce`, `ncclAllReduce`.
        operation: String,
        /// The library's words, or ours.
        message: String,
    },
    /// A number left the range of floats.
    #[error("{what} is not finite at step {step}; lower the learning rate, or look at the examples of that step")]
    NotFinite {
        /// `loss`, `gradient of <tensor>`.
        what: String,
        /// Optimiser step, from 1.
        step: usize,
    },
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// The trainer's result.
pub type Result<T, E = TrainerError> = std::result::Result<T, E>;
