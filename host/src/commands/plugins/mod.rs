//! `tunesmith plugins`: a file for each of its commands.

mod explain;
mod keygen;
mod list;
mod sign;

use super::Answer;
use crate::cli::PluginsCommand;
use crate::error::HostError;

pub(super) fn run(command: PluginsCommand) -> Result<Answer, HostError> {
    match command {
        PluginsCommand::List => list::run(),
        PluginsCommand::Explain(args) => explain::run(&super::run_config(*args)?),
        PluginsCommand::Keygen(args) => keygen::run(&args),
        PluginsCommand::Sign(args) => sign::run(&args),
    }
}
