//! Arguments of the commands that fill the telemetry store, or tell a server of it.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Annotator, Options, TelemetryOptions};
use crate::telemetry::{VERDICT_NAME, feedback_span_id};

/// A telemetry store, and the configuration that may name it.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The telemetry store [default: $XDG_DATA_HOME/tunesmith/<tenant>/telemetry.sqlite]
    #[arg(long, env = "TUNESMITH_STORE", value_name = "FILE")]
    pub store: Option<PathBuf>,
    /// Configuration file [default: tunesmith.toml, where it is there]
    #[arg(long, short, env = "TUNESMITH_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl StoreArgs {
    /// As settings.
    pub fn options(&self) -> Options {
        let telemetry = TelemetryOptions { store: self.store.clone(), ..TelemetryOptions::default() };
        Options { telemetry, ..Options::default() }
    }
}

/// A project of a Phoenix server.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Phoenix's address, such as http://127.0.0.1:6006
    #[arg(long, env = "TUNESMITH_PHOENIX_URL", value_name = "URL")]
    pub phoenix_url: Option<String>,
    /// File with Phoenix's API key [default: the variable PHOENIX_API_KEY]
    #[arg(long, env = "TUNESMITH_PHOENIX_API_KEY_FILE", value_name = "FILE")]
    pub phoenix_api_key_file: Option<PathBuf>,
    /// Project of Phoenix, and of the store
    #[arg(long, env = "TUNESMITH_PROJECT", value_name = "NAME")]
    pub project: Option<String>,
}

impl ServerArgs {
    /// `options` with these over them.
    pub fn over(self, mut options: Options) -> Options {
        options.project = self.project;
        options.telemetry.phoenix_url = self.phoenix_url;
        options.telemetry.phoenix_api_key_file = self.phoenix_api_key_file;
        options
    }
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Exports to read
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Project of the spans [default: what the file says, else `default`]
    #[arg(long, value_name = "NAME")]
    pub project: Option<String>,
    /// Where they go.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Arguments of `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// What is read.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Only spans that began then or later: 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub since: Option<String>,
    /// Only spans that began before
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub until: Option<String>,
    /// Where it goes.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Arguments of `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Spans that began before go: 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub before: jiff::Timestamp,
    /// Only those of this project [default: of all]
    #[arg(long, env = "TUNESMITH_PROJECT", value_name = "NAME")]
    pub project: Option<String>,
    /// Count them, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where they are.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Arguments of `mark`.
#[derive(Debug, Args)]
pub struct MarkArgs {
    /// The run's folder, with its `run.json`
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// What is told.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Configuration file [default: tunesmith.toml, where it is there]
    #[arg(long, short, env = "TUNESMITH_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `annotate`.
#[derive(Debug, Args)]
pub struct AnnotateArgs {
    /// The span: 16 hex digits
    #[arg(value_name = "SPAN", value_parser = feedback_span_id)]
    pub span_id: String,
    /// What is judged; the default extractor takes this name for a verdict
    #[arg(long, value_name = "NAME", default_value = VERDICT_NAME)]
    pub name: String,
    /// The verdict, such as `approved` or `rejected`
    #[arg(long, value_name = "LABEL", required_unless_present_any = ["score", "correction"])]
    pub label: Option<String>,
    /// The verdict as a number
    #[arg(long, value_name = "NUMBER", value_parser = finite, allow_negative_numbers = true)]
    pub score: Option<f64>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub explanation: Option<String>,
    /// What the answer should have been: the example's output, and the better side of a pair
    #[arg(long, value_name = "TEXT")]
    pub correction: Option<String>,
    /// The retrieved document that is judged, counted from 0, instead of the span
    #[arg(long, value_name = "N")]
    pub document: Option<u32>,
    /// Who judges
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Annotator::Human)]
    pub annotator_kind: Annotator,
    /// Tells verdicts of one name apart, such as those of two people; an equal one is replaced
    #[arg(long, value_name = "ID", default_value = "")]
    pub identifier: String,
    /// Project of the span [default: the one that has it]
    #[arg(long, env = "TUNESMITH_PROJECT", value_name = "NAME")]
    pub project: Option<String>,
    /// Where the span is.
    #[command(flatten)]
    pub store: StoreArgs,
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "not a number".to_owned())
}

/// An instant as Phoenix takes it. A time without an offset would be UTC there, whatever was meant.
fn instant(text: &str) -> Result<String, String> {
    match text.parse::<jiff::Timestamp>() {
        Ok(instant) => Ok(instant.to_string()),
        Err(_) => Err("not an instant with its offset, such as 2026-11-01T00:00:00Z".to_owned()),
    }
}
