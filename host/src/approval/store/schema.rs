//! The tables. `events` is what happened; the columns of `items` from `state` on are what follows from it, kept so that a page of
//! 10,000 items is one index away, and checked against the events where it matters: before something trains.

/// Told apart from other SQLite databases.
pub(super) const APPLICATION_ID: i64 = 0x7475_6e61;
pub(super) const VERSION: i64 = 1;

pub(super) const SCHEMA: &str = "
    CREATE TABLE batches (
        id INTEGER PRIMARY KEY,
        project TEXT NOT NULL,
        agent_type TEXT NOT NULL,
        run TEXT,
        generator TEXT NOT NULL,
        model TEXT,
        created_at_ms INTEGER NOT NULL,
        expires_at_ms INTEGER,
        parents TEXT NOT NULL
    );
    CREATE TABLE held_out (
        batch INTEGER NOT NULL REFERENCES batches(id),
        content TEXT NOT NULL
    );
    CREATE INDEX held_out_of_batch ON held_out (batch);
    CREATE TABLE items (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        batch INTEGER NOT NULL REFERENCES batches(id),
        kind TEXT NOT NULL,
        original TEXT NOT NULL,
        parents TEXT NOT NULL,
        prompt_sha256 TEXT NOT NULL,
        seed INTEGER NOT NULL,
        near TEXT NOT NULL,
        state TEXT NOT NULL,
        version INTEGER NOT NULL,
        content TEXT NOT NULL,
        content_sha256 TEXT NOT NULL,
        decided_by TEXT,
        decided_at_ms INTEGER
    );
    -- With what items are filtered by: to count them, no text is read.
    CREATE INDEX items_by_state ON items (state, id, batch, kind);
    CREATE INDEX items_of_batch ON items (batch, state, id, kind);
    CREATE INDEX items_by_content ON items (content_sha256);
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        item INTEGER NOT NULL REFERENCES items(id),
        version INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        who TEXT NOT NULL,
        channel TEXT NOT NULL,
        action TEXT NOT NULL,
        reason TEXT,
        sha256_before TEXT,
        sha256_after TEXT NOT NULL,
        content TEXT,
        UNIQUE (item, version)
    );
    CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'the log of decisions is append-only'); END;
    CREATE TRIGGER events_are_not_removed BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'the log of decisions is append-only'); END;
    CREATE TRIGGER items_are_not_removed BEFORE DELETE ON items
        BEGIN SELECT RAISE(ABORT, 'items are kept with their events'); END;";
