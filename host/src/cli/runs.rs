//! Arguments of `runs`.

use clap::{Args, Subcommand};

use super::StoreArgs;
use crate::config::{Options, ReviewOptions};

/// Which runs there are.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Whose.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Where their approvals are.
    #[command(flatten)]
    pub review: ReviewOptions,
}

impl RunsArgs {
    /// As settings.
    pub fn options(&self) -> Options {
        Options { review: self.review.clone(), ..self.store.options() }
    }
}

/// Subcommands of `runs`.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// List the runs that people were asked something for
    List(RunsArgs),
    /// Show the record of a run
    Show {
        /// The run
        id: String,
        /// Where it is.
        #[command(flatten)]
        store: RunsArgs,
    },
    /// Go on with a run: with what was approved, the method is chosen again
    #[command(after_help = "Example:\n  tunesmith runs resume routing_20261126_143052")]
    Resume {
        /// The run
        id: String,
        /// Where it still lacks approvals, wait for them rather than end with exit code 3
        #[arg(long)]
        wait_for_approval: bool,
        /// Where it is.
        #[command(flatten)]
        store: RunsArgs,
    },
}
