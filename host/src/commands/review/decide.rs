//! `tunesmith review approve`, `reject` and `undo`

use serde::Serialize;

use super::{Named, named};
use crate::approval::{ApprovalError, ApprovalStore, Channel, Decision, Item, Refused, Verdict};
use crate::cli::DecideArgs;
use crate::commands::Answer;
use crate::error::HostError;
use crate::people::Person;
use crate::review::Handle;

#[derive(Serialize)]
struct Decided<'a> {
    decided: Vec<Named<'a>>,
    refused: Vec<Left>,
}

/// An item that did not take the decision.
#[derive(Serialize)]
struct Left {
    handle: String,
    error: String,
}

pub(super) fn run(store: &mut ApprovalStore, args: DecideArgs, decision: &Decision) -> Result<Answer, HostError> {
    // All of them before the first is stored.
    let handles = args.items.iter().map(|item| item.parse()).collect::<Result<Vec<Handle>, _>>()?;
    let verdict = |handle: &Handle| -> Result<Verdict, HostError> {
        let seen = handle.seen(store.item(handle.item)?.as_ref())?;
        Ok(Verdict { seen, decision: decision.clone(), reason: args.reason.clone() })
    };
    let verdicts = handles.iter().map(verdict).collect::<Result<Vec<_>, _>>()?;
    let outcomes = store.decide_all(&Person::of_terminal().reviewer()?, Channel::Terminal, &verdicts)?;
    answer(&handles, outcomes)
}

fn answer(handles: &[Handle], mut outcomes: Vec<Result<Item, Refused>>) -> Result<Answer, HostError> {
    if let [Err(_)] = outcomes.as_slice() {
        let refused = outcomes.remove(0).err();
        return Err(refused.map_or(HostError::Interrupted, |refused| ApprovalError::from(refused).into()));
    }
    let decided: Vec<_> = outcomes.iter().flatten().map(named).collect();
    let left = |(handle, outcome): (&Handle, &Result<Item, Refused>)| {
        Some(Left { handle: handle.to_string(), error: outcome.as_ref().err()?.to_string() })
    };
    let refused: Vec<_> = handles.iter().zip(&outcomes).filter_map(left).collect();
    for left in &refused {
        eprintln!("error: {}", left.error);
    }
    let exit_code = u8::from(!refused.is_empty());
    let lines: Vec<_> = decided.iter().map(line).collect();
    Ok(Answer { exit_code, ..Answer::new(lines.join("\n"), &Decided { decided, refused }) })
}

fn line(named: &Named<'_>) -> String {
    format!("{} {}", named.handle, named.item.state.name())
}

/// Of one item.
pub(super) fn taken(item: &Item) -> Answer {
    let named = named(item);
    Answer::new(line(&named), &Decided { decided: vec![named], refused: Vec::new() })
}
