//! What is there: pages of items, counts, a batch, a log.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ApprovalStore, damaged, error};
use crate::approval::content::kind_name;
use crate::approval::{
    Action, ApprovalError, Batch, BatchSummary, Channel, Content, Counts, Event, Item, Parent, Seen, State,
};
use crate::plugins::bindings::types::ExampleKind;

/// Which items; everything that is set has to hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// Of this telemetry project.
    pub project: Option<String>,
    /// For this agent.
    pub agent_type: Option<String>,
    /// Of this kind.
    pub kind: Option<ExampleKind>,
    /// Of this batch.
    pub batch: Option<i64>,
    /// With this text somewhere in it.
    pub text: Option<String>,
    /// Decided last by this person.
    pub decided_by: Option<String>,
}

/// Where a page ended: the number of its last item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub i64);

/// Items in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page<T> {
    /// The page.
    pub items: Vec<T>,
    /// Where the next one starts; none where this is the last.
    pub next: Option<Cursor>,
}

const ITEM: &str =
    "SELECT i.id, i.batch, b.project, b.agent_type, i.state, i.version, i.content, i.content_sha256, i.original,
                           i.decided_by, i.decided_at_ms, i.prompt_sha256, i.seed, i.near
                    FROM items i JOIN batches b ON b.id = i.batch";

impl ApprovalStore {
    /// An item.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn item(&self, id: i64) -> Result<Option<Item>, ApprovalError> {
        item_of(&self.connection, &self.path, id)
    }

    /// The items of `filter` after `after`.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn items(&self, filter: &Filter, after: Option<Cursor>, limit: usize) -> Result<Page<Item>, ApprovalError> {
        let after = after.map_or(0, |Cursor(id)| id);
        let mut items = self.query(filter, ("i.id > ?", after), "ASC", limit.saturating_add(1))?;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| Cursor(last.id));
        Ok(Page { items, next })
    }

    /// The first item of `filter` after `id`, and the last one before it.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn neighbours(&self, filter: &Filter, id: i64) -> Result<(Option<i64>, Option<i64>), ApprovalError> {
        let after = self.query(filter, ("i.id > ?", id), "ASC", 1)?;
        let before = self.query(filter, ("i.id < ?", id), "DESC", 1)?;
        Ok((after.first().map(|item| item.id), before.first().map(|item| item.id)))
    }

    /// How many items of `filter`, whatever its state, are in each state.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn counts(&self, filter: &Filter) -> Result<Counts, ApprovalError> {
        let (condition, values) = condition(&Filter { state: None, ..filter.clone() }, ALONE);
        let sql = format!("SELECT i.state, count(*) FROM items i WHERE {condition} GROUP BY i.state");
        let rows: Vec<(String, i64)> = self.run(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            statement.query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        let mut counts = Counts::default();
        for (state, count) in rows {
            *counts.of(state_of(&self.path, &state)?) += count.unsigned_abs();
        }
        Ok(counts)
    }

    /// All batches, the newest first, each with its counts.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn batches(&self) -> Result<Vec<BatchSummary>, ApprovalError> {
        let batches: Vec<Batch> = self.run(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, project, agent_type, run, generator, model, created_at_ms, expires_at_ms FROM batches
                 ORDER BY id DESC",
            )?;
            statement.query_map([], batch)?.collect()
        })?;
        let summary = |batch: Batch| {
            let counts = self.counts(&Filter { batch: Some(batch.id), ..Filter::default() })?;
            Ok(BatchSummary { batch, counts })
        };
        batches.into_iter().map(summary).collect()
    }

    /// A batch.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn batch(&self, id: i64) -> Result<Option<Batch>, ApprovalError> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, project, agent_type, run, generator, model, created_at_ms, expires_at_ms FROM batches WHERE id = ?1",
            )?;
            statement.query_row([id], batch).optional()
        })
    }

    /// The agents that there are batches for.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn agent_types(&self) -> Result<Vec<String>, ApprovalError> {
        self.run(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT DISTINCT agent_type FROM batches ORDER BY agent_type")?;
            statement.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// How many items of `filter` there are up to `id`, which is the place of `id` among them.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn place(&self, filter: &Filter, id: i64) -> Result<u64, ApprovalError> {
        let (condition, mut values) = condition(filter, ALONE);
        values.push(id.into());
        let sql = format!("SELECT count(*) FROM items i WHERE {condition} AND i.id <= ?");
        let count: i64 = self
            .run(|connection| connection.prepare_cached(&sql)?.query_row(params_from_iter(values), |row| row.get(0)))?;
        Ok(count.unsigned_abs())
    }

    /// The items of `filter` as somebody who decides now sees them: up to `limit`, without their texts.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn seen(&self, filter: &Filter, limit: usize) -> Result<Vec<Seen>, ApprovalError> {
        let (condition, values) = condition(filter, ALONE);
        let sql = format!(
            "SELECT i.id, i.version, i.content_sha256 FROM items i WHERE {condition}
             ORDER BY i.id LIMIT {limit}"
        );
        self.run(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let seen =
                |row: &Row<'_>| Ok(Seen { item: row.get(0)?, version: row.get(1)?, content_sha256: row.get(2)? });
            statement.query_map(params_from_iter(values), seen)?.collect()
        })
    }

    /// The real examples that the generator was shown for an item.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn parents(&self, item: i64) -> Result<Vec<Parent>, ApprovalError> {
        let row: Option<(String, String)> = self.run(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT b.parents, i.parents FROM items i JOIN batches b ON b.id = i.batch WHERE i.id = ?1",
            )?;
            statement.query_row([item], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })?;
        let Some((all, own)) = row else { return Ok(Vec::new()) };
        let (all, own): (Vec<Parent>, Vec<usize>) = (json(&self.path, &all)?, json(&self.path, &own)?);
        Ok(own.into_iter().filter_map(|index| all.get(index).cloned()).collect())
    }

    /// What happened to an item, in order.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn events(&self, item: i64) -> Result<Vec<Event>, ApprovalError> {
        self.log("item = ?1", "version", item, usize::MAX)
    }

    /// The log after event `after`, of all items.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn events_after(&self, after: i64, limit: usize) -> Result<Vec<Event>, ApprovalError> {
        self.log("id > ?1", "id", after, limit)
    }

    fn log(&self, condition: &str, order: &str, value: i64, limit: usize) -> Result<Vec<Event>, ApprovalError> {
        let sql = format!("SELECT {EVENT} FROM events WHERE {condition} ORDER BY {order} LIMIT ?2");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<EventRow> =
            self.run(|connection| connection.prepare_cached(&sql)?.query_map([value, limit], event_row)?.collect())?;
        rows.into_iter().map(|row| event(&self.path, row)).collect()
    }

    fn query(
        &self,
        filter: &Filter,
        (place, id): (&str, i64),
        order: &str,
        limit: usize,
    ) -> Result<Vec<Item>, ApprovalError> {
        let (condition, mut values) = condition(filter, JOINED);
        values.push(id.into());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = format!("{ITEM} WHERE {condition} AND {place} ORDER BY i.id {order} LIMIT {limit}");
        let rows: Vec<ItemRow> = self.run(|connection| {
            connection.prepare_cached(&sql)?.query_map(params_from_iter(values), item_row)?.collect()
        })?;
        rows.into_iter().map(|row| item(&self.path, row)).collect()
    }
}

impl Counts {
    fn of(&mut self, state: State) -> &mut u64 {
        match state {
            State::Pending => &mut self.pending,
            State::Approved => &mut self.approved,
            State::Edited => &mut self.edited,
            State::Rejected => &mut self.rejected,
            State::Expired => &mut self.expired,
        }
    }
}

/// What a batch has to be: of a query that joins `batches`, and of one that counts items by their own indices.
const JOINED: [&str; 2] = ["b.project = ?", "b.agent_type = ?"];
const ALONE: [&str; 2] = [
    "i.batch IN (SELECT id FROM batches WHERE project = ?)",
    "i.batch IN (SELECT id FROM batches WHERE agent_type = ?)",
];

fn condition(filter: &Filter, [of_project, of_agent]: [&'static str; 2]) -> (String, Vec<Value>) {
    let (mut conditions, mut values) = (vec!["true"], Vec::new());
    let mut add = |condition, value: Option<Value>| {
        if let Some(value) = value {
            conditions.push(condition);
            values.push(value);
        }
    };
    let text = |text: &Option<String>| text.clone().map(Value::from);
    add("i.state = ?", filter.state.map(|state| state.name().to_owned().into()));
    add("i.batch = ?", filter.batch.map(Value::from));
    add(of_project, text(&filter.project));
    add(of_agent, text(&filter.agent_type));
    add("i.kind = ?", filter.kind.map(|kind| kind_name(kind).to_owned().into()));
    add("i.decided_by = ?", text(&filter.decided_by));
    add("instr(lower(i.content), lower(?)) > 0", text(&filter.text));
    (conditions.join(" AND "), values)
}

/// An item by its number.
pub(super) fn item_of(connection: &Connection, path: &Path, id: i64) -> Result<Option<Item>, ApprovalError> {
    let row = connection
        .prepare_cached(&format!("{ITEM} WHERE i.id = ?1"))
        .and_then(|mut statement| statement.query_row([id], item_row).optional())
        .map_err(|cause| error(path, cause))?;
    row.map(|row| item(path, row)).transpose()
}

/// As it lies in the table, JSON as text.
struct ItemRow {
    item: Item,
    state: String,
    content: String,
    original: String,
    near: String,
}

fn item_row(row: &Row<'_>) -> rusqlite::Result<ItemRow> {
    let placeholder = Content::Instruction { instruction: String::new(), input: String::new(), output: String::new() };
    Ok(ItemRow {
        state: row.get(4)?,
        content: row.get(6)?,
        original: row.get(8)?,
        near: row.get(13)?,
        item: Item {
            id: row.get(0)?,
            batch: row.get(1)?,
            project: row.get(2)?,
            agent_type: row.get(3)?,
            state: State::Pending,
            version: row.get(5)?,
            content: placeholder,
            content_sha256: row.get(7)?,
            original: None,
            decided_by: row.get(9)?,
            decided_at_ms: row.get(10)?,
            prompt_sha256: row.get(11)?,
            seed: row.get::<_, i64>(12)?.cast_unsigned(),
            near: Vec::new(),
        },
    })
}

fn item(path: &Path, row: ItemRow) -> Result<Item, ApprovalError> {
    let edited = row.original != row.content;
    let original = if edited { Some(content(path, &row.original)?) } else { None };
    Ok(Item {
        state: state_of(path, &row.state)?,
        content: content(path, &row.content)?,
        original,
        near: json(path, &row.near)?,
        ..row.item
    })
}

const EVENT: &str = "id, item, version, at_ms, who, channel, action, reason, sha256_before, sha256_after, content";

struct EventRow {
    event: Event,
    channel: String,
    action: String,
    content: Option<String>,
}

fn event_row(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok(EventRow {
        channel: row.get(5)?,
        action: row.get(6)?,
        content: row.get(10)?,
        event: Event {
            id: row.get(0)?,
            item: row.get(1)?,
            version: row.get(2)?,
            at_ms: row.get(3)?,
            who: row.get(4)?,
            channel: Channel::Tunesmith,
            action: Action::Submitted,
            reason: row.get(7)?,
            sha256_before: row.get(8)?,
            sha256_after: row.get(9)?,
            content: None,
        },
    })
}

fn event(path: &Path, row: EventRow) -> Result<Event, ApprovalError> {
    let unknown = |what: &str, name: &str| damaged(path, format!("an event has the {what} `{name}`"));
    Ok(Event {
        channel: Channel::of_name(&row.channel).ok_or_else(|| unknown("channel", &row.channel))?,
        action: Action::of_name(&row.action).ok_or_else(|| unknown("action", &row.action))?,
        content: row.content.map(|text| content(path, &text)).transpose()?,
        ..row.event
    })
}

fn batch(row: &Row<'_>) -> rusqlite::Result<Batch> {
    Ok(Batch {
        id: row.get(0)?,
        project: row.get(1)?,
        agent_type: row.get(2)?,
        run: row.get(3)?,
        generator: row.get(4)?,
        model: row.get(5)?,
        created_at_ms: row.get(6)?,
        expires_at_ms: row.get(7)?,
    })
}

fn state_of(path: &Path, name: &str) -> Result<State, ApprovalError> {
    State::of_name(name).ok_or_else(|| damaged(path, format!("an item has the state `{name}`")))
}

pub(super) fn content(path: &Path, text: &str) -> Result<Content, ApprovalError> {
    json(path, text)
}

fn json<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ApprovalError> {
    serde_json::from_str(text).map_err(|error| damaged(path, error))
}
