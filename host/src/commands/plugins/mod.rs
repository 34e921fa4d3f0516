//! `tunesmith plugins`: a file for each of its commands.

mod list;

use super::Answer;
use crate::cli::PluginsCommand;
use crate::error::HostError;

pub(super) fn run(command: PluginsCommand) -> Result<Answer, HostError> {
    match command {
        PluginsCommand::List => list::run(),
    }
}
