//! `tunesmith review`, as a person at a terminal uses it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::{Value, json};
use tunesmith::approval::{ApprovalStore, Cursor, Filter, State};
use tunesmith::people::Person;

use crate::home::{Ended, Home, run};
use crate::reviewing::{HELD_OUT, STORE, batch, filled, generated, store};

fn review(home: &Home, args: &[&str]) -> Ended {
    home.run(&[&["review", "--approvals", STORE], args].concat())
}

#[track_caller]
fn ok(home: &Home, args: &[&str]) -> String {
    let ended = review(home, args);
    assert_eq!(ended.code, Some(0), "{args:?}: {}{}", ended.stdout, ended.stderr);
    ended.stdout
}

#[track_caller]
fn json_of(home: &Home, args: &[&str]) -> Value {
    serde_json::from_str(&ok(home, &[args, &["--json"]].concat())).unwrap()
}

#[track_caller]
fn refuses(home: &Home, args: &[&str], error: &str) {
    let before = store(home).events_after(0, usize::MAX).unwrap();
    let ended = review(home, args);
    assert_eq!((ended.code, ended.error(), ended.stdout.as_str()), (Some(1), error, ""), "{args:?}");
    assert_eq!(store(home).events_after(0, usize::MAX).unwrap(), before, "{args:?}");
}

fn handle(home: &Home, item: i64) -> String {
    let item = store(home).item(item).unwrap().unwrap();
    format!("{}-{}", item.id, &item.content_sha256[..8])
}

fn me() -> String {
    Person::of_terminal().name().to_owned()
}

#[test]
fn items_are_listed_shown_and_decided_by_their_handles() {
    let home = filled(5);
    let listed = json_of(&home, &["list", "--limit", "2"]);
    assert_eq!((&listed["next"], &listed["counts"]["pending"]), (&json!(2), &json!(5)));
    assert_eq!(listed["items"][1]["handle"], handle(&home, 2));
    let text = ok(&home, &["list", "--limit", "2"]);
    assert!(text.contains(&handle(&home, 1)) && text.contains("generated question 0"), "{text}");
    assert!(text.ends_with("5 pending, 0 approved, 0 edited, 0 rejected, 0 expired; there are more: `--after 2`\n"));
    let text = json_of(&home, &["list", "--after", "2", "--text", "TOWN 4", "--kind", "instruction"]);
    assert_eq!(text["items"].as_array().unwrap().len(), 1);
    assert_eq!(ok(&home, &["list", "--agent-type", "another"]).lines().next(), Some("no such item"));

    let shown = json_of(&home, &["show", "1"]);
    assert_eq!(
        (&shown["handle"], &shown["parents"][0]["span_ids"][0]),
        (&json!(handle(&home, 1)), &json!("0000000000000000"))
    );
    assert_eq!((&shown["from"]["model"], &shown["events"][0]["action"]), (&json!("some-model"), &json!("submitted")));
    let text = ok(&home, &["show", &handle(&home, 1)]);
    assert!(text.contains("input:\n  generated question 0 on the weather in town 0\n"), "{text}");
    assert!(text.contains("resembles a real example (25%): real question 0\n"), "{text}");

    let (one, two, three) = (handle(&home, 1), handle(&home, 2), handle(&home, 3));
    assert_eq!(ok(&home, &["approve", &one, &two]), format!("{one} approved\n{two} approved\n"));
    assert_eq!(ok(&home, &["reject", &three, "--reason", "nobody asks this"]), format!("{three} rejected\n"));
    assert_eq!(ok(&home, &["undo", &two]), format!("{two} pending\n"));
    let events = store(&home).events(3).unwrap();
    let last = events.last().unwrap();
    assert_eq!((last.who.as_str(), last.channel.name(), last.version), (me().as_str(), "terminal", 2));
    assert_eq!(last.reason.as_deref(), Some("nobody asks this"));
    let batches = json_of(&home, &["batches"]);
    assert_eq!(batches[0]["counts"], json!({ "pending": 3, "approved": 1, "edited": 0, "rejected": 1, "expired": 0 }));
}

#[test]
fn a_decision_names_the_text_that_was_seen() {
    let home = filled(3);
    let one = handle(&home, 1);
    let number_only = "`1` does not say which text was seen: give the handle, such as `1-ab12cd34`, that `tunesmith review show \
                       1` prints";
    for args in [&["approve", "1"][..], &["reject", "1"], &["undo", "1"], &["edit", "1"]] {
        refuses(&home, args, number_only);
    }
    let no_handle = "`one` names no item: give its handle, such as `12-ab12cd34`, which `tunesmith review list` prints";
    refuses(&home, &["approve", &one, "one"], no_handle);
    refuses(&home, &["show", "one"], no_handle);
    refuses(&home, &["approve", "9-00000000"], "there is no item 9: list those there are");
    refuses(&home, &["show", "9"], "there is no item 9: list those there are");
    refuses(&home, &["undo", &one], "item 1 is pending: there is nothing to undo");
    refuses(
        &home,
        &["approve", "1-00000000"],
        "item 1 has changed since you saw it: tunesmith submitted it; look at it again, then decide",
    );
    ok(&home, &["approve", &one]);
    refuses(&home, &["reject", &one], "item 1 is approved already: undo that first");

    // Of several, those that can be are taken, and the others are told.
    let two = handle(&home, 2);
    let ended = review(&home, &["approve", &one, &two]);
    assert_eq!((ended.code, ended.stdout), (Some(1), format!("{two} approved\n")));
    assert_eq!(ended.stderr, "error: item 1 is approved already: undo that first\n");
    let ended = review(&home, &["approve", &two, &handle(&home, 3), "--json"]);
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.json()["decided"][0]["id"], 3);
    assert_eq!(
        ended.json()["refused"],
        json!([{ "handle": two, "error": "item 2 is approved already: undo that first" }])
    );
}

/// An editor that runs `script` with the file as `$1`.
fn edits(home: &Home, item: &str, script: &str) -> Ended {
    home.write("editor", format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(home.path("editor"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = home.command(&["review", "--approvals", STORE, "edit", item]);
    command.env("VISUAL", "./editor").env("EDITOR", "false").env("PATH", "/usr/bin:/bin");
    fs::create_dir_all(home.path("temporary")).unwrap();
    command.env("TMPDIR", home.path("temporary"));
    run(command)
}

fn temporary(home: &Home) -> Vec<std::path::PathBuf> {
    fs::read_dir(home.path("temporary")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn an_item_is_changed_in_an_editor() {
    let home = filled(3);
    let one = handle(&home, 1);
    let ended = edits(&home, &one, "cp \"$1\" shown.toml; sed -i 's/town 0/the old town/' \"$1\"");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout, format!("{} edited\n", handle(&home, 1)));
    let shown = String::from_utf8(home.read("shown.toml")).unwrap();
    assert!(shown.starts_with(&format!("# Item {one}. Change the texts")), "{shown}");
    let item = store(&home).item(1).unwrap().unwrap();
    assert_eq!(item.content.input(), "generated question 0 on the weather in the old town");
    assert_eq!((item.state, item.original.unwrap()), (State::Edited, generated(0)));
    assert!(temporary(&home).is_empty());
    // Back to what was generated.
    assert_eq!(ok(&home, &["undo", &handle(&home, 1)]), format!("{one} pending\n"));
}

#[test]
fn what_was_written_is_not_lost_and_nothing_is_stored_by_mistake() {
    let home = filled(3);
    let one = handle(&home, 1);
    let before = store(&home).events_after(0, usize::MAX).unwrap();
    let failed = |script: &str| {
        let ended = edits(&home, &one, script);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
        assert_eq!(store(&home).events_after(0, usize::MAX).unwrap(), before);
        ended.error().to_owned()
    };
    assert_eq!(
        failed("sed -i 's/town 0/x/' \"$1\"; exit 3"),
        "the editor `./editor` failed (exit status: 3): nothing was stored; name another in `VISUAL` or `EDITOR`"
    );
    assert_eq!(failed("true"), "item 1 is as it was: approve it, or change it");
    assert_eq!(failed("> \"$1\""), "the file was left empty: item 1 is as it was; reject it where it is not wanted");
    assert!(temporary(&home).is_empty());

    let error = failed("echo 'no toml' >> \"$1\"");
    let kept = temporary(&home).pop().unwrap();
    assert!(error.starts_with(&format!("`{}` does not have the fields of an item (line ", kept.display())), "{error}");
    assert!(error.ends_with("): mend it and give it with `--from`; nothing was stored"), "{error}");
    assert!(fs::read_to_string(&kept).unwrap().ends_with("no toml\n"));
    fs::remove_file(kept).unwrap();

    let error = failed(&format!("sed -i 's/^input.*/input = \"{HELD_OUT}\"/' \"$1\""));
    let kept = temporary(&home).pop().unwrap();
    assert_eq!(
        error,
        format!(
            "item 1 would be equal to a held-out example, by which the adapter is judged: ask something else, or reject the \
             item; what you wrote is in `{}`",
            kept.display()
        )
    );
    // Mended, it is given again.
    let mended = fs::read_to_string(&kept).unwrap().replace(HELD_OUT, "another question");
    fs::write(&kept, mended).unwrap();
    ok(&home, &["edit", &one, "--from", kept.to_str().unwrap()]);
    assert_eq!(store(&home).item(1).unwrap().unwrap().content.input(), "another question");

    // Somebody decides while the editor is open.
    let two = handle(&home, 2);
    let binary = env!("CARGO_BIN_EXE_tunesmith");
    let ended =
        edits(&home, &two, &format!("{binary} review --approvals {STORE} approve {two}; sed -i 's/town/x/' \"$1\""));
    let stale =
        format!("item 2 has changed since you saw it: {} approved it; look at it again, then decide; what you", me());
    assert!(ended.error().starts_with(&stale), "{}", ended.stderr);
}

#[test]
fn everything_is_exported_with_its_decisions() {
    let home = filled(1200);
    ok(&home, &["approve", &handle(&home, 7), &handle(&home, 1100)]);
    ok(&home, &["reject", &handle(&home, 8)]);
    let lines = ok(&home, &["export"]);
    assert_eq!(lines.lines().count(), 1200);
    let seventh: Value = serde_json::from_str(lines.lines().nth(6).unwrap()).unwrap();
    assert_eq!(
        (&seventh["id"], &seventh["state"], &seventh["decided_by"]),
        (&json!(7), &json!("approved"), &json!(me()))
    );
    assert_eq!(
        (&seventh["generator"], &seventh["parent_span_ids"][0]),
        (&json!("endpoint"), &json!("0000000000000000"))
    );
    assert_eq!((&seventh["events"][1]["who"], &seventh["events"][1]["version"]), (&json!(me()), &json!(2)));
    let approved = json_of(&home, &["export", "--approved", "--output", "approved.jsonl"]);
    assert_eq!(approved, json!({ "items": 2 }));
    let written = String::from_utf8(home.read("approved.jsonl")).unwrap();
    let ids: Vec<_> = written.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, [7, 1100]);

    // Changed outside of Tunesmith.
    let raw = rusqlite::Connection::open(home.path(STORE)).unwrap();
    raw.execute("UPDATE items SET content = replace(content, 'weather_agent', 'evil_agent') WHERE id = 7", []).unwrap();
    let ended = review(&home, &["export", "--approved"]);
    assert!(ended.error().contains("item 7 of `approvals.sqlite` is not what"), "{}", ended.stderr);
}

#[test]
fn a_store_is_made_again_from_its_journal() {
    let home = filled(40);
    store(&home).submit(batch(0)).unwrap();
    ok(&home, &["approve", &handle(&home, 1), &handle(&home, 2)]);
    ok(&home, &["undo", &handle(&home, 2)]);
    let before = store(&home).items(&Filter::default(), None, 100).unwrap();
    let events = store(&home).events_after(0, 100).unwrap();
    // A writer that was killed within a line, and damage that is no text.
    let journal = home.path("approvals.journal.jsonl");
    let mut torn = fs::read(&journal).unwrap();
    torn.extend_from_slice(b"{\"event\":{\"id\":44,\"it\n\xff\xfe\n");
    fs::write(&journal, torn).unwrap();

    let args = ["review", "restore", "--journal", "approvals.journal.jsonl", "--approvals"];
    let there = home.run(&[&args[..], &[STORE]].concat());
    assert_eq!(
        there.error(),
        "`approvals.sqlite` is there already: put it aside, or restore to another file with `--approvals`"
    );
    let restored = home.run(&[&args[..], &["again.sqlite", "--json"]].concat());
    assert_eq!(
        restored.json(),
        json!({ "approvals": "again.sqlite", "batches": 1, "items": 40, "events": 43, "unfinished": 2 })
    );
    // In its own place, too, and then the journal goes on.
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(home.path(&format!("{STORE}{suffix}")));
    }
    assert_eq!(home.run(&[&args[..], &[STORE]].concat()).code, Some(0));
    for name in [STORE, "again.sqlite"] {
        let again = ApprovalStore::open(&home.path(name)).unwrap();
        assert_eq!(again.items(&Filter::default(), None, 100).unwrap(), before, "{name}");
        assert_eq!(again.events_after(0, 100).unwrap(), events, "{name}");
    }
    ok(&home, &["approve", &handle(&home, 3)]);
    assert_eq!(home.run(&[&args[..], &["third.sqlite", "--json"]].concat()).json()["events"], 44);

    home.write("empty", "");
    let none = home.run(&["review", "restore", "--journal", "nowhere", "--approvals", "fourth.sqlite"]);
    assert!(none.error().starts_with("cannot use the journal `nowhere`"), "{}", none.stderr);
    assert!(!home.path("fourth.sqlite").exists());
}

#[test]
fn without_a_store_or_a_terminal_it_says_what_to_do() {
    let home = Home::empty();
    home.fails(
        &["review", "--approvals", STORE, "list"],
        "there is no approval store `approvals.sqlite`: nothing was generated for review yet",
    );
    refuses(
        &filled(1),
        &[],
        "there is no terminal to ask on: use `tunesmith review list`, and `approve`, `reject` or `edit` with a handle",
    );
}

#[test]
fn what_nobody_decided_in_time_is_expired_when_somebody_looks() {
    let home = Home::empty();
    let mut new = batch(2);
    new.expires_at_ms = Some(1);
    ApprovalStore::open_or_create(&home.path(STORE)).unwrap().submit(new).unwrap();
    // What was submitted after its time waits on.
    assert_eq!(json_of(&home, &["list"])["counts"]["expired"], 0);
    let mut soon = batch(2);
    soon.expires_at_ms = Some(jiff_now() + 30);
    store(&home).submit(soon).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(json_of(&home, &["list"])["counts"]["expired"], 2);
    let three = handle(&home, 3);
    refuses(&home, &["approve", &three], "item 3 is expired already: undo that first");
    assert_eq!(ok(&home, &["undo", &three]), format!("{three} pending\n"));
}

fn jiff_now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// A terminal, as a person has one.
struct Terminal {
    child: std::process::Child,
    master: fs::File,
    said: String,
}

impl Terminal {
    fn start(home: &Home) -> Self {
        let (mut master, mut slave) = (0, 0);
        let null = std::ptr::null_mut();
        // SAFETY: both are written to, and the rest may be null.
        assert_eq!(unsafe { libc::openpty(&mut master, &mut slave, null, null as *mut _, null as *mut _) }, 0);
        // SAFETY: both were just opened, and are nobody else's.
        let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let mut command = home.command(&["review", "--approvals", STORE, "--json"]);
        command.stdin(slave.try_clone().unwrap()).stderr(slave).stdout(Stdio::piped());
        command.env("VISUAL", "sed -i 's/town/village/'").env("PATH", "/usr/bin:/bin");
        Self { child: command.spawn().unwrap(), master: master.into(), said: String::new() }
    }

    /// Reads until `text` is said, and forgets what was said up to there.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            if let Some(end) = self.said.find(text).map(|start| start + text.len()) {
                return self.said.drain(..end).collect();
            }
            let mut poll = libc::pollfd { fd: self.master.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one descriptor, which is open.
            assert_eq!(unsafe { libc::poll(&mut poll, 1, 30_000) }, 1, "no `{text}` in: {}", self.said);
            let read = self.master.read(&mut bytes).unwrap();
            self.said += &String::from_utf8_lossy(&bytes[..read]);
        }
    }

    /// What was pressed earlier than it is asked for does not count.
    fn press(&mut self, keys: &str) {
        std::thread::sleep(std::time::Duration::from_millis(100));
        self.master.write_all(keys.as_bytes()).unwrap();
    }
}

#[test]
fn items_are_decided_one_at_a_time_on_a_terminal() {
    let home = filled(5);
    let mut terminal = Terminal::start(&home);
    let asked = "[a]pprove  [r]eject  [e]dit  [u]ndo the last  [j] next  [k] previous  [q]uit  [?]";
    let shown = terminal.wait_for(asked);
    assert!(shown.contains("5 pending") && shown.contains("generated question 0"), "{shown}");
    terminal.press("a");
    assert!(terminal.wait_for(asked).contains("generated question 1"));
    terminal.press("r");
    terminal.wait_for("why (may be empty): ");
    terminal.press("off topic\n");
    assert!(terminal.wait_for(asked).contains("generated question 2"));
    terminal.press("j");
    assert!(terminal.wait_for(asked).contains("generated question 3"));
    terminal.press("e");
    assert!(terminal.wait_for(asked).contains("generated question 4"));
    terminal.press("u");
    assert!(terminal.wait_for(asked).contains("generated question 3"));
    terminal.press("x");
    terminal.press("a");
    terminal.wait_for("generated question 4");
    terminal.wait_for(asked);
    // Somebody else decides what is shown.
    ok(&home, &["approve", &handle(&home, 5)]);
    terminal.press("a");
    terminal.wait_for("error: item 5 has changed since you saw it");
    assert!(terminal.wait_for(asked).contains("generated question 2"));
    terminal.press("q");
    let mut summary = String::new();
    terminal.child.stdout.take().unwrap().read_to_string(&mut summary).unwrap();
    assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary, json!({ "approved": 2, "edited": 1, "rejected": 1, "undone": 1, "pending": 1 }));
    let states: Vec<_> = store(&home)
        .items(&Filter::default(), Some(Cursor(0)), 10)
        .unwrap()
        .items
        .iter()
        .map(|item| item.state)
        .collect();
    let expected = [State::Approved, State::Rejected, State::Pending, State::Approved, State::Approved];
    assert_eq!(states, expected);
    assert_eq!(store(&home).events(2).unwrap()[1].reason.as_deref(), Some("off topic"));
}
