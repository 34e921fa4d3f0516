//! With `--json`, standard output is one JSON value and nothing else.

use serde_json::json;

use crate::home::Home;

#[test]
fn every_command_answers_in_json() {
    let home = Home::ready();
    let answer = |args: &[&str]| {
        let ended = home.run(&[args, &["--json"]].concat());
        assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
        ended.json()
    };
    assert_eq!(answer(&["import", "traces.jsonl"])["projects"][0]["spans"], 60);
    assert_eq!(answer(&["analyze"])["examples"]["approved_examples"], 54);
    let mut extracted = answer(&["extract", "--output", "records.jsonl"]);
    let digests = extracted.as_object_mut().unwrap().remove("sha256").unwrap();
    assert_eq!(extracted, json!({ "records": 60, "spans": 60, "skipped": {}, "redacted": {} }));
    assert_eq!(digests.as_object().unwrap().keys().collect::<Vec<_>>(), ["train", "held_out", "all"]);
    assert_eq!(answer(&["plugins", "list"]).as_array().unwrap().len(), 5);
    let findings = answer(&["doctor"]);
    assert!(findings.as_array().unwrap().iter().all(|finding| finding["status"] != "lack"), "{findings:#}");
    let report = answer(&["finetune"]);
    assert_eq!((&report["n_train"], &report["n_held_out"]), (&json!(54), &json!(6)));
    assert!(home.path(report["adapter_path"].as_str().unwrap()).is_dir());
}

#[test]
fn a_failed_run_answers_in_json_too() {
    let ended = Home::ready().run(&["finetune", "--base-model", "nowhere", "--json"]);
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.json(), json!({ "error": ended.error() }));
}
