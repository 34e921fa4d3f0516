//! A tenant's own formatter takes the default's place by one line of configuration.

use serde_json::{Value, json};

use crate::home::{Ended, Home, read_json, repository};
use crate::spans::{answer, query, span_id};

/// The record of span 0 among those that `extract` writes to standard output.
fn record_of_span_0(ended: &Ended) -> Value {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut records = ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut record = records.find(|record| record["lineage"]["span_ids"] == json!([span_id(0)])).unwrap();
    // Which side of the split it is on is the seed's choice.
    record.as_object_mut().unwrap().remove("set");
    record
}

fn home_with_a_tenants_formatter() -> Home {
    let home = Home::ready();
    home.configure("[plugins]");
    home.configure(&format!("formatter = {:?}", repository("tests/guests/dist/terse-formatter.wasm")));
    home
}

#[test]
fn one_line_of_configuration_changes_the_records() {
    let lineage = json!({
        "span_ids": [span_id(0)], "trace_id": format!("{:032x}", 0), "session_id": null,
        "annotation_names": ["human_approval"],
    });
    let prompt = format!(
        "### Instruction:\nRoute the following query to the appropriate agent\n### Input:\n{}\n### Response:\n",
        query(0)
    );
    assert_eq!(
        record_of_span_0(&Home::ready().run(&["extract"])),
        json!({ "text": format!("{prompt}{}", answer(0)), "response_start": prompt.len(), "lineage": lineage })
    );
    assert_eq!(
        record_of_span_0(&home_with_a_tenants_formatter().run(&["extract"])),
        json!({ "prompt": "Q: query 0 for the weather_agent\nA:", "completion": " weather_agent", "lineage": lineage })
    );
}

#[test]
fn a_run_says_whose_formatter_made_its_records() {
    let run = read_json(&home_with_a_tenants_formatter().trains(&[]).join("run.json"));
    let formatter = &run["plugins"][1];
    assert_eq!(
        (&formatter["name"], &formatter["kind"], &formatter["version"]),
        (&json!("terse-formatter"), &json!("formatter"), &json!("unversioned"))
    );
    assert!(formatter["origin"].as_str().unwrap().ends_with("tests/guests/dist/terse-formatter.wasm"), "{formatter}");
    let costs = &formatter["costs"];
    // One call for each side of the split.
    assert_eq!(costs["calls"], 2, "{costs}");
    assert!(
        costs["total"]["wall_s"].as_f64() > Some(0.0) && costs["max"]["memory_bytes"].as_u64() > Some(0),
        "{costs}"
    );
    // Of a prompt and its completion, the completion alone carries loss: 60 answers and their end are few tokens.
    let labels = run["report"]["held_out"]["base"]["n_labels"].as_u64().unwrap();
    let whole = read_json(&Home::ready().trains(&[]).join("run.json"));
    assert!(labels < whole["report"]["held_out"]["base"]["n_labels"].as_u64().unwrap() / 3, "{labels}");
}
