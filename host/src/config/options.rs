//! What an operator may set: one definition for `tunesmith.toml`, the environment and the command line.
//!
//! Every field is optional here; [`RunConfig`](super::RunConfig) has the defaults filled in and the values checked.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::serve::ServeOptions;
use super::{Granted, Provider, RemoteOptions, SyntheticOptions};
use crate::compute::DeviceName;
use crate::dataset::{Detector, NearDuplicates, RedactionMode};
use crate::plugins::PluginKind;

/// The keys of `tunesmith.toml`, and the flags of the commands that read a project.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Whose data this is: the flag belongs to every command.
    #[arg(skip)]
    pub tenant_id: Option<String>,
    /// Telemetry project [default: the only one in the store]
    #[arg(long, env = "TUNESMITH_PROJECT", value_name = "NAME")]
    pub project: Option<String>,
    /// Kind of model to train [default: what the method trains, else llm]
    #[arg(long, env = "TUNESMITH_MODEL_TYPE")]
    pub model_type: Option<ModelType>,
    /// Agent to train: `routing`, `profile_selection`, `entity_extraction`, `search`, or one under `[agents]`
    /// [default for embedding models: search]
    #[arg(long, env = "TUNESMITH_AGENT_TYPE", value_name = "TYPE")]
    pub agent_type: Option<String>,
    /// Modality of an embedding model's documents: only searches for it give triplets [default: any]
    #[arg(long, env = "TUNESMITH_MODALITY")]
    pub modality: Option<Modality>,
    /// Model folder in Hugging Face's layout, a `.gguf` file, or a name in the hub cache
    /// [default: HuggingFaceTB/SmolLM-135M, for embedding models jinaai/jina-embeddings-v3]
    #[arg(long, env = "TUNESMITH_BASE_MODEL", value_name = "PATH")]
    pub base_model: Option<PathBuf>,
    /// Training method; `auto` asks the policy plugin [default: auto]
    #[arg(long, env = "TUNESMITH_METHOD")]
    pub method: Option<Method>,
    /// Fewest approved examples for SFT [default: 50]
    #[arg(long, env = "TUNESMITH_MIN_SFT_EXAMPLES", value_name = "N")]
    pub min_sft_examples: Option<u32>,
    /// Fewest preference pairs for DPO [default: 20]
    #[arg(long, env = "TUNESMITH_MIN_DPO_PAIRS", value_name = "N")]
    pub min_dpo_pairs: Option<u32>,
    /// Fewest triplets for an embedding model [default: 100]
    #[arg(long, env = "TUNESMITH_MIN_TRIPLETS", value_name = "N")]
    pub min_triplets: Option<u32>,
    /// Passes over the training examples [default: 3]
    #[arg(long, env = "TUNESMITH_EPOCHS", value_name = "N")]
    pub epochs: Option<NonZeroU32>,
    /// Examples of one forward and backward pass [default: 4]
    #[arg(long, env = "TUNESMITH_BATCH_SIZE", value_name = "N")]
    pub batch_size: Option<NonZeroU32>,
    /// Peak learning rate [default: 2e-4]
    #[arg(long, env = "TUNESMITH_LEARNING_RATE", value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Train a LoRA adapter, or every weight of the model [default: true]
    #[arg(long, env = "TUNESMITH_USE_LORA", value_name = "BOOL")]
    pub use_lora: Option<bool>,
    /// Where training runs [default: local]
    #[arg(long, env = "TUNESMITH_BACKEND")]
    pub backend: Option<Backend>,
    /// Who trains where the backend is remote
    #[arg(long, env = "TUNESMITH_BACKEND_PROVIDER", value_name = "PROVIDER")]
    pub backend_provider: Option<Provider>,
    /// Kind of GPU that a remote job gets, by the engine's name; `none` trains on the processor [default: A10G]
    #[arg(long, env = "TUNESMITH_GPU", value_name = "KIND")]
    pub gpu: Option<String>,
    /// GPUs of each of a remote job's machines [default: 1]
    #[arg(long, env = "TUNESMITH_GPU_COUNT", value_name = "N")]
    pub gpu_count: Option<NonZeroU32>,
    /// Processor cores of each of a remote job's machines [default: 4]
    #[arg(long, env = "TUNESMITH_CPU", value_name = "N")]
    pub cpu: Option<NonZeroU32>,
    /// Memory of each of a remote job's machines, in MiB [default: 16384]
    #[arg(id = "job_memory", long = "job-memory", env = "TUNESMITH_JOB_MEMORY", value_name = "MIB")]
    pub memory: Option<NonZeroU32>,
    /// Seconds that an attempt at a remote job may train [default: 3600]
    #[arg(long, env = "TUNESMITH_TIMEOUT", value_name = "SECONDS")]
    pub timeout: Option<NonZeroU32>,
    /// Fill missing data with generated examples that a person approved [default: true]
    #[arg(long, env = "TUNESMITH_GENERATE_SYNTHETIC", value_name = "BOOL")]
    pub generate_synthetic: Option<bool>,
    /// Folder that gets one folder per run [default: outputs/adapters]
    #[arg(long, env = "TUNESMITH_OUTPUT_DIR", value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Seed of the split, the shuffle and the adapter's start [default: 42]
    #[arg(long, env = "TUNESMITH_SEED", value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// `[telemetry]`
    #[command(flatten)]
    pub telemetry: TelemetryOptions,
    /// `[training]`
    #[command(flatten)]
    pub training: TrainingOptions,
    /// `[compute]`
    #[command(flatten)]
    pub compute: ComputeOptions,
    /// `[lora]`
    #[command(flatten)]
    pub lora: LoraOptions,
    /// `[dpo]`
    #[command(flatten)]
    pub dpo: DpoOptions,
    /// `[triplet]`
    #[command(flatten)]
    pub triplet: TripletOptions,
    /// `[redaction]`
    #[command(flatten)]
    pub redaction: RedactionOptions,
    /// `[dataset]`
    #[command(flatten)]
    pub dataset: DatasetOptions,
    /// `[review]`
    #[command(flatten)]
    pub review: ReviewOptions,
    /// `[synthetic]`
    #[command(flatten)]
    pub synthetic: SyntheticOptions,
    /// `[remote]`
    #[command(flatten)]
    pub remote: RemoteOptions,
    /// `[plugins]`
    #[command(flatten)]
    pub plugins: PluginOptions,
    /// `[serve]`: the flags are those of `serve`.
    #[arg(skip)]
    pub serve: ServeOptions,
    /// `[extraction]`
    #[arg(skip)]
    pub extraction: ExtractionOptions,
    /// `[agents.<agent type>]`
    #[arg(skip)]
    pub agents: BTreeMap<String, AgentOptions>,
    /// The operator's, and set nowhere else.
    #[arg(skip)]
    #[serde(skip)]
    pub granted: Granted,
}

/// `[review]`: where people decide what of generated data may train.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Review")]
pub struct ReviewOptions {
    /// The approval store [default: `approvals.sqlite` beside the telemetry store]
    #[arg(long, env = "TUNESMITH_APPROVALS", value_name = "FILE")]
    pub approvals: Option<PathBuf>,
    /// The file of those who may review in the browser [default: `people.toml` beside the approval store]
    #[arg(long, env = "TUNESMITH_PEOPLE", value_name = "FILE")]
    pub people: Option<PathBuf>,
    /// Days after which what nobody decided is expired [default: 30]
    #[arg(long, env = "TUNESMITH_EXPIRE_AFTER_DAYS", value_name = "DAYS")]
    pub expire_after_days: Option<NonZeroU32>,
}

/// `[telemetry]`: where spans come from.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryOptions {
    /// The telemetry store [default: $XDG_DATA_HOME/tunesmith/<tenant>/telemetry.sqlite]
    #[arg(long, env = "TUNESMITH_STORE", value_name = "FILE")]
    pub store: Option<PathBuf>,
    /// Import this export before the run; what is there already is not changed
    #[arg(long, env = "TUNESMITH_IMPORT", value_name = "FILE", value_delimiter = ',')]
    pub import: Option<Vec<PathBuf>>,
    /// Read what is new of the project from this Phoenix server before the run: http://127.0.0.1:6006
    #[arg(long, env = "TUNESMITH_PHOENIX_URL", value_name = "URL")]
    pub phoenix_url: Option<String>,
    /// File with Phoenix's API key [default: the variable PHOENIX_API_KEY]
    #[arg(long, env = "TUNESMITH_PHOENIX_API_KEY_FILE", value_name = "FILE")]
    pub phoenix_api_key_file: Option<PathBuf>,
    /// After the run, annotate the spans that it used with `used_in_training` in Phoenix [default: false]
    #[arg(long, env = "TUNESMITH_PHOENIX_WRITE_BACK", value_name = "BOOL")]
    pub phoenix_write_back: Option<bool>,
}

/// `[training]`: how the optimiser runs.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Training")]
pub struct TrainingOptions {
    /// Passes summed into one optimiser step [default: 1]
    #[arg(long, env = "TUNESMITH_GRADIENT_ACCUMULATION_STEPS", value_name = "N")]
    pub gradient_accumulation_steps: Option<NonZeroU32>,
    /// Course of the learning rate after warmup [default: linear]
    #[arg(long, env = "TUNESMITH_LR_SCHEDULER", value_name = "SHAPE")]
    pub lr_scheduler: Option<LrSchedule>,
    /// Share of the steps that warm up [default: 0]
    #[arg(long, env = "TUNESMITH_WARMUP_RATIO", value_name = "RATIO")]
    pub warmup_ratio: Option<f64>,
    /// AdamW's decoupled weight decay [default: 0]
    #[arg(long, env = "TUNESMITH_WEIGHT_DECAY", value_name = "RATE")]
    pub weight_decay: Option<f32>,
    /// Gradients are scaled down to this norm; 0 leaves them as they are [default: 1]
    #[arg(long, env = "TUNESMITH_MAX_GRAD_NORM", value_name = "NORM")]
    pub max_grad_norm: Option<f32>,
    /// Longest example in tokens [default: 1024]
    #[arg(long, env = "TUNESMITH_MAX_LENGTH", value_name = "TOKENS")]
    pub max_length: Option<NonZeroU32>,
    /// What happens to a longer example; it is counted either way [default: drop]
    #[arg(long, env = "TUNESMITH_OVER_LENGTH", value_name = "WHAT")]
    pub over_length: Option<OverLength>,
    /// Which tokens carry the loss; `auto` is the whole of a text and the completion of the rest [default: auto]
    #[arg(long, env = "TUNESMITH_LOSS_ON", value_name = "PART")]
    pub loss_on: Option<LossOn>,
    /// How frozen weights are stored and multiplied; `quantized` keeps them as their file does
    /// [default: f32, on a GPU bf16]
    #[arg(long, env = "TUNESMITH_PRECISION", value_name = "HOW")]
    pub precision: Option<Precision>,
    /// Keep only the inputs of blocks for the backward pass and compute the rest again: less memory, a third more time
    /// [default: false]
    #[arg(long, env = "TUNESMITH_RECOMPUTE", value_name = "BOOL")]
    pub recompute: Option<bool>,
    /// Optimiser steps between evaluations on the held-out examples [default: those of an epoch]
    #[arg(long, env = "TUNESMITH_EVAL_STEPS", value_name = "N")]
    pub eval_steps: Option<NonZeroU32>,
    /// Stop after so many evaluations without a lower held-out loss, and keep the best weights [default: train to the end]
    #[arg(long, env = "TUNESMITH_EARLY_STOPPING_PATIENCE", value_name = "N")]
    pub early_stopping_patience: Option<NonZeroU32>,
    /// Optimiser steps between checkpoints, from which `--resume` goes on [default: 50]
    #[arg(long, env = "TUNESMITH_CHECKPOINT_STEPS", value_name = "N")]
    pub checkpoint_steps: Option<NonZeroU32>,
    /// Most memory that the training may plan for: `8GiB`, `512MiB` [default: what is available]
    #[arg(long, env = "TUNESMITH_MEMORY_LIMIT", value_name = "SIZE")]
    pub memory_limit: Option<String>,
}

/// `[compute]`: what trains, and what runs a model.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Compute")]
pub struct ComputeOptions {
    /// `cpu`, a GPU (`cuda`, `cuda:1`), or `auto`: the first GPU that will do, else the CPU [default: auto]
    #[arg(long, env = "TUNESMITH_DEVICE", value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Threads of the processor [default: all that the process may run on]
    #[arg(long, env = "TUNESMITH_THREADS", value_name = "N")]
    pub threads: Option<NonZeroU32>,
    /// Folder with libcuda or libcublasLt, looked at before the usual places
    #[arg(long, env = "TUNESMITH_CUDA_LIBS", value_name = "DIR")]
    pub cuda_libs: Option<PathBuf>,
    /// Wait for each operation of a GPU: slow, but a failure names the operation that failed [default: false]
    #[arg(long, env = "TUNESMITH_CUDA_WAIT", value_name = "BOOL")]
    pub cuda_wait: Option<bool>,
}

/// `[lora]`: the adapter's shape.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "LoRA")]
pub struct LoraOptions {
    /// Rank of the update [default: 8]
    #[arg(long = "lora-rank", env = "TUNESMITH_LORA_RANK", value_name = "N")]
    pub rank: Option<NonZeroU32>,
    /// Scaling numerator: the update is scaled by alpha / rank [default: 16]
    #[arg(long = "lora-alpha", env = "TUNESMITH_LORA_ALPHA", value_name = "N")]
    pub alpha: Option<f32>,
    /// Share of the update's inputs that training drops [default: 0]
    #[arg(long = "lora-dropout", env = "TUNESMITH_LORA_DROPOUT", value_name = "RATIO")]
    pub dropout: Option<f32>,
    /// Modules to adapt, by name; `all-linear` is every linear layer but the head [default: all-linear]
    #[arg(long, env = "TUNESMITH_TARGET_MODULES", value_name = "NAMES", value_delimiter = ',')]
    pub target_modules: Option<Vec<String>>,
    /// Scale by alpha / sqrt(rank) (rsLoRA) [default: false]
    #[arg(long, env = "TUNESMITH_USE_RSLORA", value_name = "BOOL")]
    pub use_rslora: Option<bool>,
    /// Where no module of the model matches: end the run, or train every weight [default: error]
    #[arg(long = "lora-fallback", env = "TUNESMITH_LORA_FALLBACK", value_name = "WHAT")]
    pub fallback: Option<LoraFallback>,
}

/// `[dpo]`: preference pairs.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "DPO")]
pub struct DpoOptions {
    /// How strongly the base holds the adapter back [default: 0.1]
    #[arg(long = "dpo-beta", env = "TUNESMITH_DPO_BETA", value_name = "BETA")]
    pub beta: Option<f64>,
}

/// `[triplet]`: the loss of embedding models.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Triplet loss")]
pub struct TripletOptions {
    /// How far two embeddings are apart [default: cosine]
    #[arg(long = "triplet-distance", env = "TUNESMITH_TRIPLET_DISTANCE", value_name = "DISTANCE")]
    pub distance: Option<Distance>,
    /// How much nearer than the negative the positive has to be [default: 0.5]
    #[arg(long = "triplet-margin", env = "TUNESMITH_TRIPLET_MARGIN", value_name = "MARGIN")]
    pub margin: Option<f32>,
}

/// `[redaction]`: what is taken out of spans before a plugin sees them.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Redaction")]
pub struct RedactionOptions {
    /// Take out of spans what `detectors`, `patterns` and `attributes` name, before a plugin sees it [default: true]
    #[arg(long = "redaction", env = "TUNESMITH_REDACTION", value_name = "BOOL")]
    pub enabled: Option<bool>,
    /// What is looked for in texts [default: email,phone,card,iban,ip,key]
    #[arg(
        long = "redaction-detectors",
        env = "TUNESMITH_REDACTION_DETECTORS",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    pub detectors: Option<Vec<Detector>>,
    /// What stands for it: its kind, `[EMAIL]`, or a number as well, the same for the same value: `[EMAIL_1]`
    /// [default: mask]
    #[arg(long = "redaction-mode", env = "TUNESMITH_REDACTION_MODE", value_name = "MODE")]
    pub mode: Option<RedactionMode>,
    /// Attributes of spans that are left out whole; a `*` at the end stands for any rest: `llm.input_messages.*`
    #[arg(
        long = "redaction-attributes",
        env = "TUNESMITH_REDACTION_ATTRIBUTES",
        value_name = "KEYS",
        value_delimiter = ','
    )]
    pub attributes: Option<Vec<String>>,
    /// `[[redaction.patterns]]`
    #[arg(skip)]
    pub patterns: Vec<PatternOptions>,
}

/// `[dataset]`: between extractor and trainer.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Dataset")]
pub struct DatasetOptions {
    /// What becomes of inputs that are nearly the same: they are kept and counted, kept on one side of the split, or
    /// that and, of those with equal answers, all but one are dropped [default: keep]
    #[arg(long, env = "TUNESMITH_NEAR_DUPLICATES", value_name = "WHAT")]
    pub near_duplicates: Option<NearDuplicates>,
    /// From which overlap of their wording on two inputs are nearly the same, 0.8 to 1 [default: 0.85]
    #[arg(long, env = "TUNESMITH_NEAR_DUPLICATE_THRESHOLD", value_name = "OVERLAP")]
    pub near_duplicate_threshold: Option<f64>,
}

/// `[[redaction.patterns]]`: one of the operator's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatternOptions {
    /// Stands for what was found, in brackets; capitals, digits and `_`.
    pub name: String,
    /// A regular expression; where it has a group, only what the first one finds is taken out.
    pub regex: String,
}

/// `[plugins]`: who extracts, formats and decides, and what a call may use.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Plugins")]
pub struct PluginOptions {
    /// Extractor: a built-in name or a `.wasm` component, pinned with `@sha256:DIGITS` [default: annotated-extractor]
    #[arg(long, env = "TUNESMITH_EXTRACTOR", value_name = "PLUGIN")]
    pub extractor: Option<String>,
    /// Formatter: a built-in name or a `.wasm` component, pinned with `@sha256:DIGITS` [default: alpaca-formatter]
    #[arg(long, env = "TUNESMITH_FORMATTER", value_name = "PLUGIN")]
    pub formatter: Option<String>,
    /// Policy: a built-in name or a `.wasm` component, pinned with `@sha256:DIGITS` [default: threshold-policy]
    #[arg(long, env = "TUNESMITH_POLICY", value_name = "PLUGIN")]
    pub policy: Option<String>,
    /// Wall time of one plugin call [default: 5000]
    #[arg(long = "plugin-deadline-ms", env = "TUNESMITH_PLUGIN_DEADLINE_MS", value_name = "MS")]
    pub deadline_ms: Option<NonZeroU32>,
    /// Memory of one plugin call [default: 64]
    #[arg(long = "plugin-memory-mib", env = "TUNESMITH_PLUGIN_MEMORY_MIB", value_name = "MIB")]
    pub memory_mib: Option<NonZeroU32>,
    /// Output of one plugin call [default: 16]
    #[arg(long = "plugin-output-mib", env = "TUNESMITH_PLUGIN_OUTPUT_MIB", value_name = "MIB")]
    pub output_mib: Option<NonZeroU32>,
    /// Instructions of one plugin call: the same verdict on every machine, a fifth slower [default: not counted]
    #[arg(long = "plugin-fuel", env = "TUNESMITH_PLUGIN_FUEL", value_name = "N")]
    pub fuel: Option<NonZeroU64>,
    /// Call stack of plugins, 64 to 1024 [default: 512]
    #[arg(long = "plugin-stack-kib", env = "TUNESMITH_PLUGIN_STACK_KIB", value_name = "KIB")]
    pub stack_kib: Option<NonZeroU32>,
    /// Elements of one table of a plugin [default: 20000]
    #[arg(long = "plugin-table-elements", env = "TUNESMITH_PLUGIN_TABLE_ELEMENTS", value_name = "N")]
    pub table_elements: Option<NonZeroU32>,
    /// Examples that an extractor may give for each span of a batch, beside 1024 for the batch [default: 64]
    #[arg(long = "plugin-records-per-span", env = "TUNESMITH_PLUGIN_RECORDS_PER_SPAN", value_name = "N")]
    pub records_per_span: Option<NonZeroU32>,
    /// Log lines of one plugin call; more are dropped and counted [default: 64]
    #[arg(long = "plugin-log-kib", env = "TUNESMITH_PLUGIN_LOG_KIB", value_name = "KIB")]
    pub log_kib: Option<u32>,
    /// Size of a plugin's component that is compiled at all [default: 64]
    #[arg(long = "plugin-component-mib", env = "TUNESMITH_PLUGIN_COMPONENT_MIB", value_name = "MIB")]
    pub component_mib: Option<NonZeroU32>,
    /// Where a plugin fails on a batch: end the run, or leave the batch out and count it [default: fail]
    #[arg(long = "plugin-on-failure", env = "TUNESMITH_PLUGIN_ON_FAILURE", value_name = "WHAT")]
    pub on_failure: Option<OnFailure>,
    /// `[plugins.settings.<kind>]`: handed to the plugin as text
    #[arg(skip)]
    pub settings: PluginSettings,
    /// Where the three plugins above were named; no key of the file.
    #[arg(skip)]
    #[serde(skip)]
    pub sources: PluginSources,
}

/// Where the plugins of all agents were named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PluginSources {
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Those that a flag or the environment named.
    pub command_line: Vec<PluginKind>,
}

/// `[plugins.settings]`: a table per kind of plugin; the keys are the plugin's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginSettings {
    /// For the extractor.
    pub extractor: BTreeMap<String, Scalar>,
    /// For the formatter.
    pub formatter: BTreeMap<String, Scalar>,
    /// For the policy.
    pub policy: BTreeMap<String, Scalar>,
}

/// A plugin's setting; it crosses as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)] // the TOML types
pub enum Scalar {
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
}

/// `[extraction]`: what counts as a person's verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExtractionOptions {
    /// Annotations that are verdicts; an empty list means every name.
    pub annotation_names: Option<Vec<String>>,
    /// Whose annotations count.
    pub annotator_kinds: Option<Vec<Annotator>>,
    /// Labels that approve.
    pub approved_labels: Option<Vec<String>>,
    /// Labels that reject.
    pub rejected_labels: Option<Vec<String>>,
    /// Keys of annotation metadata that hold a corrected output.
    pub correction_keys: Option<Vec<String>>,
    /// Labels whose explanation is the corrected output.
    pub explanation_correction_labels: Option<Vec<String>>,
    /// Attributes that mark our own training and evaluation runs.
    pub own_span_attributes: Option<Vec<String>>,
    /// Annotations whose score is a verdict.
    pub score_rules: Vec<ScoreRule>,
}

/// `[[extraction.score_rules]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreRule {
    /// The annotation's name.
    pub annotation_name: String,
    /// Scores at or above approve.
    #[serde(default)]
    pub approve_at_least: Option<f64>,
    /// Scores below reject.
    #[serde(default)]
    pub reject_below: Option<f64>,
}

/// `[agents.<agent type>]`: what differs for one agent; its plugins win over `[plugins]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentOptions {
    /// The instruction of every example.
    pub instruction: Option<String>,
    /// Which spans are this agent's: any rule that matches.
    #[serde(rename = "match")]
    pub matches: Option<Vec<Match>>,
    /// Extractor for this agent.
    pub extractor: Option<String>,
    /// Formatter for this agent.
    pub formatter: Option<String>,
    /// Policy for this agent.
    pub policy: Option<String>,
}

/// One rule of `match`: `{ name = "..." }`, `{ name_suffix = "..." }` or `{ attribute = "...", equals = "..." }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a match rule is { name = \"...\" }, { name_suffix = \"...\" } or { attribute = \"...\", equals = \"...\" }"
)]
pub enum Match {
    /// The span's whole name.
    Name {
        /// The name.
        name: String,
    },
    /// The end of the span's name, after a `.` or `/`.
    NameSuffix {
        /// The end.
        name_suffix: String,
    },
    /// A text attribute's exact value.
    Attribute {
        /// The key.
        attribute: String,
        /// The value.
        equals: String,
    },
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }
    };
}

choice! {
    /// What is trained.
    ModelType {
        /// A language model.
        Llm,
        /// A text embedding model.
        Embedding,
    }
}
choice! {
    /// How it is trained.
    Method {
        /// What the policy plugin decides.
        Auto,
        /// Supervised fine-tuning on approved examples.
        Sft,
        /// Direct preference optimisation on preference pairs.
        Dpo,
        /// Triplet loss, of embedding models.
        Triplet,
    }
}
choice! {
    /// What an embedding model's documents are.
    Modality {
        /// Videos.
        Video,
        /// Images.
        Image,
        /// Texts.
        Text,
    }
}
choice! {
    /// How the weights that a run does not train are stored.
    Precision {
        /// In f32.
        F32,
        /// In bf16, half of that; multiplied in bf16 where the processor can.
        Bf16,
        /// As their file stores them, multiplied in f32.
        Quantized,
    }
}
choice! {
    /// Where no module of the model is a LoRA target.
    LoraFallback {
        /// The run ends with the names of those that are there.
        Error,
        /// Every weight is trained, with a warning.
        Full,
    }
}
choice! {
    /// Where a plugin fails on a batch of spans or examples.
    OnFailure {
        /// The run ends.
        Fail,
        /// The batch is left out and counted; the run ends where every batch fails.
        Skip,
    }
}
choice! {
    /// How far two embeddings are apart.
    Distance {
        /// `1 - cos(a, b)`.
        Cosine,
        /// `|a - b|`.
        Euclidean,
    }
}
choice! {
    /// Where it is trained.
    Backend {
        /// On this machine.
        Local,
        /// On a machine of a cloud.
        Remote,
    }
}
choice! {
    /// Course of the learning rate after warmup.
    LrSchedule {
        /// Straight to zero.
        Linear,
        /// Half a cosine to zero.
        Cosine,
        /// No decay.
        Constant,
    }
}
choice! {
    /// What happens to an example that is too long.
    OverLength {
        /// Left out.
        Drop,
        /// Cut at its end.
        Truncate,
    }
}
choice! {
    /// Which tokens carry the loss.
    LossOn {
        /// The whole of a text record, the completion of others.
        Auto,
        /// The response only.
        Completion,
        /// Every token.
        Whole,
    }
}
/// Who annotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
pub enum Annotator {
    /// A person.
    Human,
    /// A model.
    Llm,
    /// A program.
    Code,
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
        }
    }
}

impl Modality {
    /// The word for it in settings and folder names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Image => "image",
            Self::Text => "text",
        }
    }
}

impl PluginOptions {
    /// The setting for the plugin of `kind`.
    pub fn of_kind(&self, kind: PluginKind) -> Option<&str> {
        match kind {
            PluginKind::Extractor => self.extractor.as_deref(),
            PluginKind::Formatter => self.formatter.as_deref(),
            PluginKind::Policy => self.policy.as_deref(),
        }
    }
}

impl AgentOptions {
    /// The agent's own setting for the plugin of `kind`.
    pub fn of_kind(&self, kind: PluginKind) -> Option<&str> {
        match kind {
            PluginKind::Extractor => self.extractor.as_deref(),
            PluginKind::Formatter => self.formatter.as_deref(),
            PluginKind::Policy => self.policy.as_deref(),
        }
    }
}
