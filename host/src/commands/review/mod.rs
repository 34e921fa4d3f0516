//! `tunesmith review`: people decide on what was generated, at a terminal.

mod batches;
mod decide;
mod describe;
mod edit;
mod export;
mod keys;
mod list;
mod one_by_one;
mod phoenix;
mod restore;
mod show;

use serde::Serialize;

use super::Answer;
use crate::approval::{ApprovalStore, Decision, Item};
use crate::cli::{ReviewArgs, ReviewCommand};
use crate::config::{PhoenixConfig, ReviewConfig};
use crate::error::HostError;
use crate::review::Handle;
use crate::tenants::Scope;

/// An item, and how it is named.
#[derive(Serialize)]
struct Named<'a> {
    handle: String,
    #[serde(flatten)]
    item: &'a Item,
}

pub(super) fn run(scope: &Scope, args: ReviewArgs) -> Result<Answer, HostError> {
    let flags = match &args.command {
        Some(ReviewCommand::Push(push)) => push.server.over(args.approvals.options()),
        Some(ReviewCommand::Poll(server)) => server.over(args.approvals.options()),
        _ => args.approvals.options(),
    };
    let (options, _) = scope.load(args.approvals.config.as_deref(), &flags)?;
    let path = ReviewConfig::new(&options)?.approvals;
    if let Some(ReviewCommand::Restore(args)) = args.command {
        scope.check_read("--journal", &args.journal)?;
        return restore::run(&path, &args.journal);
    }
    let open = || -> Result<ApprovalStore, HostError> {
        let mut store = ApprovalStore::open(&path)?;
        let expired = store.expire()?;
        if expired > 0 {
            tracing::info!("{expired} items expired: nobody decided in time; `undo` takes one up again");
        }
        Ok(store)
    };
    match args.command {
        None => one_by_one::run(&mut open()?),
        Some(ReviewCommand::List(args)) => list::run(&open()?, &args),
        Some(ReviewCommand::Show(args)) => show::run(&open()?, &args.item),
        Some(ReviewCommand::Approve(args)) => decide::run(&mut open()?, args, &Decision::Approve),
        Some(ReviewCommand::Reject(args)) => decide::run(&mut open()?, args, &Decision::Reject),
        Some(ReviewCommand::Undo(args)) => decide::run(&mut open()?, args, &Decision::Undo),
        Some(ReviewCommand::Edit(args)) => {
            if let Some(from) = &args.from {
                scope.check_read("--from", from)?;
            }
            edit::run(&mut open()?, args)
        }
        Some(ReviewCommand::Export(args)) => {
            if let Some(output) = &args.output {
                scope.check_write("--output", output)?;
            }
            export::run(&open()?, &args)
        }
        Some(ReviewCommand::Restore(_)) => unreachable!("returned above"),
        Some(ReviewCommand::Batches) => batches::run(&open()?),
        Some(ReviewCommand::Push(args)) => phoenix::push(&open()?, &PhoenixConfig::required(&options)?, args.batch),
        Some(ReviewCommand::Poll(_)) => phoenix::poll(&mut open()?, &PhoenixConfig::required(&options)?),
    }
}

fn named(item: &Item) -> Named<'_> {
    Named { handle: Handle::of(item).to_string(), item }
}
