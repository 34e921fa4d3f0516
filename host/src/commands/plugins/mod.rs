//! `tunesmith plugins`: a file for each of its commands.

mod check;
mod explain;
mod keygen;
mod list;
mod new;
mod sign;
mod test;

use std::path::Path;

use super::Answer;
use crate::cli::PluginsCommand;
use crate::error::HostError;
use crate::tenants::{Scope, TenantError};

pub(super) fn run(scope: &Scope, command: PluginsCommand) -> Result<Answer, HostError> {
    check_paths(scope, &command)?;
    match command {
        PluginsCommand::List => list::run(),
        PluginsCommand::New(args) => new::run(&args),
        PluginsCommand::Check(args) => check::run(&args),
        PluginsCommand::Test(args) => test::run(&args),
        PluginsCommand::Explain(args) => explain::run(&super::run_config(scope, *args)?),
        PluginsCommand::Keygen(args) => keygen::run(&args),
        PluginsCommand::Sign(args) => sign::run(&args),
    }
}

/// Checks that what the arguments name may be read and written.
fn check_paths(scope: &Scope, command: &PluginsCommand) -> Result<(), TenantError> {
    match command {
        PluginsCommand::List | PluginsCommand::Explain(_) => Ok(()),
        PluginsCommand::New(args) => scope.check_write("--dir", args.dir.as_deref().unwrap_or(Path::new(&args.name))),
        PluginsCommand::Check(args) => {
            scope.check_read("FILE", &args.component)?;
            scope.check_plugin(&args.component.to_string_lossy())
        }
        PluginsCommand::Test(args) => {
            scope.check_plugin(&args.plugin)?;
            args.fixtures.iter().try_for_each(|path| scope.check_read("--fixtures", path))?;
            args.expect.iter().try_for_each(|path| match args.update {
                true => scope.check_write("--expect", path),
                false => scope.check_read("--expect", path),
            })
        }
        PluginsCommand::Keygen(args) => scope.check_write("--out", &args.out),
        PluginsCommand::Sign(args) => {
            scope.check_plugin(&args.component.to_string_lossy())?;
            // The signature comes beside it.
            scope.check_write("PLUGIN.wasm", &args.component)?;
            scope.check_write("--key", &args.key)
        }
    }
}
