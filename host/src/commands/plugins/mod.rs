//! `tunesmith plugins`: a file for each of its commands.

mod check;
mod explain;
mod keygen;
mod list;
mod new;
mod sign;
mod test;

use super::Answer;
use crate::cli::PluginsCommand;
use crate::error::HostError;

pub(super) fn run(command: PluginsCommand) -> Result<Answer, HostError> {
    match command {
        PluginsCommand::List => list::run(),
        PluginsCommand::New(args) => new::run(&args),
        PluginsCommand::Check(args) => check::run(&args),
        PluginsCommand::Test(args) => test::run(&args),
        PluginsCommand::Explain(args) => explain::run(&super::run_config(*args)?),
        PluginsCommand::Keygen(args) => keygen::run(&args),
        PluginsCommand::Sign(args) => sign::run(&args),
    }
}
