//! Agents whose input is a conversation: the base model's template renders it, and every assistant turn is trained.

use serde_json::{Value, json};

use crate::home::{Home, read_json};
use crate::preferences::CHATML;
use crate::spans::{Verdict, lines, span};

/// 60 approved spans whose input has an answered turn before the one that was approved.
fn home() -> Home {
    let home = Home::ready();
    let conversation = |index: usize| {
        let mut span = span(index, Verdict::Approved);
        let query = span["attributes"]["input.value"].clone();
        let turns = json!([
            { "role": "user", "content": "who answers questions about code" },
            { "role": "assistant", "content": "code_agent" },
            { "role": "user", "content": query },
        ]);
        span["attributes"]["input.value"] = json!({ "messages": turns }).to_string().into();
        span
    };
    home.write("traces.jsonl", lines((0..60).map(conversation)));
    home.write("model/chat_template.jinja", CHATML);
    home
}

#[test]
fn every_assistant_turn_of_a_conversation_is_trained() {
    let n_labels = |home: &Home| -> u64 {
        let folder = home.trains(&["--formatter", "chat-formatter"]);
        let run = read_json(&folder.join("run.json"));
        assert_eq!((&run["report"]["n_train"], &run["report"]["n_held_out"]), (&json!(54), &json!(6)));
        run["report"]["held_out"]["base"]["n_labels"].as_u64().unwrap()
    };
    let single = Home::ready();
    single.write("model/chat_template.jinja", CHATML);
    // The earlier answer is as long in each of the 6 held-out conversations: `code_agent` and the turn's end.
    let more = n_labels(&home()) - n_labels(&single);
    assert!(more >= 6 * 2 && more.is_multiple_of(6), "{more}");
}

#[test]
fn extract_shows_the_turns() {
    let ended = home().run(&["extract", "--formatter", "chat-formatter"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let line: Value = serde_json::from_str(ended.stdout.lines().next().unwrap()).unwrap();
    let roles: Vec<_> = line["messages"].as_array().unwrap().iter().map(|turn| turn["role"].clone()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
}

#[test]
fn a_template_whose_tokens_the_tokenizer_lacks() {
    let home = home();
    home.write("model/chat_template.jinja", CHATML.replace("<|im_start|>", "<|start|>"));
    home.refuses(
        &["--formatter", "chat-formatter"],
        "cannot encode example 0: the chat template writes `<|start|>`, which is no token of the tokenizer; use the \
         tokenizer that the template was made for",
    );
}

#[test]
fn a_sequence_that_is_longer_than_the_models_positions() {
    let home = Home::ready();
    let mut long = span(0, Verdict::Approved);
    long["attributes"]["input.value"] = "code ".repeat(600).into();
    home.write("traces.jsonl", lines((1..60).map(|index| span(index, Verdict::Approved)).chain([long])));
    let ended = home.run(&["finetune"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let error = ended.error();
    assert!(error.starts_with("an example of "), "{error}");
    assert!(error.ends_with(" tokens is longer than the model's 512 positions; lower `max_length`"), "{error}");
    assert_eq!(home.outputs(), [""; 0]);
    // As it says: then that example is left out, and counted.
    let report = home.run(&["finetune", "--max-length", "512", "--json"]).json();
    assert_eq!(report["skipped"]["longer than max_length"], 1);
}
