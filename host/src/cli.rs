//! The command line: types and help text, nothing else.

mod authoring;
mod gpus;
mod jobs;
mod models;
mod people;
mod plugins;
mod review;
mod runs;
mod serve;
mod telemetry;

pub use authoring::{CheckArgs, KindChoice, NewArgs, TestArgs};
pub use gpus::{GpusCommand, RecommendArgs};
pub use jobs::{JobArgs, JobsCommand, SagemakerEntrypointArgs, TrainArgs};
pub use models::{EmbedArgs, ExportArgs, GenerateArgs, MergeArgs, ModelArgs};
pub use people::{AddPersonArgs, PeopleArgs, PeopleCommand, RemovePersonArgs};
pub use plugins::{KeygenArgs, SignArgs};
pub use review::{
    ApprovalArgs, DecideArgs, EditArgs, ItemArgs, ListArgs, PushArgs, RestoreArgs, ReviewArgs, ReviewCommand,
    ReviewExportArgs, ReviewServerArgs,
};
pub use runs::{RunsArgs, RunsCommand};
pub use serve::ServeArgs;
pub use telemetry::{AnnotateArgs, ImportArgs, MarkArgs, PruneArgs, ServerArgs, StoreArgs, SyncArgs};

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::Options;

/// Turns the telemetry of LLM agents into LoRA adapters, on the machine where the agents run.
#[derive(Debug, Parser)]
#[command(name = "tunesmith", bin_name = "tunesmith", version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Whom it is for.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// How to tell about it.
    #[command(flatten)]
    pub output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  tunesmith import traces.jsonl
  tunesmith analyze --agent-type routing
  tunesmith finetune --agent-type routing --base-model models/SmolLM2-135M
  tunesmith finetune --config examples/quickstart/tunesmith.toml

Settings come from flags, then the environment, then tunesmith.toml, then defaults.
In the environment, --learning-rate is TUNESMITH_LEARNING_RATE, and so for every setting.
Exit codes: 0 done, 1 the input or the machine is at fault, 2 tunesmith is, 3 a run waits for people.";

impl Cli {
    /// Parses a command line, the program's name first.
    ///
    /// # Errors
    /// Clap's: a mistake, or a text that was asked for, such as the help.
    pub fn parse_from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        // A line of help for each variable would double it, and says only what the note at its end says once.
        let command = without_variables(Self::command());
        Self::from_arg_matches(&command.try_get_matches_from(args)?)
    }
}

fn without_variables(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.hide_env(true)).mut_subcommands(without_variables)
}

/// Whom a command works for.
#[derive(Debug, Clone, Args)]
pub struct ScopeArgs {
    /// Whose data this is; keeps default stores apart [default: default]
    #[arg(
        long,
        visible_alias = "tenant",
        global = true,
        env = "TUNESMITH_TENANT_ID",
        value_name = "ID",
        help_heading = "Tenant"
    )]
    pub tenant_id: Option<String>,
    /// Which tenants there are and what each may use: keeps every command within its tenant's folder [default: none]
    #[arg(long, global = true, env = "TUNESMITH_OPERATOR", value_name = "FILE", help_heading = "Tenant")]
    pub operator: Option<PathBuf>,
}

/// Flags of every command.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// Print the result as JSON on standard output
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Log more; twice for debugging (RUST_LOG wins)
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train an adapter on approved traces and compare it with its base on held-out ones
    #[command(after_help = "\
Examples:
  tunesmith finetune --agent-type routing --base-model models/SmolLM2-135M --epochs 5
  tunesmith finetune --config tenants/acme.toml --method sft --json
  tunesmith finetune --config tenants/acme.toml --resume
  tunesmith finetune --config tenants/acme.toml --wait-for-approval")]
    Finetune(FinetuneArgs),
    /// Look at runs that wait for people, and go on with them
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Look at jobs that train on other machines; wait for them, end them
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Train a bundle on this machine: what an engine is told to run
    #[command(after_help = "\
Example:
  tunesmith train --job bundle/job.json --out out

Of a training on several machines, each process finds its place in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
Exit codes: 0 done, 65 bad input, 66 base model, 70 the trainer, 71 out of memory, 74 input or output,
75 asked to stop, 76 ranks did not meet, 77 no usable GPU; `failure.json` in the output says more.")]
    Train(TrainArgs),
    /// Be the entry point of a container that SageMaker starts: train its bundle, and leave what it expects
    #[command(hide = true)]
    SagemakerEntrypoint(SagemakerEntrypointArgs),
    /// Write the training records that a run would use, one JSON object a line, with their lineage
    #[command(after_help = "\
Examples:
  tunesmith extract --agent-type routing > records.jsonl
  tunesmith extract --agent-type routing --formatter plugins/mine.wasm --output records.jsonl")]
    Extract(ExtractArgs),
    /// Say what the data is good for: counts, what is left out and why, and the policy's decision
    #[command(after_help = "Example:\n  tunesmith analyze --agent-type routing --json")]
    Analyze(RunArgs),
    /// Fill the telemetry store from exports (JSON lines or OTLP-JSON); repeating it changes nothing
    #[command(after_help = "Example:\n  tunesmith import traces.jsonl annotations.jsonl --project acme-prod")]
    Import(ImportArgs),
    /// Read what is new of a Phoenix project into the telemetry store, annotations of older spans included
    #[command(after_help = "\
Examples:
  tunesmith sync --phoenix-url http://127.0.0.1:6006 --project acme-prod
  PHOENIX_API_KEY=... tunesmith sync --phoenix-url https://phoenix.example.com --project acme-prod --since 2026-11-01T00:00:00Z")]
    Sync(SyncArgs),
    /// Say what an answer was worth: an annotation of a span in the telemetry store
    #[command(after_help = "\
Examples:
  tunesmith annotate 8114e0e32091afa3 --label approved
  tunesmith annotate 8114e0e32091afa3 --label rejected --explanation 'wrong agent' --correction weather_agent
  tunesmith annotate 8114e0e32091afa3 --name relevance --document 0 --label relevant")]
    Annotate(AnnotateArgs),
    /// Remove old spans from the telemetry store, and their annotations
    #[command(after_help = "Example:\n  tunesmith prune --before 2026-06-01T00:00:00Z --dry-run")]
    Prune(PruneArgs),
    /// Serve the pages where people review what was generated; with --otlp, receive spans of agents and feedback, too
    #[command(after_help = "\
Examples:
  tunesmith serve
  tunesmith serve --otlp
  tunesmith serve --otlp --listen 127.0.0.1:0 --store telemetry.sqlite --store-quota 2GiB --json
  curl http://127.0.0.1:4318/v1/annotations -H \"Authorization: Bearer $(cat serve.token)\" \\
      -d '{\"span_id\": \"8114e0e32091afa3\", \"label\": \"approved\"}'")]
    Serve(ServeArgs),
    /// Say who may review in the browser, and what each of them may do
    #[command(subcommand)]
    People(PeopleCommand),
    /// Annotate the spans that a run used with `used_in_training` in Phoenix
    #[command(
        after_help = "Example:\n  tunesmith mark --adapter outputs/adapters/mine --phoenix-url http://127.0.0.1:6006 --project acme-prod"
    )]
    Mark(MarkArgs),
    /// Say what a training would take: memory by group, the largest batch that fits, and time
    #[command(after_help = "\
Examples:
  tunesmith plan --base-model models/SmolLM2-135M --method dpo
  tunesmith plan --base-model models/SmolLM2-135M --batch-size 16 --max-length 512 --memory 8GiB --json")]
    Plan(PlanArgs),
    /// Say which GPU a training fits, how long it would take there and what that would cost
    #[command(subcommand)]
    Gpus(GpusCommand),
    /// Let a model answer, with or without an adapter; the text comes as it is made
    #[command(after_help = "\
Examples:
  tunesmith generate --base-model models/SmolLM2-135M-Instruct --chat 'What is the capital of France?'
  tunesmith generate --base-model models/SmolLM2-135M --adapter outputs/adapters/sft_routing_20251124_143052 \\
      --prompt \"$(cat prompt.txt)\" --max-new-tokens 16 --json")]
    Generate(GenerateArgs),
    /// Embed texts: a line of JSON for each, its numbers
    #[command(after_help = "\
Examples:
  tunesmith embed --base-model models/all-MiniLM-L6-v2 'a red car' 'a blue boat'
  tunesmith embed --base-model models/all-MiniLM-L6-v2 --adapter outputs/adapters/mine < texts.txt > vectors.jsonl")]
    Embed(EmbedArgs),
    /// Put an adapter into its base: a model that needs no adapter
    #[command(
        after_help = "Example:\n  tunesmith merge --base-model models/SmolLM2-135M --adapter outputs/adapters/mine --out models/mine"
    )]
    Merge(MergeArgs),
    /// Write an adapter as a GGUF that llama.cpp loads beside its base (`llama-cli --lora`)
    #[command(
        after_help = "Example:\n  tunesmith export --base-model models/SmolLM2-135M --adapter outputs/adapters/mine --out mine.gguf"
    )]
    Export(ExportArgs),
    /// Decide on what was generated: one at a time on a terminal, or item by item
    #[command(after_help = "\
Examples:
  tunesmith review
  tunesmith review list --state pending --agent-type routing
  tunesmith review approve 12-ab12cd34 13-0f56ef78
  tunesmith review reject 14-9a3b11c2 --reason 'nobody asks this'
  tunesmith review export --approved --output approved.jsonl

An item is named by its handle, 12-ab12cd34: its number, and the first digits of the SHA-256 of its text. So a
decision is on the very text that was seen.")]
    Review(ReviewArgs),
    /// Look at plugins; start, check and test one's own
    #[command(subcommand)]
    Plugins(PluginsCommand),
    /// Check this machine: GPU, processor, memory, plugins, model, store, with what to do about each lack
    #[command(after_help = "Example:\n  tunesmith doctor --base-model models/SmolLM2-135M")]
    Doctor(RunArgs),
}

/// A run's configuration file and settings.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Configuration file [default: tunesmith.toml, where it is there]
    #[arg(long, short, env = "TUNESMITH_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings, over those of the file.
    #[command(flatten)]
    pub options: Options,
}

/// Arguments of `finetune`.
#[derive(Debug, Args)]
pub struct FinetuneArgs {
    /// Configuration and settings.
    #[command(flatten)]
    pub run: RunArgs,
    /// Go on with the newest run of the same method and agent that was stopped, from its last checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Where data is missing, wait until people have approved enough of what is generated, and go on then; without it the
    /// run ends with exit code 3, and `tunesmith runs resume` goes on
    #[arg(long)]
    pub wait_for_approval: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Configuration and settings.
    #[command(flatten)]
    pub run: RunArgs,
    /// Find the largest batch for this much memory: `8GiB` [default: the memory limit, else what is available]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
}

/// Arguments of `extract`.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// Configuration and settings.
    #[command(flatten)]
    pub run: RunArgs,
    /// File to write [default: standard output]
    #[arg(long, short, value_name = "FILE", required_if_eq("json", "true"))]
    pub output: Option<PathBuf>,
    /// Which examples to format
    #[arg(long, value_enum, default_value_t = ExampleChoice::Approved)]
    pub kind: ExampleChoice,
}

/// Which examples `extract` formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExampleChoice {
    /// For SFT
    Approved,
    /// For DPO
    Pairs,
    /// For embedding models
    Triplets,
}

/// Subcommands of `plugins`.
#[derive(Debug, Subcommand)]
pub enum PluginsCommand {
    /// List the built-in plugins
    List,
    /// Write a folder to start a plugin from, which builds and passes its tests
    #[command(after_help = "Example:\n  tunesmith plugins new formatter my-formatter --lang python")]
    New(NewArgs),
    /// Say what a component is, and everything that keeps a run from loading it
    #[command(after_help = "Example:\n  tunesmith plugins check dist/my-formatter.wasm")]
    Check(CheckArgs),
    /// Run a plugin over fixtures and hold it to the contract of its kind, with time, fuel and memory
    #[command(after_help = "\
Examples:
  tunesmith plugins test dist/my-formatter.wasm
  tunesmith plugins test dist/my-formatter.wasm --fixtures tests/ --expect tests/expected.jsonl")]
    Test(TestArgs),
    /// Say which plugin serves an agent, who decided that, what it gets and everything that keeps it from serving
    #[command(after_help = "\
Examples:
  tunesmith plugins explain --agent-type routing
  tunesmith plugins explain --config tenants/acme.toml --tenant acme --agent-type routing --json")]
    Explain(Box<RunArgs>),
    /// Make a key to sign plugins with, and print its public half for `trusted_keys`
    #[command(after_help = "Example:\n  tunesmith plugins keygen --out plugins.key")]
    Keygen(KeygenArgs),
    /// Sign a plugin: its component and its manifest, so that neither can be changed or swapped
    #[command(after_help = "Example:\n  tunesmith plugins sign --key plugins.key dist/ours.wasm")]
    Sign(SignArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_the_variable_that_the_help_promises() {
        let command = Cli::command();
        let of = |name: &str| command.find_subcommand(name).unwrap().get_arguments();
        let mut settings = 0;
        for arg in of("finetune").chain(of("serve")).filter(|arg| {
            !["help", "json", "verbose", "resume", "wait_for_approval", "otlp", "worker"]
                .contains(&arg.get_id().as_str())
        }) {
            let long = arg.get_long().unwrap();
            let variable = format!("TUNESMITH_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()), "--{long}");
            settings += 1;
        }
        assert!(settings > 30, "{settings}");
    }
}
