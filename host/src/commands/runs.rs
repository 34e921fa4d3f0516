//! `tunesmith runs`: those that wait for people, and what became of them.

use super::{Answer, finetune};
use crate::cli::{RunsArgs, RunsCommand};
use crate::config::{ReviewConfig, RunConfig};
use crate::error::HostError;
use crate::pipeline::Checkpoint;
use crate::progress::Progress;
use crate::report;
use crate::runs::{RunRecord, RunState, RunStore, RunsError, WaitsFor, runs_beside};
use crate::tenants::Scope;

pub(super) fn run(scope: &Scope, command: RunsCommand, progress: &Progress) -> Result<Answer, HostError> {
    match command {
        RunsCommand::List(args) => list(&store(scope, &args)?),
        RunsCommand::Show { id, store: args } => {
            let store = store(scope, &args)?;
            let record = store.get(&id)?;
            let text = format!("{}: {}", record.id, told(&store, &record));
            Ok(Answer::new(text, &record))
        }
        RunsCommand::Resume { id, wait_for_approval, store: args } => {
            let held = store(scope, &args)?.hold(&id)?;
            if let RunState::Finished { adapter } = &held.record().state {
                return Err(RunsError::Finished { id, adapter: adapter.clone() }.into());
            }
            let options = scope.restore(held.options())?;
            let config = RunConfig::new(options.clone())?;
            finetune::go(&config, &options, Some(held), Checkpoint::TakeIfThere, wait_for_approval, progress)
        }
    }
}

fn store(scope: &Scope, args: &RunsArgs) -> Result<RunStore, HostError> {
    let (options, _) = scope.load(args.store.config.as_deref(), &args.options())?;
    let folder = runs_beside(&ReviewConfig::new(&options)?.approvals);
    scope.check_write("review.approvals", &folder)?;
    Ok(RunStore::new(folder))
}

fn list(store: &RunStore) -> Result<Answer, HostError> {
    let records = store.list()?;
    if records.is_empty() {
        return Ok(Answer::new("no run waits for people", &records));
    }
    let mut table = report::table();
    table.set_header(["run", "agent", "since", "state"]);
    for record in &records {
        let since = record.created_at.strftime("%Y-%m-%d %H:%M UTC").to_string();
        table.add_row([record.id.clone(), record.agent_type.clone(), since, told(store, record)]);
    }
    Ok(Answer::new(table, &records))
}

fn told(store: &RunStore, record: &RunRecord) -> String {
    let held = store.is_held(&record.id);
    match &record.state {
        RunState::Waiting => {
            let missing = record.waits_for.as_ref().map_or(0, WaitsFor::missing);
            let then = if held { "; a process goes on then" } else { "" };
            format!("waiting for {missing} approvals{then}")
        }
        RunState::Running if held => "running".to_owned(),
        RunState::Running => "was killed; `tunesmith runs resume` goes on with it".to_owned(),
        RunState::Finished { adapter } => format!("finished: {}", adapter.display()),
        RunState::Failed { error } => format!("failed: {error}"),
    }
}
