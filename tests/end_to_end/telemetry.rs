//! Exports into the store: twice changes nothing, and the two forms of export are the same spans.

use serde_json::{Value, json};

use crate::home::Home;
use crate::spans::{Verdict, lines, otlp, span, span_id};

fn import(home: &Home, files: &[&str]) -> Value {
    let ended = home.run(&[&["import", "--store", "telemetry.sqlite", "--json"], files].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.json()
}

fn upserts(new: u64, unchanged: u64) -> Value {
    json!({ "new": new, "updated": 0, "unchanged": unchanged, "stale": 0 })
}

#[test]
fn importing_twice_changes_nothing() {
    let home = Home::ready();
    let first = import(&home, &["traces.jsonl"]);
    let second = import(&home, &["traces.jsonl"]);
    for (import, expected) in [(&first, upserts(60, 0)), (&second, upserts(0, 60))] {
        let file = &import["files"]["traces.jsonl"];
        assert_eq!((&file["spans"], &file["annotations"], &file["rejected"]), (&expected, &expected, &json!(0)));
    }
    assert_eq!(first["projects"], json!([{ "name": "default", "spans": 60, "annotations": 60 }]));
    assert_eq!(first["projects"], second["projects"]);
}

#[test]
fn an_otlp_export_with_its_annotations_apart_holds_the_same_examples() {
    let phoenix = Home::ready();
    import(&phoenix, &["traces.jsonl"]);

    let opentelemetry = Home::ready();
    opentelemetry.write("spans.json", otlp(0..60).to_string());
    let annotations = (0..60).map(|index| {
        let mut annotation = span(index, Verdict::Approved)["annotations"][0].clone();
        annotation["span_id"] = span_id(index).into();
        annotation
    });
    opentelemetry.write("annotations.jsonl", lines(annotations));
    let report = import(&opentelemetry, &["spans.json", "annotations.jsonl"]);
    assert_eq!(report["files"]["spans.json"]["spans"], upserts(60, 0));
    assert_eq!(report["files"]["annotations.jsonl"]["annotations"], upserts(60, 0));

    let records = |home: &Home| {
        home.write("tunesmith.toml", "agent_type = \"routing\"\n");
        let ended = home.run(&["extract", "--store", "telemetry.sqlite"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    };
    let expected = records(&phoenix);
    assert_eq!(expected.lines().count(), 60);
    assert_eq!(records(&opentelemetry), expected);
}

/// Phoenix writes the kind into a field of its own, and leaves the attribute out.
#[test]
fn a_kind_in_its_own_field_is_matched_as_the_attribute() {
    let home = Home::ready();
    let mut retriever = span(0, Verdict::Approved);
    retriever["name"] = "look_up".into();
    retriever["span_kind"] = "RETRIEVER".into();
    home.write("traces.jsonl", lines([retriever]));
    import(&home, &["traces.jsonl"]);
    let ended = home.run(&["analyze", "--agent-type", "search", "--store", "telemetry.sqlite", "--json"]);
    assert_eq!(ended.json()["spans"], 1, "{}", ended.stderr);
}

#[test]
fn feedback_at_the_command_line_trains_as_an_exported_one_does() {
    let home = Home::ready();
    home.write("traces.jsonl", lines((0..3).map(|index| span(index, Verdict::None))));
    import(&home, &["traces.jsonl"]);
    let annotate = |args: &[&str]| {
        let ended = home.run(&[&["annotate", "--store", "telemetry.sqlite"], args].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    };
    let [first, second, third] = [0, 1, 2].map(span_id);
    assert_eq!(
        annotate(&[&first, "--label", "approved"]),
        format!("`human_approval` added to span {first} of `default`\n")
    );
    annotate(&[&second, "--label", "rejected", "--correction", "a better answer"]);
    annotate(&[&third, "--label", "approved"]);
    assert_eq!(
        annotate(&[&third, "--label", "rejected"]),
        format!("`human_approval` replaced at span {third} of `default`\n")
    );
    let analysis = |what: &str| {
        let ended = home.run(&["analyze", "--agent-type", "routing", "--store", "telemetry.sqlite", "--json"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.json()[what].clone()
    };
    let examples = json!({ "approved_examples": 2, "preference_pairs": 1, "triplets": 0 });
    assert_eq!(analysis("examples"), examples);
    assert_eq!(analysis("skipped"), json!({ "rejected without a preferred answer": 1 }));

    home.fails(
        &["annotate", "--store", "telemetry.sqlite", "00000000000000ff", "--label", "approved"],
        "`telemetry.sqlite` has no span `00000000000000ff`, or several projects have it: check the id, or name the project \
         with `--project`",
    );
}
