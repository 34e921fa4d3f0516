//! Arguments of `review`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::approval::State;
use crate::config::{Options, ReviewOptions, TelemetryOptions};
use crate::plugins::bindings::types::ExampleKind;

/// Arguments of `review`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = false)]
pub struct ReviewArgs {
    /// Where the items are.
    #[command(flatten)]
    pub approvals: ApprovalArgs,
    /// What to do; without it, items are shown one at a time on a terminal.
    #[command(subcommand)]
    pub command: Option<ReviewCommand>,
}

/// The approval store, and the configuration that may name it.
#[derive(Debug, Args)]
pub struct ApprovalArgs {
    /// The approval store [default: `approvals.sqlite` beside the telemetry store]
    #[arg(long, global = true, env = "TUNESMITH_APPROVALS", value_name = "FILE", help_heading = "Review")]
    pub approvals: Option<PathBuf>,
    /// The telemetry store, beside which the approval store is [default:
    /// $XDG_DATA_HOME/tunesmith/<tenant>/telemetry.sqlite]
    #[arg(long, global = true, env = "TUNESMITH_STORE", value_name = "FILE", help_heading = "Review")]
    pub store: Option<PathBuf>,
    /// Configuration file [default: tunesmith.toml, where it is there]
    #[arg(long, short, global = true, env = "TUNESMITH_CONFIG", value_name = "FILE", help_heading = "Review")]
    pub config: Option<PathBuf>,
}

impl ApprovalArgs {
    /// As settings.
    pub fn options(&self) -> Options {
        let telemetry = TelemetryOptions { store: self.store.clone(), ..TelemetryOptions::default() };
        let review = ReviewOptions { approvals: self.approvals.clone(), ..ReviewOptions::default() };
        Options { telemetry, review, ..Options::default() }
    }
}

/// Subcommands of `review`.
#[derive(Debug, Subcommand)]
pub enum ReviewCommand {
    /// List items, with the handles by which they are decided
    #[command(after_help = "Example:\n  tunesmith review list --state pending --text refund --limit 20")]
    List(ListArgs),
    /// Show an item: its text, what it was made from, what it resembles, what happened to it
    Show(ItemArgs),
    /// Approve items as they are: they train
    #[command(after_help = "Example:\n  tunesmith review approve 12-ab12cd34 13-0f56ef78")]
    Approve(DecideArgs),
    /// Reject items: they do not train
    #[command(after_help = "Example:\n  tunesmith review reject 12-ab12cd34 --reason 'nobody asks this'")]
    Reject(DecideArgs),
    /// Change an item in your editor ($VISUAL, $EDITOR, else vi), and approve it so
    #[command(after_help = "\
Examples:
  tunesmith review edit 12-ab12cd34
  tunesmith review edit 12-ab12cd34 --from fields.toml")]
    Edit(EditArgs),
    /// Take back what was decided: the item is pending again, with the text that was generated
    Undo(DecideArgs),
    /// Write items with their decisions, one JSON object a line
    #[command(after_help = "\
Examples:
  tunesmith review export > items.jsonl
  tunesmith review export --approved --output approved.jsonl")]
    Export(ReviewExportArgs),
    /// Make the approval store again from its journal
    #[command(
        after_help = "Example:\n  tunesmith review restore --journal approvals.journal.jsonl --approvals restored.sqlite"
    )]
    Restore(RestoreArgs),
    /// List what generators gave, and where its items stand
    Batches,
    /// Show what is pending in a project of a Phoenix server, a span for each item; repeating it changes nothing
    #[command(after_help = "Example:\n  tunesmith review push --batch 1 --phoenix-url http://127.0.0.1:6006")]
    Push(PushArgs),
    /// Take what people said of those spans as their decisions: annotations `human_approval` of kind HUMAN, `approved` or
    /// `rejected`, by a user of Phoenix or with somebody's name as their identifier
    #[command(after_help = "Example:\n  tunesmith review poll --phoenix-url http://127.0.0.1:6006")]
    Poll(ReviewServerArgs),
}

/// Arguments of `review list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only items in this state
    #[arg(long, value_enum)]
    pub state: Option<State>,
    /// Only items of this batch
    #[arg(long, value_name = "N")]
    pub batch: Option<i64>,
    /// Only items for this agent
    #[arg(long, value_name = "NAME")]
    pub agent_type: Option<String>,
    /// Only items of this kind
    #[arg(long, value_enum)]
    pub kind: Option<ItemKind>,
    /// Only items with this text somewhere in them, in capitals or not
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// How many at the most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Only items after this one
    #[arg(long, value_name = "ITEM")]
    pub after: Option<i64>,
}

/// What an item is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ItemKind {
    /// For SFT
    Instruction,
    /// For DPO
    Preference,
    /// For embedding models
    Triplet,
}

impl From<ItemKind> for ExampleKind {
    fn from(kind: ItemKind) -> Self {
        match kind {
            ItemKind::Instruction => Self::ApprovedExample,
            ItemKind::Preference => Self::PreferencePair,
            ItemKind::Triplet => Self::Triplet,
        }
    }
}

/// Arguments of `review show`.
#[derive(Debug, Args)]
pub struct ItemArgs {
    /// The item's handle, or its number
    #[arg(value_name = "ITEM")]
    pub item: String,
}

/// Arguments of `review approve`, `reject` and `undo`.
#[derive(Debug, Args)]
pub struct DecideArgs {
    /// The items' handles, such as 12-ab12cd34
    #[arg(required = true, value_name = "HANDLE")]
    pub items: Vec<String>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Arguments of `review edit`.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// The item's handle, such as 12-ab12cd34
    #[arg(value_name = "HANDLE")]
    pub item: String,
    /// A file with the fields, as the editor shows them, instead of an editor
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Arguments of `review export`.
#[derive(Debug, Args)]
pub struct ReviewExportArgs {
    /// File to write [default: standard output]
    #[arg(long, short, value_name = "FILE", required_if_eq("json", "true"))]
    pub output: Option<PathBuf>,
    /// Only what people approved, each checked against the log of decisions
    #[arg(long)]
    pub approved: bool,
}

/// Arguments of `review restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The journal, which lies beside its store
    #[arg(long, value_name = "FILE")]
    pub journal: PathBuf,
}

/// Arguments of `review push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Only items of this batch [default: of all]
    #[arg(long, value_name = "N")]
    pub batch: Option<i64>,
    /// Where they are shown.
    #[command(flatten)]
    pub server: ReviewServerArgs,
}

/// A project of a Phoenix server, for reviews.
#[derive(Debug, Args)]
pub struct ReviewServerArgs {
    /// Phoenix's address, such as http://127.0.0.1:6006
    #[arg(long, env = "TUNESMITH_PHOENIX_URL", value_name = "URL")]
    pub phoenix_url: Option<String>,
    /// File with Phoenix's API key [default: the variable PHOENIX_API_KEY]
    #[arg(long, env = "TUNESMITH_PHOENIX_API_KEY_FILE", value_name = "FILE")]
    pub phoenix_api_key_file: Option<PathBuf>,
    /// Project of the reviews, which is made where it is not there
    #[arg(long = "project", value_name = "NAME", default_value = "tunesmith-review")]
    pub review_project: String,
}

impl ReviewServerArgs {
    /// As settings.
    pub fn over(&self, mut options: Options) -> Options {
        options.project = Some(self.review_project.clone());
        options.telemetry.phoenix_url = self.phoenix_url.clone();
        options.telemetry.phoenix_api_key_file = self.phoenix_api_key_file.clone();
        options
    }
}
