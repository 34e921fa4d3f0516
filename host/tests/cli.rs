//! The command line as its users meet it: exit codes, texts, and what is left on disk.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A home of its own, with a telemetry export in it.
struct Home {
    root: tempfile::TempDir,
}

/// How many spans of each kind `Home::export` writes.
#[derive(Default)]
struct Spans {
    approved: usize,
    corrected: usize,
    unjudged: usize,
}

impl Home {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunesmith"));
        command.args(args).current_dir(self.root.path()).env_clear().env("HOME", self.root.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Imports an export of routing spans.
    fn import(&self, spans: &Spans) {
        self.write("traces.jsonl", &export(spans));
        let output = self.run(&["import", "traces.jsonl"]);
        assert!(output.status.success(), "{}", stderr(&output));
    }

    /// Names in the folder of adapters.
    fn adapters(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("outputs/adapters")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn export(spans: &Spans) -> String {
    const AGENTS: [&str; 3] = ["weather_agent", "calendar_agent", "code_agent"];
    let verdict = |label: &str, metadata: Value| {
        json!([{
            "name": "human_approval", "annotator_kind": "HUMAN", "identifier": "", "metadata": metadata,
            "result": { "label": label }, "created_at": "2025-03-04T06:26:01Z", "updated_at": "2025-03-04T06:26:01Z",
        }])
    };
    let n = spans.approved + spans.corrected + spans.unjudged;
    let line = |i: usize| {
        let agent = AGENTS[i % 3];
        let annotations = if i < spans.approved {
            verdict("approved", json!({}))
        } else if i < spans.approved + spans.corrected {
            verdict("rejected", json!({ "corrected_output": AGENTS[(i + 1) % 3] }))
        } else {
            json!([])
        };
        let span = json!({
            "name": "RoutingAgent.route",
            "context": { "trace_id": format!("{i:032x}"), "span_id": format!("{i:016x}") },
            "span_kind": "AGENT", "status_code": "OK",
            "start_time": "2025-03-03T08:01:16Z", "end_time": "2025-03-03T08:01:17Z",
            "attributes": { "input.value": format!("query {i} for the {agent}"), "output.value": agent },
            "annotations": annotations,
        });
        format!("{span}\n")
    };
    (0..n).map(line).collect()
}

/// A Llama of two narrow layers.
fn base_model() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer-cuda/tests/fixtures/golden/llama_tied/base");
    path.to_str().unwrap().to_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The last line of standard error, of a run that ended with this code.
fn error_line(output: &Output, code: i32) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    text.lines().last().unwrap().to_owned()
}

#[test]
fn help_names_every_command_with_examples_and_exits_with_0() {
    let output = Home::new().run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    let commands = "finetune extract analyze import sync annotate serve review people runs mark plugins doctor";
    for command in commands.split(' ') {
        assert!(text.contains(&format!("\n  {command} ")), "{command}: {text}");
    }
    assert!(text.contains("Exit codes: 0 done, 1 the input or the machine is at fault, 2 tunesmith is,"), "{text}");
    let text = stdout(&Home::new().run(&["finetune", "--help"]));
    assert!(text.contains("[default: 2e-4]") && text.contains("Examples:"), "{text}");
}

#[test]
fn a_mistyped_flag_exits_with_1() {
    let output = Home::new().run(&["finetune", "--epoch", "3"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("a similar argument exists: '--epochs'"), "{}", stderr(&output));
}

#[test]
fn an_unknown_configuration_key_exits_with_1_and_names_file_line_and_nearest_key() {
    let home = Home::new();
    home.write("tunesmith.toml", "agent_type = \"routing\"\nbatchsize = 4\n");
    let output = home.run(&["analyze"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.starts_with("error: `tunesmith.toml`: TOML parse error at line 2, column 1"), "{text}");
    assert!(text.ends_with("did you mean `batch_size`?\n"), "{text}");
}

#[test]
fn plugins_list_tells_every_built_in_plugin() {
    let output = Home::new().run(&["plugins", "list", "--json"]);
    let list: Vec<Value> = serde_json::from_str(&stdout(&output)).unwrap();
    let names: Vec<_> = list.iter().map(|plugin| plugin["plugin"]["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "annotated-extractor",
            "alpaca-formatter",
            "prompt-completion-formatter",
            "chat-formatter",
            "threshold-policy"
        ]
    );
}

#[test]
fn doctor_looks_at_a_run_and_exits_with_1_where_something_is_lacking() {
    let home = Home::new();
    let output = home.run(&["doctor", "--agent-type", "routing", "--base-model", "no/model", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let findings: Vec<Value> = serde_json::from_str(&stdout(&output)).unwrap();
    let finding = |what: &str| findings.iter().find(|finding| finding["what"] == what).unwrap();
    assert_eq!(finding("plugins")["status"], "ok");
    assert_eq!(finding("base model")["status"], "lack");
    assert!(finding("base model")["remedy"].as_str().unwrap().starts_with("no model at `no/model`: "));
    assert!(finding("telemetry store")["remedy"].as_str().unwrap().contains("`tunesmith import FILE`"));
}

#[test]
fn a_line_that_is_no_span_is_told_with_file_and_line_and_the_rest_goes_on() {
    let home = Home::new();
    let mut lines = export(&Spans { approved: 2, ..Spans::default() });
    lines.push_str("{\"half\": \n");
    home.write("traces.jsonl", &lines);
    let output = home.run(&["import", "traces.jsonl", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("traces.jsonl:3: "), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let file = &report["files"]["traces.jsonl"];
    assert_eq!((&file["spans"]["new"], &file["rejected"]), (&json!(2), &json!(1)));
}

#[test]
fn no_approved_examples_has_the_known_text_and_a_remedy() {
    let home = Home::new();
    home.import(&Spans { unjudged: 5, ..Spans::default() });
    let output = home.run(&["finetune", "--agent-type", "routing", "--base-model", &base_model()]);
    let line = error_line(&output, 1);
    assert!(
        line.starts_with(
            "error: Cannot train with empty dataset. No training examples available after formatting. Of 5 spans of \
             `routing` in project `default` none is approved ("
        ),
        "{line}"
    );
    assert!(
        line.ends_with("label the annotation `human_approval` `approved` on good answers, or change `[extraction]`")
    );
    assert!(home.adapters().is_empty());
}

#[test]
fn too_few_approved_examples_are_told_with_the_threshold() {
    let home = Home::new();
    home.import(&Spans { approved: 30, ..Spans::default() });
    let base_model = base_model();
    let own_data = ["--generate-synthetic", "false"];
    let args = [&["finetune", "--agent-type", "routing", "--base-model", &base_model], &own_data[..]].concat();
    let line = error_line(&home.run(&[&args[..], &["--method", "sft"]].concat()), 1);
    assert!(
        line.starts_with("error: Insufficient approved examples: 25 < 50. Approve more traces of `routing`"),
        "{line}"
    );
    let line = error_line(&home.run(&args), 1);
    assert!(line.contains("Approve more traces of `routing`, or lower the threshold"), "{line}");
    assert!(home.adapters().is_empty());
}

#[test]
fn a_policy_that_chooses_dpo_gets_dpo() {
    let home = Home::new();
    home.import(&Spans { approved: 30, corrected: 40, ..Spans::default() });
    let output = home.run(&["finetune", "--agent-type", "routing", "--base-model", &base_model(), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["decision"]["method"], "dpo");
    assert_eq!(
        report["decision"]["reason"],
        "Sufficient preference pairs: 35 >= 20. Recommend DPO (more sample-efficient)."
    );
    assert!(home.adapters()[0].starts_with("dpo_routing_"), "{:?}", home.adapters());
}

#[test]
fn too_few_preference_pairs_have_the_known_text() {
    let home = Home::new();
    home.import(&Spans { corrected: 19, ..Spans::default() });
    let base_model = base_model();
    let args = ["finetune", "--agent-type", "routing", "--base-model", &base_model, "--method", "dpo"];
    let args = [&args[..], &["--generate-synthetic", "false"]].concat();
    assert_eq!(
        error_line(&home.run(&args), 1),
        "error: Insufficient preference pairs: 16 < 20. Need spans with both approved and rejected annotations. Approve \
         more traces of `routing`, or lower the threshold"
    );
    assert!(home.adapters().is_empty());
}

#[test]
fn a_missing_model_is_told_before_the_data_is_read() {
    let home = Home::new();
    let line = error_line(&home.run(&["finetune", "--agent-type", "routing", "--base-model", "nowhere"]), 1);
    assert!(line.starts_with("error: no model at `nowhere`: expected a Hugging Face folder"), "{line}");
}

#[test]
fn errors_are_json_too_where_json_is_asked_for() {
    let home = Home::new();
    let output = home.run(&["analyze", "--agent-type", "routing", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(error["error"].as_str().unwrap().starts_with("no telemetry store at `"), "{error}");
}

#[test]
fn a_run_that_diverges_leaves_no_adapter_folder() {
    let home = Home::new();
    home.import(&Spans { approved: 60, ..Spans::default() });
    let args = ["finetune", "--agent-type", "routing", "--base-model", &base_model(), "--learning-rate", "1e30"];
    let line = error_line(&home.run(&args), 1);
    assert!(line.contains("is not finite at step"), "{line}");
    assert!(home.adapters().is_empty(), "{:?}", home.adapters());
}

#[test]
fn an_interrupted_run_leaves_a_checkpoint_and_says_how_to_go_on() {
    let home = Home::new();
    home.import(&Spans { approved: 60, ..Spans::default() });
    let child = home
        .command(&["finetune", "--agent-type", "routing", "--base-model", &base_model(), "--epochs", "5000"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The folder appears, under its temporary name, just before training.
    let deadline = Instant::now() + Duration::from_secs(60);
    while home.adapters().is_empty() {
        assert!(Instant::now() < deadline, "the run did not come to its training");
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: a plain system call on a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }, 0);
    let line = error_line(&child.wait_with_output().unwrap(), 1);
    let [folder] = &home.adapters()[..] else { panic!("{:?}", home.adapters()) };
    assert!(folder.starts_with(".sft_routing_") && folder.contains(".unfinished-"), "{folder}");
    assert_eq!(
        line,
        format!(
            "error: interrupted: the training so far is in `outputs/adapters/{folder}`; the same command with `--resume` \
             goes on from there"
        )
    );
}

#[test]
fn a_run_leaves_a_whole_folder_with_the_lineage_of_every_example() {
    let home = Home::new();
    home.import(&Spans { approved: 60, corrected: 10, unjudged: 4 });
    let config = format!(
        "agent_type = \"routing\"\nmethod = \"sft\"\nbase_model = {:?}\nepochs = 2\nlearning_rate = 1e-3\n",
        base_model()
    );
    home.write("tunesmith.toml", &config);
    let output = home.run(&["finetune", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    // 70 approved: a tenth is held out.
    assert_eq!((&report["n_train"], &report["n_held_out"]), (&json!(63), &json!(7)));
    assert_eq!(report["held_out"]["base"]["n_examples"], 7);

    let folder = home.path(report["adapter_path"].as_str().unwrap());
    for file in ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md", "metrics.jsonl"] {
        assert!(folder.join(file).is_file(), "{file}");
    }
    assert_eq!(home.adapters(), [folder.file_name().unwrap().to_str().unwrap()]);
    // 16 batches of 4 in each of two epochs, and a scoring after each.
    assert_eq!(std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap().lines().count(), 2 * 16 + 2);

    let run: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("run.json")).unwrap()).unwrap();
    let lineage = run["lineage"].as_array().unwrap();
    let of = |set: &str| lineage.iter().filter(|example| example["set"] == set).count();
    assert_eq!((of("train"), of("held_out")), (63, 7));
    assert_eq!(lineage.iter().filter(|example| example["corrected"] == true).count(), 10);
    assert!(lineage.iter().all(|example| example["annotation_names"] == json!(["human_approval"])));
    assert_eq!(run["plugins"][1]["name"], "alpaca-formatter");
    assert_eq!(run["config"]["training"]["epochs"], 2);
    assert_eq!(run["base_sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn the_same_run_gives_the_same_adapter() {
    let adapter = || {
        let home = Home::new();
        home.import(&Spans { approved: 60, ..Spans::default() });
        let output = home.run(&["finetune", "--agent-type", "routing", "--base-model", &base_model(), "--epochs", "1"]);
        assert!(output.status.success(), "{}", stderr(&output));
        std::fs::read(home.path("outputs/adapters").join(&home.adapters()[0]).join("adapter_model.safetensors"))
            .unwrap()
    };
    assert!(adapter() == adapter());
}

#[test]
fn extract_writes_records_to_standard_output_and_the_table_beside_it() {
    let home = Home::new();
    home.import(&Spans { approved: 2, unjudged: 3, ..Spans::default() });
    let output = home.run(&["extract", "--agent-type", "routing"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["text"].as_str().unwrap().starts_with("### Instruction:\n")));
    assert!(lines.iter().all(|line| line["lineage"]["span_ids"].as_array().unwrap().len() == 1));
    assert!(stderr(&output).contains("2 records from 5 spans"), "{}", stderr(&output));
}

#[test]
fn another_formatter_by_one_line_of_configuration_changes_the_records() {
    let home = Home::new();
    home.import(&Spans { approved: 2, ..Spans::default() });
    home.write("tunesmith.toml", "agent_type = \"routing\"\nplugins.formatter = \"prompt-completion-formatter\"\n");
    let output = home.run(&["extract", "--output", "records.jsonl", "--json"]);
    let summary: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(summary["records"], 2);
    let records = std::fs::read_to_string(home.path("records.jsonl")).unwrap();
    let record: Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    assert!(record["completion"].as_str().unwrap().ends_with("_agent"), "{record}");
    assert!(record.get("text").is_none());
}

#[test]
fn analyze_counts_what_would_train() {
    let home = Home::new();
    home.import(&Spans { approved: 60, corrected: 10, unjudged: 5 });
    let output = home.run(&["analyze", "--agent-type", "routing", "--json"]);
    let analysis: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(analysis["spans"], 75);
    // 70 approved less 7 held out; 10 pairs less 2.
    assert_eq!(analysis["examples"], json!({ "approved_examples": 63, "preference_pairs": 8, "triplets": 0 }));
    assert_eq!(analysis["decision"]["method"], "sft");
}
