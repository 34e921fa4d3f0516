//! One file per command: build the parts, run, answer. Printing and exit codes are here.

mod analyze;
mod annotate;
mod doctor;
mod embed;
mod export;
mod extract;
mod finetune;
mod generate;
mod gpus;
mod import;
mod interrupt;
mod jobs;
mod mark;
mod merge;
mod people;
mod plan;
mod plugins;
mod prune;
mod review;
mod runs;
mod sagemaker_entrypoint;
mod serve;
mod sync;
mod train;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, OutputArgs, RunArgs, ScopeArgs};
use crate::config::RunConfig;
use crate::error::HostError;
use crate::progress::Progress;
use crate::tenants::Scope;

/// What a command found out, for people and for machines.
pub struct Answer {
    text: String,
    json: serde_json::Value,
    /// True where standard output has the command's data already.
    aside: bool,
    /// Not 0 where the command did its work and the finding is bad.
    exit_code: u8,
}

impl Answer {
    fn new(text: impl ToString, json: &impl Serialize) -> Self {
        // Our own types: none has a map with keys that are no texts.
        let json = serde_json::to_value(json).unwrap_or_else(|error| serde_json::Value::from(error.to_string()));
        Self { text: text.to_string(), json, aside: false, exit_code: 0 }
    }
}

/// Parses the command line, runs the command and prints its answer.
///
/// Exit codes: 0 done, 1 the input or the machine is at fault, 2 Tunesmith is, 3 a run waits for people.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::parse_from_args(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // nowhere left to complain
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    let progress = Progress::on_stderr();
    log_to(&progress, cli.output.verbose);
    let outcome = catch_unwind(AssertUnwindSafe(|| run(cli.command, &cli.scope, cli.output.json, &progress)));
    match outcome {
        Ok(Ok(answer)) => print(&answer, cli.output),
        Ok(Err(error)) => {
            let text = error.describe();
            eprintln!("error: {text}");
            if cli.output.json {
                let _ = writeln!(io::stdout(), "{}", serde_json::json!({ "error": text }));
            }
            ExitCode::from(error.exit_code())
        }
        Err(_) => {
            eprintln!("error: this is a defect of tunesmith; please report it with the lines above");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command, scope: &ScopeArgs, json: bool, progress: &Progress) -> Result<Answer, HostError> {
    // It serves all tenants at once.
    if let Command::Serve(args) = command {
        return serve::run(scope, args, json, progress);
    }
    let scope = &Scope::new(scope.operator.as_deref(), scope.tenant_id.as_deref())?;
    match command {
        Command::Serve(_) => unreachable!("returned above"),
        Command::Finetune(args) => finetune::run(scope, args, progress),
        Command::Runs(command) => runs::run(scope, command, progress),
        Command::Jobs(command) => jobs::run(scope, command, progress),
        Command::Train(args) => train::run(scope, args, progress),
        Command::SagemakerEntrypoint(_) => sagemaker_entrypoint::run(),
        Command::Extract(args) => {
            if let Some(output) = &args.output {
                scope.check_write("--output", output)?;
            }
            extract::run(&run_config(scope, args.run)?, args.output.as_deref(), args.kind, progress)
        }
        Command::Analyze(args) => analyze::run(&run_config(scope, args)?, progress),
        Command::Plan(args) => plan::run(scope, &args),
        Command::Gpus(command) => gpus::run(scope, command),
        Command::Import(args) => import::run(scope, args, progress),
        Command::Sync(args) => sync::run(scope, args, progress),
        Command::Prune(args) => prune::run(scope, &args),
        Command::Mark(args) => mark::run(scope, args, progress),
        Command::Annotate(args) => annotate::run(scope, args),
        Command::Generate(args) => generate::run(scope, args, json),
        Command::Embed(args) => embed::run(scope, args, json),
        Command::People(command) => people::run(scope, command),
        Command::Merge(args) => merge::run(scope, &args),
        Command::Export(args) => export::run(scope, &args),
        Command::Review(args) => review::run(scope, args),
        Command::Plugins(command) => plugins::run(scope, command),
        Command::Doctor(args) => doctor::run(scope, args),
    }
}

fn run_config(scope: &Scope, args: RunArgs) -> Result<RunConfig, HostError> {
    let (options, file) = scope.load(args.config.as_deref(), &args.options)?;
    if let Some(file) = file {
        tracing::info!("configuration from {}", file.display());
    }
    Ok(RunConfig::new(options)?)
}

fn print(answer: &Answer, output: OutputArgs) -> ExitCode {
    let text = match output.json {
        true => format!("{:#}", answer.json),
        // Tables fill their last column with blanks.
        false => answer.text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"),
    };
    let written = if answer.aside { writeln!(io::stderr(), "{text}") } else { writeln!(io::stdout(), "{text}") };
    match written {
        // A reader that has seen enough, such as `head`, is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(1),
        _ => ExitCode::from(answer.exit_code),
    }
}

fn log_to(progress: &Progress, verbose: u8) {
    // A client that can't connect says so itself; its callers say it better.
    let level =
        ["warn,kube_client=off", "tunesmith=info", "tunesmith=debug,trainer_cuda=debug"][usize::from(verbose.min(2))];
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let writer = progress.log_writer();
    // Colours are for people: a log file, or a terminal whose user wants none, gets plain text.
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_target(false).without_time();
    // Fails only where a logger is there already: `main` called twice in one process.
    let _ = log.with_writer(move || writer.clone()).try_init();
}
