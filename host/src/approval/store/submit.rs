//! Batches come in, and are made again from a journal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::{Connection, params};
use serde::Serialize;

use super::journal::{self, BatchRecord, ItemRecord, Lines, Record};
use super::{ApprovalStore, damaged, error, now_ms};
use crate::approval::content::kind_name;
use crate::approval::{Action, ApprovalError, Channel, Event, NewBatch};

impl ApprovalStore {
    /// Stores a batch, all of whose items are pending then, and returns its number.
    ///
    /// # Errors
    /// [`ApprovalError`]; nothing of the batch is stored then.
    pub fn submit(&mut self, batch: NewBatch) -> Result<i64, ApprovalError> {
        let (path, now) = (self.path.clone(), now_ms());
        self.write(|connection, lines| {
            let next = |table: &str| {
                let sql = format!("SELECT coalesce(max(id), 0) + 1 FROM {table}");
                connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).map_err(|cause| error(&path, cause))
            };
            let (id, mut item, mut event) = (next("batches")?, next("items")?, next("events")?);
            let candidates = batch.candidates;
            let record = BatchRecord {
                id,
                project: batch.project,
                agent_type: batch.agent_type,
                run: batch.run,
                generator: batch.generator,
                model: batch.model,
                created_at_ms: now,
                expires_at_ms: batch.expires_at_ms,
                parents: batch.parents,
                held_out: batch.held_out,
            };
            put(connection, &path, lines, Record::Batch(record))?;
            for candidate in candidates {
                let sha256 = candidate.content.sha256();
                let record = ItemRecord {
                    id: item,
                    batch: id,
                    original: candidate.content,
                    parents: candidate.parents,
                    prompt_sha256: candidate.prompt_sha256,
                    seed: candidate.seed,
                    near: candidate.near,
                };
                put(connection, &path, lines, Record::Item(record))?;
                let submitted = Event {
                    id: event,
                    item,
                    version: 1,
                    at_ms: now,
                    who: Channel::Tunesmith.name().to_owned(),
                    channel: Channel::Tunesmith,
                    action: Action::Submitted,
                    reason: None,
                    sha256_before: None,
                    sha256_after: sha256,
                    content: None,
                };
                put(connection, &path, lines, Record::Event(submitted))?;
                (item, event) = (item + 1, event + 1);
            }
            Ok(id)
        })
    }

    /// Makes a store at `path`, where there is none, of what a journal has.
    ///
    /// # Errors
    /// [`ApprovalError::Exists`], [`ApprovalError::Journal`], and those of [`ApprovalStore::open_or_create`]: there is no store
    /// then.
    pub fn restore(path: &Path, journal: &Path) -> Result<(Self, Restored), ApprovalError> {
        if path.exists() {
            return Err(ApprovalError::Exists { path: path.to_owned() });
        }
        let (records, unfinished) = journal::read(journal)?;
        let records = committed(records);
        let count = |kind| records.range((kind, i64::MIN)..=(kind, i64::MAX)).count();
        let restored = Restored { batches: count(BATCH), items: count(ITEM), events: count(EVENT), unfinished };
        let mut store = Self::open_or_create(path)?;
        let own = store.path.clone();
        // The lines of the journal beside the store stay what they are.
        let is_own = store.journal.is(journal);
        let written = store.write(|connection, lines| {
            records.into_values().try_for_each(|record| put(connection, &own, lines, record))?;
            if is_own {
                *lines = Lines::default();
            }
            Ok(())
        });
        match written {
            Ok(()) => Ok((store, restored)),
            Err(error) => {
                drop(store);
                for file in ["", "-wal", "-shm"] {
                    let _ = std::fs::remove_file(format!("{}{file}", path.display())); // it may not be there
                }
                Err(error)
            }
        }
    }
}

/// What a journal gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Batches.
    pub batches: usize,
    /// Items.
    pub items: usize,
    /// Events, of which an item has one for its submission.
    pub events: usize,
    /// Lines that a killed writer left unfinished.
    pub unfinished: usize,
}

const BATCH: u8 = 0;
const ITEM: u8 = 1;
const EVENT: u8 = 2;

/// What the store had. A writer that is killed between the journal and its commit leaves lines of a transaction that never was;
/// the next transaction gives their numbers anew, so that each number voids all those of its kind that are not below it.
fn committed(records: Vec<Record>) -> BTreeMap<(u8, i64), Record> {
    let mut kept = BTreeMap::new();
    for record in records {
        let (kind, id) = match &record {
            Record::Batch(batch) => (BATCH, batch.id),
            Record::Item(item) => (ITEM, item.id),
            Record::Event(event) => (EVENT, event.id),
        };
        let void: Vec<_> = kept.range((kind, id)..=(kind, i64::MAX)).map(|(key, _)| *key).collect();
        for key in void {
            kept.remove(&key);
        }
        kept.insert((kind, id), record);
    }
    // An item whose submission is void is, too.
    let submitted: BTreeSet<i64> = kept.values().filter_map(submitted).collect();
    kept.retain(|_, record| !matches!(record, Record::Item(item) if !submitted.contains(&item.id)));
    let filled: BTreeSet<i64> = kept.values().filter_map(batch_of).collect();
    kept.retain(|_, record| !matches!(record, Record::Batch(batch) if !filled.contains(&batch.id)));
    kept
}

fn submitted(record: &Record) -> Option<i64> {
    match record {
        Record::Event(event) if event.action == Action::Submitted => Some(event.item),
        _ => None,
    }
}

fn batch_of(record: &Record) -> Option<i64> {
    match record {
        Record::Item(item) => Some(item.batch),
        _ => None,
    }
}

/// Writes one record to its table, and notes it for the journal.
pub(super) fn put(
    connection: &Connection,
    path: &Path,
    lines: &mut Lines,
    record: Record,
) -> Result<(), ApprovalError> {
    let put = || -> rusqlite::Result<()> {
        match &record {
            Record::Batch(batch) => {
                connection.prepare_cached(
                    "INSERT INTO batches (id, project, agent_type, run, generator, model, created_at_ms, expires_at_ms, parents)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )?.execute(params![
                    batch.id,
                    batch.project,
                    batch.agent_type,
                    batch.run,
                    batch.generator,
                    batch.model,
                    batch.created_at_ms,
                    batch.expires_at_ms,
                    json(&batch.parents),
                ])?;
                let mut held_out = connection.prepare_cached("INSERT INTO held_out (batch, content) VALUES (?1, ?2)")?;
                batch.held_out.iter().try_for_each(|content| held_out.execute(params![batch.id, json(content)]).map(drop))
            }
            Record::Item(item) => connection
                .prepare_cached(
                    "INSERT INTO items (id, batch, kind, original, parents, prompt_sha256, seed, near, state, version, content,
                                        content_sha256)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending', 0, ?4, ?9)",
                )?
                .execute(params![
                    item.id,
                    item.batch,
                    kind_name(item.original.kind()),
                    json(&item.original),
                    json(&item.parents),
                    item.prompt_sha256,
                    item.seed.cast_signed(),
                    json(&item.near),
                    item.original.sha256(),
                ])
                .map(drop),
            Record::Event(event) => put_event(connection, event),
        }
    };
    put().map_err(|cause| match cause {
        rusqlite::Error::QueryReturnedNoRows => damaged(path, "an event of the journal is of no item"),
        cause => error(path, cause),
    })?;
    lines.push(&record);
    Ok(())
}

/// The event, and what follows from it for its item.
fn put_event(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    let content = event.content.as_ref().map(json);
    connection
        .prepare_cached(
            "INSERT INTO events (id, item, version, at_ms, who, channel, action, reason, sha256_before, sha256_after, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            event.id,
            event.item,
            event.version,
            event.at_ms,
            event.who,
            event.channel.name(),
            event.action.name(),
            event.reason,
            event.sha256_before,
            event.sha256_after,
            content,
        ])?;
    let by = match event.action {
        Action::Submitted | Action::Undone => None,
        _ => Some((&event.who, event.at_ms)),
    };
    let changed = connection
        .prepare_cached(
            "UPDATE items SET state = ?2, version = ?3, content = coalesce(?4, content), content_sha256 = ?5, decided_by = ?6,
                              decided_at_ms = ?7
             WHERE id = ?1",
        )?
        .execute(params![
            event.item,
            event.action.state().name(),
            event.version,
            content,
            event.sha256_after,
            by.map(|(who, _)| who),
            by.map(|(_, at)| at),
        ])?;
    match changed {
        1 => Ok(()),
        _ => Err(rusqlite::Error::QueryReturnedNoRows),
    }
}

/// A column that is JSON: our own types, none of which has what JSON has not.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::approval::{Candidate, Content, Cursor, Decision, Filter, Seen, Verdict};
    use crate::people::Person;

    fn batch(inputs: &[&str]) -> NewBatch {
        let candidate = |input: &&str| Candidate {
            content: Content::Instruction {
                instruction: "do".to_owned(),
                input: (*input).to_owned(),
                output: "done".to_owned(),
            },
            parents: Vec::new(),
            prompt_sha256: String::new(),
            seed: 0,
            near: Vec::new(),
        };
        NewBatch {
            project: "p".to_owned(),
            agent_type: "a".to_owned(),
            run: None,
            generator: "templates".to_owned(),
            model: None,
            parents: Vec::new(),
            held_out: Vec::new(),
            candidates: inputs.iter().map(candidate).collect(),
            expires_at_ms: None,
        }
    }

    fn approve(store: &mut ApprovalStore, ids: &[i64]) {
        let verdict = |&id: &i64| {
            let item = store.item(id).unwrap().unwrap();
            let seen = Seen { item: id, version: item.version, content_sha256: item.content_sha256 };
            Verdict { seen, decision: Decision::Approve, reason: None }
        };
        let verdicts: Vec<_> = ids.iter().map(verdict).collect();
        let who = Person::of_terminal().reviewer().unwrap();
        assert!(store.decide_all(&who, Channel::Terminal, &verdicts).unwrap().iter().all(Result::is_ok));
    }

    /// What `work` adds to the journal of a copy of the store, as a writer that is killed before its commit leaves it.
    fn cut_off(store: &mut ApprovalStore, folder: &Path, work: impl FnOnce(&mut ApprovalStore)) {
        let (journal, copy) = (folder.join("a.journal.jsonl"), folder.join("copy.sqlite"));
        store.connection.execute("VACUUM INTO ?1", [copy.to_str()]).unwrap();
        work(&mut ApprovalStore::open(&copy).unwrap());
        let lines = std::fs::read(folder.join("copy.journal.jsonl")).unwrap();
        std::fs::OpenOptions::new().append(true).open(journal).unwrap().write_all(&lines).unwrap();
        for file in ["copy.sqlite", "copy.journal.jsonl"] {
            std::fs::remove_file(folder.join(file)).unwrap();
        }
    }

    #[test]
    fn transactions_that_were_cut_off_are_void_once_another_follows() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("a.journal.jsonl");
        let mut store = ApprovalStore::open_or_create(&folder.path().join("a.sqlite")).unwrap();
        store.submit(batch(&["one", "two", "three"])).unwrap();
        let restored = |name: &str| ApprovalStore::restore(&folder.path().join(name), &journal).unwrap();
        let same = |name: &str, store: &ApprovalStore| {
            let (again, restored) = restored(name);
            assert_eq!(again.events_after(0, 100).unwrap(), store.events_after(0, 100).unwrap(), "{name}");
            let items = |store: &ApprovalStore| store.items(&Filter::default(), Some(Cursor(0)), 100).unwrap();
            assert_eq!(items(&again), items(store), "{name}");
            assert_eq!(again.batches().unwrap(), store.batches().unwrap(), "{name}");
            restored
        };
        // Three decisions that never were, then one that was on an item of theirs.
        cut_off(&mut store, folder.path(), |store| approve(store, &[1, 2, 3]));
        assert_eq!(restored("early.sqlite").1.events, 6);
        approve(&mut store, &[2]);
        assert_eq!(same("decided.sqlite", &store).events, 4);
        // A batch that never was, then a decision; then a batch of fewer items.
        cut_off(&mut store, folder.path(), |store| {
            store.submit(batch(&["four", "five"])).unwrap();
        });
        approve(&mut store, &[1]);
        assert_eq!(same("no_batch.sqlite", &store), Restored { batches: 1, items: 3, events: 5, unfinished: 0 });
        cut_off(&mut store, folder.path(), |store| {
            store.submit(batch(&["four", "five"])).unwrap();
        });
        store.submit(batch(&["six"])).unwrap();
        assert_eq!(same("batch.sqlite", &store), Restored { batches: 2, items: 4, events: 6, unfinished: 0 });
    }

    #[test]
    fn a_full_disk_takes_nothing_and_the_journal_has_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sqlite");
        let mut store = ApprovalStore::open_or_create(&path).unwrap();
        store.submit(batch(&["one"])).unwrap();
        let journal = || std::fs::read(folder.path().join("a.journal.jsonl")).unwrap();
        let before = journal();
        let most = |store: &ApprovalStore, pages: i64| {
            store.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
        };
        most(&store, 1); // as many as there are
        let large = "x".repeat(1 << 20);
        let full = store.submit(batch(&[&large])).unwrap_err();
        assert!(matches!(full, ApprovalError::Full { .. }), "{full}");
        assert_eq!(journal(), before);
        assert_eq!(store.events_after(0, 10).unwrap().len(), 1);
        most(&store, i64::from(i32::MAX));
        store.submit(batch(&[&large])).unwrap();
        assert_eq!(store.events_after(0, 10).unwrap().len(), 2);
    }
}
