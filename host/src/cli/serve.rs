//! Arguments of `serve`.

use clap::Args;

use super::StoreArgs;
use crate::config::ServeOptions;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Besides the review, take in spans over OTLP/HTTP at /v1/traces, and feedback at /v1/annotations
    #[arg(long)]
    pub otlp: bool,
    /// How.
    #[command(flatten)]
    pub serve: ServeOptions,
    /// Where they go.
    #[command(flatten)]
    pub store: StoreArgs,
}
