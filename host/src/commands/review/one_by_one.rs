//! `tunesmith review` by itself: what waits, one item at a time.

use std::io;

use serde::Serialize;

use super::keys::{self, Key};
use super::{describe, edit};
use crate::approval::{ApprovalError, ApprovalStore, Channel, Cursor, Decision, Filter, Item, Seen, State, Verdict};
use crate::commands::Answer;
use crate::error::HostError;
use crate::people::Person;
use crate::review::ReviewError;

const KEYS: &str = "[a]pprove  [r]eject  [e]dit  [u]ndo the last  [j] next  [k] previous  [q]uit  [?]";
const HELP: &str = "\
a  approve the text as it is: it trains
r  reject it: it does not train; a reason is asked for, and may be left empty
e  change it in your editor, and approve it so
u  take back what you decided last
j  leave it for later, and go to the next one
k  go back to the one before
q  end; what you decided is stored already";

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Done {
    approved: u64,
    edited: u64,
    rejected: u64,
    undone: u64,
    pending: u64,
}

pub(super) fn run(store: &mut ApprovalStore) -> Result<Answer, HostError> {
    if !keys::is_there() {
        return Err(ReviewError::NoTerminal.into());
    }
    let mut done = Done::default();
    let mut session = Session { store, decided: Vec::new() };
    let mut at = session.first_after(0)?;
    while let Some(item) = at {
        session.show(&item)?;
        at = loop {
            match session.act(&item, keys::read().map_err(terminal)?, &mut done)? {
                Act::Again => eprintln!("{KEYS}"),
                Act::To(next) => break next.map(|next| *next),
            }
        };
    }
    done.pending = session.store.counts(&pending())?.pending;
    let Done { approved, edited, rejected, undone, pending } = done;
    let text =
        format!("{approved} approved, {edited} edited, {rejected} rejected, {undone} taken back; {pending} pending");
    Ok(Answer::new(text, &done))
}

struct Session<'s> {
    store: &'s mut ApprovalStore,
    /// The numbers of what was decided, the last at the end.
    decided: Vec<i64>,
}

/// What follows a key.
enum Act {
    /// Another key, for the same item.
    Again,
    /// An item, or the end.
    To(Option<Box<Item>>),
}

impl Session<'_> {
    fn show(&self, item: &Item) -> Result<(), HostError> {
        let left = self.store.counts(&pending())?.pending;
        eprintln!("\n{}\n{left} pending\n\n{}\n\n{KEYS}", "-".repeat(72), describe::item(self.store, item)?);
        Ok(())
    }

    fn act(&mut self, item: &Item, key: Key, done: &mut Done) -> Result<Act, HostError> {
        let decided = match key {
            Key::Quit => return Ok(Act::To(None)),
            Key::Help => {
                eprintln!("\n{HELP}\n");
                return Ok(Act::Again);
            }
            Key::Next => return self.or_stay(self.store.neighbours(&pending(), item.id)?.0, "this is the last one"),
            Key::Previous => {
                return self.or_stay(self.store.neighbours(&pending(), item.id)?.1, "this is the first one");
            }
            Key::Undo => return self.undo(done),
            Key::Approve => self.decide(item, Decision::Approve, None),
            Key::Reject => {
                eprint!("why (may be empty): ");
                let reason = keys::line().map_err(terminal)?;
                self.decide(item, Decision::Reject, Some(reason))
            }
            Key::Edit => edit::in_editor(self.store, item, seen(item), None),
        };
        match decided {
            Ok(decided) => {
                eprintln!("{} {}", decided.id, decided.state.name());
                match decided.state {
                    State::Edited => done.edited += 1,
                    State::Rejected => done.rejected += 1,
                    _ => done.approved += 1,
                }
                self.decided.push(decided.id);
                Ok(Act::To(self.first_after(item.id)?.map(Box::new)))
            }
            // Somebody was faster, or the text won't do: it is shown as it is now.
            Err(error @ (HostError::Approval(ApprovalError::Refused(_)) | HostError::Review(_))) => {
                eprintln!("error: {}", error.describe());
                match self.store.item(item.id)?.filter(|item| item.state == State::Pending) {
                    Some(now) if now == *item => Ok(Act::Again),
                    Some(now) => Ok(Act::To(Some(Box::new(now)))),
                    None => Ok(Act::To(self.first_after(item.id)?.map(Box::new))),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn decide(&mut self, item: &Item, decision: Decision, reason: Option<String>) -> Result<Item, HostError> {
        let verdict = Verdict { seen: seen(item), decision, reason };
        Ok(self.store.decide(&Person::of_terminal().reviewer()?, Channel::Terminal, &verdict)?)
    }

    fn undo(&mut self, done: &mut Done) -> Result<Act, HostError> {
        let Some(item) = self.decided.pop().map(|id| self.store.item(id)).transpose()?.flatten() else {
            eprintln!("nothing was decided here yet");
            return Ok(Act::Again);
        };
        match self.decide(&item, Decision::Undo, None) {
            Ok(item) => {
                done.undone += 1;
                Ok(Act::To(Some(Box::new(item))))
            }
            Err(error @ HostError::Approval(ApprovalError::Refused(_))) => {
                eprintln!("error: {}", error.describe());
                Ok(Act::Again)
            }
            Err(error) => Err(error),
        }
    }

    fn or_stay(&self, id: Option<i64>, else_: &str) -> Result<Act, HostError> {
        match id.map(|id| self.store.item(id)).transpose()?.flatten() {
            Some(item) => Ok(Act::To(Some(Box::new(item)))),
            None => {
                eprintln!("{else_}");
                Ok(Act::Again)
            }
        }
    }

    /// What was passed over comes again at the end.
    fn first_after(&self, id: i64) -> Result<Option<Item>, HostError> {
        let first = |after| self.store.items(&pending(), Some(Cursor(after)), 1).map(|mut page| page.items.pop());
        Ok(match first(id)? {
            None if id > 0 => first(0)?,
            next => next,
        })
    }
}

fn pending() -> Filter {
    Filter { state: Some(State::Pending), ..Filter::default() }
}

fn seen(item: &Item) -> Seen {
    Seen { item: item.id, version: item.version, content_sha256: item.content_sha256.clone() }
}

fn terminal(source: io::Error) -> HostError {
    ReviewError::Terminal { source }.into()
}
