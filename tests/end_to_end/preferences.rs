//! Preference pairs: corrections of a routing agent's answers train by DPO.

use std::fs;

use serde_json::{Value, json};

use crate::home::{Home, read_json, repository};
use crate::spans::{Verdict, lines, span};

/// 60 spans whose answers were corrected: as many pairs, of which 6 are held out.
fn corrected() -> Home {
    let home = Home::ready();
    home.write("traces.jsonl", lines((0..60).map(|index| span(index, Verdict::Corrected("archive_agent")))));
    home
}

/// A template in the shape of ChatML, for the tiny model's own special tokens.
pub(crate) const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
                      '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}\
                      {% endif %}";

#[test]
fn corrections_train_by_dpo_and_are_judged_on_held_out_pairs() {
    let home = corrected();
    let folder = home.trains(&["--method", "dpo", "--epochs", "3", "--learning-rate", "1e-3"]);
    assert!(folder.file_name().unwrap().to_str().unwrap().starts_with("dpo_routing_"), "{folder:?}");
    let run = read_json(&folder.join("run.json"));
    let report = &run["report"];
    assert_eq!((&report["n_train"], &report["n_held_out"]), (&json!(54), &json!(6)));
    assert_eq!(report["decision"]["reason"], "asked for by `method = \"dpo\"`, with 54 preference pairs");

    // The reference is the base: by definition.
    let base = &report["held_out"]["base"];
    assert_eq!(base["loss"], std::f64::consts::LN_2);
    assert_eq!((&base["reward_accuracy"], &base["reward_margin"]), (&json!(0.0), &json!(0.0)));
    // Every correction is the same agent, which 42 steps at 1e-3 teach: measured loss 0.0065, margin 5.0.
    let adapter = &report["held_out"]["adapter"];
    assert_eq!(adapter["reward_accuracy"], 1.0);
    assert!(adapter["loss"].as_f64().unwrap() < 0.1, "{adapter}");
    assert!(adapter["reward_margin"].as_f64().unwrap() > 2.0, "{adapter}");
    assert_eq!(run["verdict"], "adapter beats base");

    let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let events: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 3 * 14 + 3);
    // A fresh adapter is the base: 1e-6 is what sums in f32 over other batches come to.
    assert!((events[0]["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-6, "{}", events[0]);
    let figures = ["reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward"];
    assert!(events.iter().all(|event| figures.iter().all(|figure| event[figure].is_f64())), "{}", events[1]);
    let last = &events[events.len() - 1];
    assert_eq!((&last["event"], &last["loss"]), (&json!("evaluation"), &adapter["loss"]));

    let card = fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card.contains("trained by Tunesmith (direct preference optimisation)"), "{card}");
    assert!(card.contains("| | loss | reward accuracy | reward margin |"), "{card}");
    assert!(!folder.join("checkpoint").exists());
}

#[test]
fn the_report_has_the_figures_of_the_method() {
    let ended = corrected().run(&["finetune", "--method", "dpo"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let header = " held out    loss  reward accuracy  reward margin  chosen reward  rejected reward";
    assert!(ended.stdout.contains(header), "{}", ended.stdout);
    let base = " base      0.6931             0.0%         0.0000         0.0000           0.0000";
    assert!(ended.stdout.contains(base), "{}", ended.stdout);
}

#[test]
fn pairs_train_in_the_form_of_the_models_chat_template() {
    let home = corrected();
    home.write("model/chat_template.jinja", CHATML);
    let args = ["--method", "dpo", "--formatter", "chat-formatter"];
    let chat = read_json(&home.trains(&args).join("run.json"));
    assert_eq!(chat["plugins"][1]["name"], "chat-formatter");
    assert_eq!(chat["report"]["n_train"], 54);
    // Both forms have the same answers: as many labels, up to how the template's line break is merged.
    let extracted = home.run(&["extract", "--kind", "pairs", "--formatter", "chat-formatter"]);
    let line: Value = serde_json::from_str(extracted.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(line["prompt"][0]["role"], "system");
    assert_eq!(line["prompt"][1]["role"], "user");
    assert_eq!(line["chosen"], json!([{ "role": "assistant", "content": "archive_agent" }]));
}

#[test]
fn a_chat_formatter_and_a_model_without_a_chat_template() {
    corrected().refuses(
        &["--method", "dpo", "--formatter", "chat-formatter"],
        "cannot encode example 0: the model has no chat template; use the alpaca or prompt-completion format",
    );
}

#[test]
fn pairs_whose_sides_are_equal_are_left_out_and_named() {
    let home = corrected();
    let guest = repository("tests/guests/dist/hostile-formatter.wasm");
    home.configure(&format!("plugins = {{ formatter = {guest:?}, settings.formatter.behaviour = \"equal-sides\" }}"));
    let ended = home.run(&["finetune", "--method", "dpo"]);
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.error(),
        "Cannot train with empty dataset. No training examples available after formatting. All were left out (chosen \
         equals rejected: 54): change the formatter, or raise `max_length`"
    );
    assert_eq!(ended.stderr.matches("WARN Skipping identical pair for span 0000").count(), 54, "{}", ended.stderr);
    assert_eq!(home.outputs(), [""; 0]);
}

#[test]
fn a_formatter_that_gives_no_pairs_for_dpo() {
    let home = corrected();
    let guest = repository("tests/guests/dist/hostile-formatter.wasm");
    home.configure(&format!("plugins = {{ formatter = {guest:?}, settings.formatter.behaviour = \"missing-field\" }}"));
    home.refuses(
        &["--method", "dpo"],
        "Invalid DPO dataset at index 0: missing required fields ['chosen', 'rejected']. Expected fields: ['prompt', \
         'chosen', 'rejected'], got: ['prompt', 'completion']",
    );
}
