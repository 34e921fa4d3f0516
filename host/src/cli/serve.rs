//! Arguments of `serve`.

use std::path::PathBuf;

use clap::Args;

use super::StoreArgs;
use crate::config::{Options, ReviewOptions, ServeOptions};

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Besides the review, take in spans over OTLP/HTTP at /v1/traces, and feedback at /v1/annotations
    #[arg(long)]
    pub otlp: bool,
    /// Besides the review, train for other hosts: one job at a time, with this binary
    #[arg(long)]
    pub worker: bool,
    /// How.
    #[command(flatten)]
    pub serve: ServeOptions,
    /// Where they go.
    #[command(flatten)]
    pub store: StoreArgs,
    /// What is reviewed, and by whom.
    #[command(flatten)]
    pub review: ReviewOptions,
    /// Folder of the runs that are shown [default: outputs/adapters]
    #[arg(long, env = "TUNESMITH_OUTPUT_DIR", value_name = "DIR", help_heading = "Review")]
    pub output_dir: Option<PathBuf>,
}

impl ServeArgs {
    /// As settings, those of serving left out.
    pub fn options(&self) -> Options {
        Options { review: self.review.clone(), output_dir: self.output_dir.clone(), ..self.store.options() }
    }
}
