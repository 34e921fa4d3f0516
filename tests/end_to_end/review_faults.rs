//! What a review meets that is nobody's decision: a store that is locked, full, damaged or changed.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use tunesmith::people::Role;

use crate::home::Home;
use crate::reviewing::{Api, STORE, filled, person, store};
use crate::serving::Serving;

fn started(home: &Home, token: &str) -> (Serving, Api) {
    let serving = Serving::start(home, &[]);
    let api = Api::new(&serving.address, token);
    (serving, api)
}

#[test]
fn a_store_that_another_program_holds_is_busy_and_nothing_is_lost() {
    let home = filled(3);
    let (serving, mut anna) = started(&home, &person(&home, "anna", Role::Reviewer));
    let seen = anna.item(1);
    let other = rusqlite::Connection::open(home.path(STORE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = anna.decide(&seen, "approve");
    let busy = "the approval store `approvals.sqlite` is busy: another program writes to it and did not end within 5 s; do it \
                again";
    assert_eq!((answer.status, &answer.json()["detail"]), (503, &json!(busy)));
    assert!(answer.has("retry-after: 1"), "{}", answer.head);
    // Who only looks is not held up.
    assert_eq!(anna.item(1), seen);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(anna.decide(&seen, "approve").status, 200);
    assert_eq!(store(&home).events(1).unwrap().len(), 2);
    drop(anna);
    serving.stop();
}

#[test]
fn a_full_disk_is_told_and_nothing_is_stored() {
    let home = filled(3);
    let (_serving, mut anna) = started(&home, &person(&home, "anna", Role::Reviewer));
    let seen = anna.item(1);
    assert_eq!(anna.decide(&seen, "approve").status, 200);
    // The system says of this file that its disk is full.
    let (journal, aside) = (home.path("approvals.journal.jsonl"), home.path("aside"));
    fs::rename(&journal, &aside).unwrap();
    symlink("/dev/full", &journal).unwrap();
    let seen = anna.item(2);
    let answer = anna.decide(&seen, "approve");
    let full = "the disk of the approval store `approvals.journal.jsonl` is full: make room, then do it again; nothing of this \
                was stored";
    assert_eq!((answer.status, &answer.json()["detail"]), (507, &json!(full)));
    assert_eq!(anna.item(2), seen);
    let ended = home.run(&[
        "review",
        "--approvals",
        STORE,
        "reject",
        &format!("2-{}", &seen["content_sha256"].as_str().unwrap()[..8]),
    ]);
    assert_eq!((ended.code, ended.error()), (Some(1), full));
    fs::remove_file(&journal).unwrap();
    fs::rename(&aside, &journal).unwrap();
    assert_eq!(anna.decide(&seen, "approve").status, 200);
    assert_eq!(store(&home).events(2).unwrap().len(), 2);
}

#[test]
fn a_damaged_store_is_told_and_its_journal_brings_every_decision_back() {
    let home = filled(300);
    let token = person(&home, "anna", Role::Reviewer);
    let (serving, mut anna) = started(&home, &token);
    let mut acknowledged: Vec<Value> = Vec::new();
    for id in 1..=40 {
        let seen = anna.item(id);
        let answer = anna.decide(&seen, ["approve", "reject"][usize::from(id % 3 == 0)]);
        assert_eq!(answer.status, 200);
        acknowledged.push(answer.json());
    }
    drop(anna);
    serving.stop();
    // Everything but the header, as a bad disk leaves it.
    let mut bytes = fs::read(home.path(STORE)).unwrap();
    assert!(!home.path(&format!("{STORE}-wal")).exists() && bytes.len() > 100_000);
    bytes[4096..].iter_mut().for_each(|byte| *byte ^= 0xa5);
    fs::write(home.path(STORE), bytes).unwrap();

    let (serving, mut anna) = started(&home, &token);
    for answer in [anna.get("/items"), anna.get("/export"), anna.decide(&acknowledged[0], "undo")] {
        assert_eq!(answer.status, 500, "{}", answer.text());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.starts_with("the approval store `approvals.sqlite` is damaged (database disk image is malformed"),
            "{detail}"
        );
        assert!(
            detail.ends_with(
                "): put it aside and restore a copy of it, or the decisions of its journal with `tunesmith review restore`"
            ),
            "{detail}"
        );
    }
    // As it says; the server finds the new file by itself.
    fs::rename(home.path(STORE), home.path("aside.sqlite")).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(home.path(&format!("{STORE}{suffix}")));
    }
    let restored =
        home.run(&["review", "restore", "--journal", "approvals.journal.jsonl", "--approvals", STORE, "--json"]);
    assert_eq!(restored.code, Some(0), "{}", restored.stderr);
    assert_eq!(restored.json()["events"], 340);
    for item in &acknowledged {
        assert_eq!(&anna.item(item["id"].as_i64().unwrap()), item);
    }
    let next = anna.item(41);
    assert_eq!(anna.decide(&next, "approve").status, 200);
    drop(anna);
    serving.stop();
}
