//! The `tunesmith` binary: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tunesmith::commands::main(std::env::args_os())
}
