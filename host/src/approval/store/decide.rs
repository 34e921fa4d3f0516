//! Decisions come in.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::journal::{Lines, Record};
use super::read::{content, item_of};
use super::submit::put;
use super::{ApprovalStore, error, now_ms};
use crate::approval::{Action, ApprovalError, Channel, Content, Decision, Event, Item, Refused, Verdict};
use crate::dataset::Shingles;
use crate::people::Reviewer;

/// From so much overlap on, an edited input is the held-out one for whoever judges the adapter by it.
const NEARLY: f64 = 0.85;

impl ApprovalStore {
    /// Takes a decision, and returns the item as it is then.
    ///
    /// # Errors
    /// [`ApprovalError::Refused`] where the item is not as it was seen, or does not take that decision; else what keeps the store
    /// from being written. Nothing is stored then.
    pub fn decide(&mut self, who: &Reviewer, channel: Channel, verdict: &Verdict) -> Result<Item, ApprovalError> {
        let [outcome] = <[_; 1]>::try_from(self.decide_all(who, channel, std::slice::from_ref(verdict))?)
            .unwrap_or_else(|outcomes: Vec<_>| unreachable!("{} outcomes of one verdict", outcomes.len()));
        Ok(outcome?)
    }

    /// Takes decisions, as many of them as their items take, all in one transaction; the outcomes are in the order of the
    /// verdicts.
    ///
    /// # Errors
    /// What keeps the store from being written: then none is stored.
    pub fn decide_all(
        &mut self,
        who: &Reviewer,
        channel: Channel,
        verdicts: &[Verdict],
    ) -> Result<Vec<Result<Item, Refused>>, ApprovalError> {
        let (path, at_ms) = (self.path.clone(), now_ms());
        self.write(|connection, lines| {
            let one = |verdict| decide(connection, &path, &mut *lines, who, channel, at_ms, verdict);
            verdicts.iter().map(one).collect()
        })
    }

    /// Ends what nobody decided in time, and says how many items that were.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn expire(&mut self) -> Result<usize, ApprovalError> {
        let (path, now) = (self.path.clone(), now_ms());
        let due = "SELECT i.id FROM items i JOIN batches b ON b.id = i.batch
                   WHERE i.state = 'pending' AND b.expires_at_ms <= ?1
                     -- What somebody took up again after its time waits on.
                     AND NOT EXISTS (SELECT 1 FROM events e WHERE e.item = i.id AND e.at_ms >= b.expires_at_ms)
                   ORDER BY i.id";
        // Most often there is nothing to do, and no lock to take for it.
        if self.run(|c| c.query_row(&format!("SELECT NOT EXISTS ({due})"), [now], |row| row.get(0)))? {
            return Ok(0);
        }
        self.write(|connection, lines| {
            let failed = |cause| error(&path, cause);
            let ids: Vec<i64> = connection
                .prepare(due)
                .and_then(|mut due| due.query_map([now], |row| row.get(0))?.collect())
                .map_err(failed)?;
            for &id in &ids {
                let Some(item) = item_of(connection, &path, id)? else { continue };
                let event = event_of(connection, &path, &item, now, Action::Expired, None)?;
                put(connection, &path, lines, Record::Event(event))?;
            }
            Ok(ids.len())
        })
    }
}

fn decide(
    connection: &Connection,
    path: &Path,
    lines: &mut Lines,
    who: &Reviewer,
    channel: Channel,
    at_ms: i64,
    verdict: &Verdict,
) -> Result<Result<Item, Refused>, ApprovalError> {
    let Verdict { seen, decision, reason } = verdict;
    let id = seen.item;
    let Some(item) = item_of(connection, path, id)? else { return Ok(Err(Refused::NoSuchItem { item: id })) };
    if (seen.version, &seen.content_sha256) != (item.version, &item.content_sha256) {
        return Ok(Err(stale(connection, path, &item)?));
    }
    if let Err(refused) = decision.check(id, item.state, &item.content) {
        return Ok(Err(refused));
    }
    let after = match decision {
        Decision::Approve | Decision::Reject => None,
        Decision::Edit(edited) => {
            if let Err(refused) = check_edit(connection, path, &item, edited)? {
                return Ok(Err(refused));
            }
            Some(edited.clone())
        }
        // What a person wrote goes with their decision.
        Decision::Undo => item.original.clone(),
    };
    let mut event = event_of(connection, path, &item, at_ms, decision.action(), after)?;
    event.who = who.name().to_owned();
    event.channel = channel;
    event.reason = reason.clone().filter(|reason| !reason.trim().is_empty());
    put(connection, path, lines, Record::Event(event))?;
    Ok(item_of(connection, path, id)?.ok_or(Refused::NoSuchItem { item: id }))
}

/// By Tunesmith, unless somebody else is named after.
fn event_of(
    connection: &Connection,
    path: &Path,
    item: &Item,
    at_ms: i64,
    action: Action,
    content: Option<Content>,
) -> Result<Event, ApprovalError> {
    let id = connection
        .query_row("SELECT coalesce(max(id), 0) + 1 FROM events", [], |row| row.get(0))
        .map_err(|cause| error(path, cause))?;
    let before = item.content_sha256.clone();
    Ok(Event {
        id,
        item: item.id,
        version: item.version + 1,
        at_ms,
        who: Channel::Tunesmith.name().to_owned(),
        channel: Channel::Tunesmith,
        action,
        reason: None,
        sha256_after: content.as_ref().map_or_else(|| before.clone(), Content::sha256),
        sha256_before: Some(before),
        content,
    })
}

fn stale(connection: &Connection, path: &Path, item: &Item) -> Result<Refused, ApprovalError> {
    let last = connection
        .prepare_cached("SELECT who, action FROM events WHERE item = ?1 ORDER BY version DESC LIMIT 1")
        .and_then(|mut last| last.query_row([item.id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))))
        .map_err(|cause| error(path, cause))?;
    let did = Action::of_name(&last.1).map_or("changed", Action::name);
    Ok(Refused::Stale { item: item.id, who: last.0, did, version: item.version })
}

/// Nobody may write what the adapter is judged by, or what is there already.
fn check_edit(
    connection: &Connection,
    path: &Path,
    item: &Item,
    edited: &Content,
) -> Result<Result<(), Refused>, ApprovalError> {
    let failed = |cause| error(path, cause);
    let twin: Option<i64> = connection
        .prepare_cached(
            "SELECT id FROM items WHERE content_sha256 = ?1 AND id <> ?2 AND state NOT IN ('rejected', 'expired') LIMIT 1",
        )
        .and_then(|mut twin| twin.query_row(params![edited.sha256(), item.id], |row| row.get(0)).optional())
        .map_err(failed)?;
    if let Some(other) = twin {
        return Ok(Err(Refused::Duplicate { item: item.id, other }));
    }
    let held_out: Vec<String> = connection
        .prepare_cached("SELECT content FROM held_out WHERE batch = ?1")
        .and_then(|mut held_out| held_out.query_map([item.batch], |row| row.get(0))?.collect())
        .map_err(failed)?;
    let own = Shingles::of(edited.input());
    for text in held_out {
        let held_out = content(path, &text)?;
        let how = match own.overlap(&Shingles::of(held_out.input())) {
            overlap if overlap >= 1.0 => "equal to",
            overlap if overlap >= NEARLY => "nearly",
            _ => continue,
        };
        return Ok(Err(Refused::HeldOut { item: item.id, how }));
    }
    Ok(Ok(()))
}
