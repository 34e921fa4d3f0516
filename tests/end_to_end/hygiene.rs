//! Between telemetry and trainer: what is taken out of texts, what is kept apart, and what a run tells of its data.

use std::fs;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::home::{Home, read_json, repository};
use crate::spans::{Verdict, answer, lines, query, span, span_id};

const ADDRESS: &str = "bob.miller@example.com";
const CARD: &str = "4111 1111 1111 1111";

/// 60 approved spans, and five whose texts nobody should learn.
fn home_with_secrets() -> Home {
    let home = Home::ready();
    let mut spans: Vec<Value> = (0..65).map(|index| span(index, Verdict::Approved)).collect();
    let texts = [
        json!({ "input.value": format!("ask {ADDRESS} again"), "output.value": "weather_agent" }),
        json!({ "input.value": "who pays", "output.value": format!("the card is {CARD}") }),
        json!({ "input.value": r#"{"ask": "bob.miller@example.com", "card": 4111111111111111}"#, "output.value": "a" }),
        json!({ "input.value": "anything", "output.value": "b", "session.id": ADDRESS }),
        json!({ "input.value": "where", "output.value": "c", "llm.api_key": "open sesame" }),
    ];
    for (span, attributes) in spans[60..].iter_mut().zip(texts) {
        span["attributes"] = attributes;
    }
    spans[64]["annotations"][0]["metadata"] = json!({ "corrected_output": format!("write to {ADDRESS}") });
    spans[64]["annotations"][0]["identifier"] = json!(ADDRESS);
    home.write("traces.jsonl", lines(spans));
    home
}

fn records(home: &Home, args: &[&str]) -> Vec<Value> {
    let ended = home.run(&[&["extract"], args].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_nobody_should_learn_is_in_no_file_of_a_run_and_stays_in_the_store() {
    let home = home_with_secrets();
    let ended = home.run(&["finetune", "-vv"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let folder = home.path("out").join(&home.outputs()[0]);
    let mut told = vec![("the answer".to_owned(), ended.stdout), ("the log".to_owned(), ended.stderr)];
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        told.push((path.display().to_string(), String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
    }
    for (place, text) in told {
        for secret in [ADDRESS, "4111 1111", "4111111111111111", "sesame"] {
            assert!(!text.contains(secret), "`{secret}` is in {place}");
        }
    }
    let redacted = json!({ "card": 2, "email": 5, "key": 1 });
    assert_eq!(read_json(&folder.join("run.json"))["report"]["redacted"], redacted);
    assert_eq!(read_json(&folder.join("dataset.json"))["redacted"], redacted);

    let store = home.read("telemetry.sqlite");
    assert!(store.windows(ADDRESS.len()).any(|window| window == ADDRESS.as_bytes()));
}

#[test]
fn a_plugin_sees_what_stands_for_it() {
    let home = home_with_secrets();
    let by_span = |records: &[Value], index: usize| {
        let of_span = records.iter().find(|record| record["lineage"]["span_ids"] == json!([span_id(index)])).unwrap();
        (of_span["text"].as_str().unwrap().to_owned(), of_span["lineage"]["session_id"].clone())
    };
    let masked = records(&home, &[]);
    assert!(by_span(&masked, 60).0.contains("ask [EMAIL] again"));
    assert!(by_span(&masked, 61).0.contains("the card is [CARD]"));
    assert!(by_span(&masked, 62).0.contains(r#"{"ask": "[EMAIL]", "card": "[CARD]"}"#));
    assert_eq!(by_span(&masked, 63).1.as_str().unwrap().split('_').next(), Some("[EMAIL"));
    assert!(by_span(&masked, 64).0.contains("write to [EMAIL]"));

    let numbered = records(&home, &["--redaction-mode", "pseudonym"]);
    for index in [60, 62, 64] {
        assert!(by_span(&numbered, index).0.contains("[EMAIL_1]"), "one address, one number");
    }
    let whole = records(&home, &["--redaction", "false"]);
    assert!(by_span(&whole, 60).0.contains(ADDRESS));
    let emails = records(&home, &["--redaction-detectors", "email"]);
    assert!(by_span(&emails, 61).0.contains(CARD));
}

#[test]
fn the_operators_own_patterns_and_attributes() {
    let home = home_with_secrets();
    let without_input = ["--redaction-attributes", "llm.*,output.*"];
    let ended = home.run(&[&["analyze", "--json"], without_input.as_slice()].concat());
    // The correction of span 64 is not the span's output.
    assert_eq!(ended.json()["skipped"], json!({ "empty output": 64 }));
    assert_eq!(ended.json()["redacted"]["attribute"], 66);

    home.configure("[[redaction.patterns]]\nname = \"NUMBER\"\nregex = 'query ([0-9]+)'");
    let records = records(&home, &[]);
    assert!(records.iter().all(|record| !record["text"].as_str().unwrap().contains("query 1 ")));
    let ended = home.run(&["analyze"]);
    let lines: Vec<_> = ended.stdout.lines().map(str::trim).collect();
    let start = lines.iter().position(|line| *line == "redacted  count").unwrap();
    assert_eq!(
        lines[start + 1..start + 5],
        ["card          2", "email         5", "key           1", "number       60"],
        "{}",
        ended.stdout
    );
}

#[test]
fn a_pattern_that_cannot_be() {
    let refuses = |pattern: &str, error: &str| {
        let home = Home::ready();
        home.configure("[redaction]");
        home.configure(pattern);
        home.refuses(&[], error);
    };
    refuses(
        "patterns = [{ name = \"CUSTOMER\", regex = \"C-(\" }]",
        "`redaction.patterns` is \"C-(\" of `CUSTOMER`: unclosed group; write a regular expression without look-around and \
         back references",
    );
    refuses(
        "patterns = [{ name = \"CUSTOMER\", regex = \"x*\" }]",
        "`redaction.patterns` is \"x*\" of `CUSTOMER`: it finds the empty text, and so is everywhere; let it find one \
         character at least",
    );
    refuses(
        "patterns = [{ name = \"CUSTOMER\", regex = '(\\w{500}){500}' }]",
        "`redaction.patterns` is \"(\\\\w{500}){500}\" of `CUSTOMER`: it takes too much memory; repeat less in it",
    );
    refuses(
        "patterns = [{ name = \"customer\", regex = \"x\" }]",
        "`redaction.patterns` is \"customer\": use capitals, digits and `_`, such as `CUSTOMER`: it stands for what is found",
    );
    refuses(
        "patterns = [{ name = \"EMAIL\", regex = \"x\" }]",
        "`redaction.patterns` is \"EMAIL\": a detector has this name; give the pattern one of its own",
    );
    refuses(
        "attributes = [\"agent.name\"]",
        "`redaction.attributes` is \"agent.name\": a match rule reads this attribute; leave it, or match by another",
    );
    refuses(
        "attributes = [\"*\"]",
        "`redaction.attributes` is \"*\": name an attribute, or its beginning and one `*` at the end",
    );
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A line's record without which set it is in and where it came from, as it stands in the line.
fn record(line: &str) -> String {
    let mut record: Value = serde_json::from_str(line).unwrap();
    let fields = record.as_object_mut().unwrap();
    fields.shift_remove("set");
    fields.shift_remove("lineage");
    record.to_string()
}

#[test]
fn the_dataset_card_tells_what_was_trained_on_with_digests_that_anybody_can_check() {
    let home = Home::ready();
    let folder = home.trains(&[]);
    let card = read_json(&folder.join("dataset.json"));
    let ended = home.run(&["extract", "--output", "records.jsonl", "--json"]);
    let digests = &ended.json()["sha256"];

    let lines = String::from_utf8(home.read("records.jsonl")).unwrap();
    let sha256 = |set: &str| {
        let of_set = lines.lines().filter(|line| line.contains(&format!(r#""set":"{set}"#)));
        let text: String = of_set.map(|line| record(line) + "\n").collect();
        hex(Sha256::digest(text))
    };
    assert_eq!(*digests, json!({ "train": sha256("train"), "held_out": sha256("held_out"), "all": sha256("") }));
    assert_eq!(card["train"]["sha256"], digests["train"]);
    assert_eq!(card["held_out"]["sha256"], digests["held_out"]);
    assert_eq!(card["sha256"], digests["all"]);
    assert_eq!(read_json(&folder.join("run.json"))["report"]["dataset_sha256"], digests["all"]);

    assert_eq!((&card["train"]["examples"], &card["held_out"]["examples"]), (&json!(54), &json!(6)));
    let counts = json!({ "approved_examples": 60, "preference_pairs": 0, "triplets": 0 });
    assert_eq!((&card["extracted"], &card["distinct"], &card["spans"]), (&counts, &counts, &json!(60)));
    assert_eq!(card["split"], json!({ "seed": 42, "held_out_share": 0.1 }));
    assert_eq!(
        (&card["first_span_at"], &card["last_span_at"]),
        (&card["last_span_at"], &json!("2025-03-03T08:01:16Z"))
    );
    assert_eq!(card["n_outputs"], 3);
    let outputs = card["outputs"].as_array().unwrap();
    for output in outputs {
        assert_eq!(output["train"].as_u64().unwrap() + output["held_out"].as_u64().unwrap(), 20);
    }
    let longest = (0..60).map(|index| query(index).chars().count()).max().unwrap();
    let of = |side: &str, what: &str| card[side]["input_characters"][what].as_u64().unwrap() as usize;
    assert_eq!(of("train", "max").max(of("held_out", "max")), longest);
    assert_eq!(card["plugins"].as_array().unwrap().len(), 3);

    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(readme.contains("\n## Data\n\n| | approved examples |"), "{readme}");
    assert!(readme.contains("\n| extracted | 60 | 0 | 0 |\n"), "{readme}");
    assert!(readme.contains(&format!("| `{}` |\n", digests["train"].as_str().unwrap())), "{readme}");
}

#[test]
fn the_same_data_has_the_same_digest_and_one_other_character_another() {
    let digest = |answer: &str| {
        let home = Home::ready();
        let mut spans: Vec<Value> = (0..60).map(|index| span(index, Verdict::Approved)).collect();
        spans[7]["attributes"]["output.value"] = json!(answer);
        // The order of a file is not that of a dataset.
        spans.reverse();
        home.write("traces.jsonl", lines(spans));
        home.run(&["extract", "--output", "records.jsonl", "--json"]).json()["sha256"]["all"].clone()
    };
    let first = digest(answer(7));
    assert_eq!(digest(answer(7)), first);
    assert_ne!(digest("calendar_agenT"), first);
}

/// 60 spans in pairs, each the same question with a word of politeness.
fn home_with_near_duplicates() -> Home {
    let home = Home::ready();
    let mut spans: Vec<Value> = (0..60).map(|index| span(index, Verdict::Approved)).collect();
    for (index, span) in spans.iter_mut().enumerate() {
        let polite = if index % 2 == 0 { "" } else { " please" };
        let topic = hex(Sha256::digest((index / 2).to_string()));
        span["attributes"]["input.value"] = json!(format!("tell me more of {topic}{polite}"));
        span["attributes"]["output.value"] = json!(answer(index / 2));
    }
    home.write("traces.jsonl", lines(spans));
    home
}

#[test]
fn near_duplicates_are_counted_kept_apart_or_dropped() {
    let home = home_with_near_duplicates();
    let near = |args: &[&str]| {
        let folder = home.trains(args);
        read_json(&folder.join("dataset.json"))["near_duplicates"]["held_out_near_training"].as_u64().unwrap()
    };
    assert!(near(&[]) > 0);
    assert_eq!(near(&["--near-duplicates", "group"]), 0);

    let extract =
        |args: &[&str]| home.run(&[&["extract", "--output", "records.jsonl", "--json"], args].concat()).json();
    assert_eq!(extract(&["--near-duplicates", "group"])["skipped"], json!({}));
    let dropped = extract(&["--near-duplicates", "drop"]);
    assert_eq!(
        (&dropped["records"], &dropped["skipped"]),
        (&json!(30), &json!({ "near-duplicate of another example": 30 }))
    );
    // 1 is the same wording but for capitals and blanks.
    let kept = extract(&["--near-duplicates", "drop", "--near-duplicate-threshold", "1"]);
    assert_eq!(kept["records"], 60);

    let ended = home.run(&["extract", "--near-duplicate-threshold", "0.5"]);
    assert_eq!(
        ended.error(),
        "`dataset.near_duplicate_threshold` is 0.5: give an overlap from 0.8 to 1: below, other questions are taken for the \
         same"
    );
}

#[test]
fn a_formatter_that_writes_one_prompt_for_different_inputs_leaks() {
    let home = Home::ready();
    home.configure("[plugins]");
    home.configure(&format!("formatter = {:?}", repository("tests/guests/dist/hostile-formatter.wasm")));
    home.configure("settings = { formatter = { behaviour = \"one-prompt\" } }");
    let leak = |error: &str| {
        let (start, end) = error.split_once("a held-out example (span `").unwrap();
        assert_eq!(start, "the formatter wrote one prompt for ");
        let (held_out, end) = end.split_once("`) and a training example (span `").unwrap();
        let (trained, end) = end.split_once("`), ").unwrap();
        assert_eq!(
            end,
            "so that the comparison with the base would be of what was learnt by heart: let it write different inputs \
             differently"
        );
        let mut known = (0..60).map(span_id);
        assert!(held_out != trained && known.clone().any(|id| id == held_out) && known.any(|id| id == trained));
    };
    for command in ["finetune", "extract"] {
        let ended = home.run(&[command]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
        leak(ended.error());
    }
    assert_eq!(home.outputs(), [""; 0]);
}

#[test]
fn a_correction_that_is_json_is_an_answer() {
    let home = Home::ready();
    let corrections = [
        (json!({ "entities": ["Paris", "Berlin"], "n": 2 }), r#"{"entities":["Paris","Berlin"],"n":2}"#),
        (json!(["Paris", "Berlin"]), r#"["Paris","Berlin"]"#),
        (json!(["Paris", 2]), r#"["Paris",2]"#),
    ];
    let spans = corrections.iter().enumerate().map(|(index, (correction, _))| {
        let mut span = span(index, Verdict::Rejected);
        span["annotations"][0]["metadata"] = json!({ "corrected_output": correction, "reviewer": { "name": "Ann" } });
        span
    });
    // Nothing was corrected by an empty one.
    let mut empty = span(3, Verdict::Rejected);
    empty["annotations"][0]["metadata"] = json!({ "corrected_output": {}, "correction": [] });
    home.write("traces.jsonl", lines(spans.chain([empty])));

    let pairs = records(&home, &["--kind", "pairs"]);
    let mut chosen: Vec<_> = pairs.iter().map(|pair| pair["chosen"].as_str().unwrap().trim()).collect();
    let mut expected = corrections.each_ref().map(|(_, expected)| *expected);
    chosen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(chosen, expected);
    assert_eq!(home.run(&["analyze", "--json"]).json()["skipped"], json!({ "rejected without a preferred answer": 1 }));
}

#[test]
fn answers_to_one_question_meet_although_one_was_asked_in_json() {
    // More spans than a batch holds, so that only what is known to be one question stays together.
    let home = Home::ready();
    let spans = (0..1500).flat_map(|index| {
        let mut plain = span(2 * index, Verdict::Approved);
        let mut json = span(2 * index + 1, Verdict::Rejected);
        plain["attributes"] = json!({ "input.value": format!("question {index}"), "output.value": "good" });
        let input = json!({ "query": format!("question {index}") }).to_string();
        json["attributes"] = json!({ "input.value": input, "output.value": "bad" });
        [plain, json]
    });
    home.write("traces.jsonl", lines(spans));
    home.configure("[plugins.settings.extractor]\ninput_key = \"query\"");
    let ended = home.run(&["analyze", "--json"]);
    assert_eq!(ended.json()["skipped"], json!({}), "{}", ended.stderr);
    // 1,500 pairs less the tenth that is held out.
    assert_eq!(ended.json()["examples"]["preference_pairs"], 1350);
}
