//! A run that has too little generates what is missing, waits for people, and goes on with what they approved.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tunesmith::approval::{ApprovalStore, Channel, Content, Decision, Filter, Item, Seen, State, Verdict as Decided};
use tunesmith::people::Person;

use crate::home::{Home, read_json};
use crate::spans::{Verdict, lines, span};

/// 30 approved spans, of which 5 are held out, where 30 have to train.
fn short() -> Home {
    let home = Home::ready();
    home.write("traces.jsonl", lines((0..30).map(|index| span(index, Verdict::Approved))));
    home.configure("min_sft_examples = 30\n[synthetic]\ngenerator = \"templates\"");
    home
}

fn store(home: &Home) -> ApprovalStore {
    ApprovalStore::open(&home.path("approvals.sqlite")).unwrap()
}

fn pending(store: &ApprovalStore) -> Vec<Item> {
    store.items(&Filter { state: Some(State::Pending), ..Filter::default() }, None, 1000).unwrap().items
}

fn decide(store: &mut ApprovalStore, item: &Item, decision: Decision) {
    let seen = Seen { item: item.id, version: item.version, content_sha256: item.content_sha256.clone() };
    let me = Person::of_terminal().reviewer().unwrap();
    store.decide(&me, Channel::Terminal, &Decided { seen, decision, reason: None }).unwrap();
}

fn edited(item: &Item) -> Content {
    let mut content = item.content.clone();
    for (field, text) in content.fields_mut() {
        if field == "input" {
            *text = "a question that a person wrote, about the tides of the northern sea".to_owned();
        }
    }
    content
}

/// The items that an adapter was trained on, and who approved them, by its `run.json`.
fn approvals(adapter: &std::path::Path) -> Vec<Value> {
    let run = read_json(&adapter.join("run.json"));
    let lineage = run["lineage"].as_array().unwrap();
    assert!(lineage.iter().filter(|each| each["set"] == "held_out").all(|each| each["approval"].is_null()));
    lineage.iter().filter(|each| !each["approval"].is_null()).map(|each| each["approval"].clone()).collect()
}

#[test]
fn a_run_that_lacks_examples_ends_with_3_and_goes_on_with_what_was_approved() {
    let home = short();
    let ended = home.run(&["finetune"]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stdout.contains("5 must be approved."), "{}", ended.stdout);
    assert!(ended.stdout.contains("tunesmith review --config "), "{}", ended.stdout);
    let id = ended.stdout.rsplit_once("tunesmith runs resume ").unwrap().1.split(' ').next().unwrap().to_owned();
    assert_eq!(home.outputs(), [""; 0]);

    // The same command asks for nothing twice.
    let again = home.run(&["finetune", "--json"]).json();
    assert_eq!(again["waiting"]["run"], id.as_str());
    assert_eq!(again["waiting"]["submitted"]["batch"], Value::Null);
    let mut store = store(&home);
    let waiting = pending(&store);
    assert!(waiting.len() >= 5, "{}", waiting.len());

    // Nobody has decided: there is as little as before.
    let early = home.run(&["runs", "resume", &id, "--store", "telemetry.sqlite"]);
    assert_eq!(early.code, Some(3), "{}", early.stderr);

    decide(&mut store, &waiting[0], Decision::Edit(edited(&waiting[0])));
    decide(&mut store, &waiting[1], Decision::Reject);
    for item in &waiting[2..] {
        decide(&mut store, item, Decision::Approve);
    }
    let resumed = home.run(&["runs", "resume", &id, "--store", "telemetry.sqlite", "--json"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    let adapter = home.path("out").join(&home.outputs()[0]);
    let approved = approvals(&adapter);
    let mut items: Vec<_> = approved.iter().map(|each| each["item"].as_i64().unwrap()).collect();
    items.sort_unstable();
    let mut expected: Vec<_> = waiting.iter().map(|item| item.id).filter(|&item| item != waiting[1].id).collect();
    expected.sort_unstable();
    assert_eq!(items, expected);
    let me = Person::of_terminal();
    assert!(approved.iter().all(|each| each["approved_by"] == me.name()), "{approved:?}");
    let changed = approved.iter().find(|each| each["item"] == waiting[0].id).unwrap();
    assert_eq!((&changed["edited"], &changed["generator"]), (&true.into(), &"templates".into()));
    assert_eq!(changed["content_sha256"], edited(&waiting[0]).sha256().as_str());

    // It is done, and says so.
    let done = home.run(&["runs", "resume", &id, "--store", "telemetry.sqlite"]);
    assert_eq!(done.code, Some(1));
    assert!(done.error().starts_with(&format!("run `{id}` has finished: its adapter is `")), "{}", done.error());

    // The very records that were trained are told by `extract`, too.
    let records = home.run(&["extract"]);
    let marked = records.stdout.lines().filter(|line| line.contains("\"approval\":")).count();
    assert_eq!(marked, expected.len());
}

#[test]
fn a_run_that_waits_goes_on_by_itself_and_outlives_its_process() {
    let home = short();
    let waiting = |home: &Home| {
        let mut command: Command = home.command(&["finetune", "--wait-for-approval"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut killed = waiting(&home);
    let items = until(|| {
        let store = ApprovalStore::open(&home.path("approvals.sqlite")).ok()?;
        Some(pending(&store)).filter(|items| !items.is_empty())
    });
    let runs = until(|| home.run(&["runs", "list", "--store", "telemetry.sqlite", "--json"]).json().get(0).cloned());
    assert_eq!(runs["state"]["is"], "waiting");
    let id = runs["id"].as_str().unwrap();
    // One process goes on with a run.
    let second = home.run(&["finetune"]);
    assert_eq!(
        second.error(),
        format!("run `{id}` is another process's at this moment: wait for its end, or end that process")
    );
    killed.kill().unwrap();
    killed.wait().unwrap();

    let mut waits = waiting(&home);
    let mut store = store(&home);
    for item in &items {
        assert_eq!(home.outputs(), [""; 0]);
        decide(&mut store, item, Decision::Approve);
    }
    let code = until(|| waits.try_wait().unwrap());
    assert_eq!(code.code(), Some(0));
    assert_eq!(approvals(&home.path("out").join(&home.outputs()[0])).len(), items.len());
    let runs = home.run(&["runs", "list", "--store", "telemetry.sqlite", "--json"]).json();
    assert_eq!((runs.as_array().unwrap().len(), &runs[0]["state"]["is"]), (1, &"finished".into()));
}

#[test]
fn who_turns_everything_down_is_asked_a_few_times_and_no_more() {
    let home = short();
    let mut batches = 0;
    let last = loop {
        let ended = home.run(&["finetune"]);
        if ended.code != Some(3) {
            break ended;
        }
        batches += 1;
        assert!(batches <= 10);
        let mut store = store(&home);
        for item in pending(&store) {
            decide(&mut store, &item, Decision::Reject);
        }
    };
    assert_eq!(last.code, Some(1));
    assert!(last.error().contains("batches were generated, and too little of them was approved"), "{}", last.error());
}

#[test]
fn a_damaged_approval_store_stops_a_run_before_it_trains() {
    let home = Home::ready();
    home.write("approvals.sqlite", [7; 8192]);
    let ended = home.run(&["finetune"]);
    assert_eq!((ended.code, home.outputs()), (Some(1), Vec::<String>::new()));
    assert!(ended.error().ends_with("is not an approval store: name one with `--approvals`"), "{}", ended.error());
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "nothing happened");
        std::thread::sleep(Duration::from_millis(50));
    }
}
