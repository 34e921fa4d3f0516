//! Telemetry that is not there, is something else, is broken in places, or is not enough.

use crate::home::Home;
use crate::spans::{Verdict, lines, span, span_id};

const APPROVED: fn(usize) -> Verdict = |_| Verdict::Approved;

/// A run on this many spans, judged by `verdict`.
fn with_spans(n: usize, verdict: impl Fn(usize) -> Verdict) -> Home {
    let home = Home::ready();
    home.write("traces.jsonl", lines((0..n).map(|index| span(index, verdict(index)))));
    home
}

#[test]
fn a_missing_import_file_leaves_no_store() {
    let home = Home::ready();
    let error = "cannot read `gone.jsonl` (No such file or directory (os error 2)): name a readable file";
    home.refuses(&["--import", "gone.jsonl"], error);
    let import = home.run(&["import", "traces.jsonl", "gone.jsonl"]);
    assert_eq!((import.code, import.error()), (Some(1), error));
    assert!(!home.path("telemetry.sqlite").exists());
}

#[test]
fn an_import_that_holds_no_span() {
    let home = Home::ready();
    home.write("notes.jsonl", "{\"half\":\n17\n");
    home.refuses(
        &["--import", "notes.jsonl"],
        "nothing in `notes.jsonl` is a span or an annotation (line 1: not JSON: EOF while parsing a value at column 8; \
         and 1 more): expected JSON lines with one span each, or an OTLP-JSON export",
    );
}

#[test]
fn an_empty_import() {
    let home = Home::ready();
    home.write("empty.jsonl", "\n");
    home.refuses(
        &["--import", "empty.jsonl"],
        "nothing in `empty.jsonl` is a span or an annotation (it is empty): expected JSON lines with one span each, or \
         an OTLP-JSON export",
    );
}

#[test]
fn lines_that_are_no_spans_are_told_with_file_and_line_and_the_rest_trains() {
    let home = Home::ready();
    let mut broken = span(61, Verdict::Approved);
    broken["context"]["span_id"] = "not hex".into();
    let mut misjudged = span(62, Verdict::Approved);
    misjudged["annotations"][0]["annotator_kind"] = "ROBOT".into();
    let good = lines((0..60).map(|index| span(index, Verdict::Approved)));
    home.write("traces.jsonl", format!("{{\"half\":\n{good}{}{{\"a\": 1}}\n", lines([broken, misjudged])));

    let ended = home.run(&["finetune", "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let warnings: Vec<_> = ended.stderr.lines().filter_map(|line| line.trim_start().strip_prefix("WARN ")).collect();
    assert_eq!(
        warnings,
        [
            "traces.jsonl:1: not JSON: EOF while parsing a value at column 8",
            "traces.jsonl:62: `context.span_id` `not hex` is not 16 hex digits",
            "traces.jsonl:63: `annotations[0]`: `annotator_kind` `ROBOT` is none of HUMAN, LLM, CODE",
            "traces.jsonl:64: neither a span (`context.span_id`, `start_time`) nor an annotation (`span_id`, \
             `annotator_kind`)",
        ]
    );
    let counts = "import     61 spans (61 new), 60 annotations (60 new), 4 rejected from traces.jsonl";
    assert!(ended.stderr.contains(counts), "{}", ended.stderr);
    // Span 62 is there, unjudged; 60 are approved.
    let report = ended.json();
    assert_eq!((&report["n_train"], &report["n_held_out"]), (&54.into(), &6.into()));
    assert_eq!(report["skipped"], serde_json::json!({ "no verdict": 1 }));
}

#[test]
fn a_missing_store() {
    let home = Home::ready();
    home.write("tunesmith.toml", "agent_type = \"routing\"\nbase_model = \"model\"\noutput_dir = \"out\"\n");
    home.refuses(
        &["--store", "gone.sqlite"],
        "no telemetry store at `gone.sqlite`: fill one with `tunesmith import FILE`",
    );
}

#[test]
fn a_store_that_is_no_database() {
    let home = Home::ready();
    home.refuses(
        &["--store", "traces.jsonl"],
        "`traces.jsonl` is not a telemetry store of tunesmith: name another file, or import into a new one",
    );
    // It still is what it was.
    assert!(home.read("traces.jsonl").starts_with(b"{\"name\":\"RoutingAgent.route\""));
}

#[test]
fn a_store_that_is_a_folder() {
    Home::ready().refuses(
        &["--store", "model"],
        "the telemetry store `model` cannot be used (unable to open database file: model): check the disk, its \
         permissions and other writers",
    );
}

#[test]
fn a_store_that_is_cut_off() {
    let home = Home::ready();
    home.run(&["import", "traces.jsonl", "--store", "telemetry.sqlite"]);
    let whole = home.read("telemetry.sqlite");
    home.write("telemetry.sqlite", &whole[..20_000]);
    home.refuses(
        &[],
        "the telemetry store `telemetry.sqlite` is damaged (database disk image is malformed): import the exports again \
         into a new file",
    );
}

#[test]
fn a_project_that_the_store_does_not_hold() {
    let home = Home::ready();
    let config = "agent_type = \"routing\"\nbase_model = \"model\"\noutput_dir = \"out\"\n";
    home.write("tunesmith.toml", config);
    home.run(&["import", "traces.jsonl", "--store", "telemetry.sqlite"]);
    home.refuses(
        &["--store", "telemetry.sqlite", "--project", "acme"],
        "no project `acme` in `telemetry.sqlite`: it holds `default`",
    );
}

#[test]
fn several_projects_and_none_named() {
    let home = Home::ready();
    home.run(&["import", "traces.jsonl", "--store", "telemetry.sqlite", "--project", "acme"]);
    home.refuses(&[], "no project is named, and `telemetry.sqlite` holds `acme`, `default`; name one with `--project`");
}

#[test]
fn no_span_of_the_agent() {
    Home::ready().refuses(
        &["--agent-type", "entity_extraction"],
        "Cannot train with empty dataset. No training examples available after formatting. No span of project \
         `default` is the `entity_extraction` agent's: check `match` in `[agents.entity_extraction]`",
    );
}

#[test]
fn no_approved_examples_at_all() {
    with_spans(60, |index| if index < 40 { Verdict::Rejected } else { Verdict::None }).refuses(
        &[],
        "Cannot train with empty dataset. No training examples available after formatting. Of 60 spans of `routing` in \
         project `default` none is approved (rejected without a preferred answer: 40, no verdict: 20): label the \
         annotation `human_approval` `approved` on good answers, or change `[extraction]`",
    );
}

#[test]
fn too_few_examples_have_the_known_text() {
    // 18 corrections are 18 pairs and 18 approved answers; a fifth of them, 3, would be held out.
    with_spans(18, |_| Verdict::Corrected("search_agent")).refuses(
        &["--method", "auto", "--generate-synthetic", "false"],
        "Insufficient preference pairs: 15 < 20. Need spans with both approved and rejected annotations. Insufficient \
         approved examples: 15 < 50. Need spans with approved annotations. Approve more traces of `routing`, or lower \
         the threshold",
    );
}

#[test]
fn examples_that_all_hang_together() {
    let home = Home::ready();
    let one_session = |index| {
        let mut span = span(index, Verdict::Approved);
        span["attributes"]["session.id"] = "the only one".into();
        span
    };
    home.write("traces.jsonl", lines((0..60).map(one_session)));
    home.refuses(
        &[],
        "cannot hold out examples: 60 of 60 hang together (60 share the session `the only one`), and without parting them only 0 can \
         be held out, where 5 are needed: give independent requests their own trace and session ids",
    );
}

#[test]
fn identical_pairs_are_warned_of_in_the_known_words_and_counted() {
    // Spans 3 and 30 are corrected to what they said.
    let repeats = |index| if index == 3 || index == 30 { Verdict::Corrected("weather_agent") } else { APPROVED(index) };
    let ended = with_spans(60, repeats).run(&["finetune", "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for index in [3, 30] {
        let warning = format!(" WARN Skipping identical pair for span {}\n", span_id(index));
        assert!(ended.stderr.contains(&warning), "{}", ended.stderr);
    }
    let report = ended.json();
    assert_eq!(report["skipped"]["identical chosen and rejected"], 2);
}
