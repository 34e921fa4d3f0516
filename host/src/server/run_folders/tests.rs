use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const NAME: &str = "sft_routing_20261126_084403";

fn step(step: usize) -> String {
    let event = json!({
        "event": "step", "step": step, "total_steps": 3, "epoch": 0.5, "loss": 1.0 / step as f64, "grad_norm": 0.25,
        "learning_rate": 0.5, "n_tokens": 1, "n_tokens_flat": 1, "n_labels": 1, "step_ms": 2.0,
    });
    format!("{event}\n")
}

fn evaluation(step: usize) -> String {
    let event = json!({
        "event": "evaluation", "step": step, "epoch": 1.0, "best": true, "loss": 0.5, "n_examples": 4, "n_labels": 8,
        "exact_match": 0.75,
    });
    format!("{event}\n")
}

fn record() -> Value {
    json!({
        "versions": { "tunesmith": "0.1.0", "wit": "0.1.1" },
        "report": {
            "project": "quickstart", "agent_type": "routing", "decision": { "method": "sft", "reason": "Enough." },
            "base_model": "base", "device": "cpu", "spans": 419, "skipped": { "empty input": 1, "no verdict": 26 },
            "redacted": { "email": 3 }, "n_train": 2, "n_held_out": 4, "dataset_sha256": "e989",
            "held_out": {
                "base": { "loss": 0.75, "n_examples": 4, "n_labels": 8, "exact_match": 0.25 },
                "adapter": { "loss": 0.5, "n_examples": 4, "n_labels": 8, "exact_match": 0.75 },
                "adapter_beats_base": true,
            },
            "final_train_loss": 0.25, "steps": 3, "timings": { "total_s": 4.5 }, "tokens_per_second": 100.0,
        },
        "verdict": "adapter beats base",
        "config": { "training": { "epochs": 6 } },
        "base_sha256": "5de4",
        "plugins": [{
            "name": "annotated-extractor", "version": "0.1.0", "kind": "extractor", "origin": "built-in",
            "sha256": "9223", "signer": null, "costs": { "calls": 2, "total": { "wall_s": 0.5 } },
        }],
        "lineage": [
            {
                "set": "train", "corrected": true, "span_ids": ["25b0"], "trace_id": "9780", "session_id": "s",
                "annotation_names": ["human_approval"],
            },
            {
                "set": "train", "corrected": false, "span_ids": ["25b0"], "trace_id": "9780", "synthetic": true,
                "approval": {
                    "item": 7, "content_sha256": "ab", "approved_by": "anna", "approved_at_ms": 1_764_146_643_000_i64,
                    "edited": true, "generator": "templates", "model": null,
                },
            },
        ],
    })
}

fn finished(root: &TempDir, name: &str) {
    let folder = root.path().join(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("run.json"), serde_json::to_string_pretty(&record()).unwrap()).unwrap();
    fs::write(folder.join("metrics.jsonl"), [step(1), step(2), evaluation(2), step(3)].concat()).unwrap();
}

fn unfinished(root: &TempDir, name: &str) -> std::path::PathBuf {
    let folder = root.path().join(format!(".{name}.unfinished-Ab3dE6"));
    fs::create_dir(&folder).unwrap();
    folder
}

fn names(page: &RunPage) -> Vec<&str> {
    page.runs.iter().map(|run| run.name.as_str()).collect()
}

#[test]
fn runs_are_listed_newest_first_in_pages_that_outlive_a_removal() {
    let root = tempfile::tempdir().unwrap();
    let runs = RunFolders::new(root.path());
    assert_eq!(RunFolders::new(&root.path().join("not there")).page(None, 2).total, 0);
    for name in ["sft_routing_20261126_084403", "sft_routing_20261126_084403_2", "dpo_a_b_20261127_000000"] {
        finished(&root, name);
    }
    unfinished(&root, "embedding_video_20261125_120000");
    for other in ["checkpoints", ".hidden", "sft_routing_2026_084403", "20261126_084403"] {
        fs::create_dir(root.path().join(other)).unwrap();
    }
    let first = runs.page(None, 2);
    assert_eq!(names(&first), ["dpo_a_b_20261127_000000", "sft_routing_20261126_084403_2"]);
    assert_eq!((first.next.as_deref(), first.total), (Some("sft_routing_20261126_084403_2"), 4));
    fs::remove_dir_all(root.path().join("sft_routing_20261126_084403_2")).unwrap();
    let last = runs.page(first.next.as_deref(), 2);
    assert_eq!(names(&last), ["sft_routing_20261126_084403", "embedding_video_20261125_120000"]);
    assert_eq!((last.next, last.total), (None, 3));
    assert_eq!(names(&runs.adapters(None, 9)), ["dpo_a_b_20261127_000000", "sft_routing_20261126_084403"]);
}

#[test]
fn a_finished_run_tells_its_scores_and_its_beginning_is_enough_for_a_list() {
    let root = tempfile::tempdir().unwrap();
    finished(&root, NAME);
    // Nothing behind the verdict is looked at: here it is no JSON.
    let path = root.path().join(NAME).join("run.json");
    let text = fs::read_to_string(&path).unwrap();
    let (head, _) = text.split_once("\"config\"").unwrap();
    fs::write(&path, format!("{head}\"config\": }}{}", "x".repeat(1 << 20))).unwrap();

    let run = RunFolders::new(root.path()).page(None, 9).runs.remove(0);
    assert_eq!((run.state, run.problem), (RunState::Finished, None));
    assert_eq!((run.method.as_str(), run.agent_type.as_str()), ("sft", "routing"));
    assert_eq!(run.started.as_deref(), Some("2026-11-26T08:44:03Z"));
    assert_eq!((run.verdict.as_deref(), run.adapter_beats_base), (Some("adapter beats base"), Some(true)));
    assert_eq!((run.n_train, run.n_held_out, run.steps, run.total_steps), (Some(2), Some(4), Some(3), None));
    let (base, adapter) = (run.base.unwrap(), run.adapter.unwrap());
    assert_eq!((base.loss, base.accuracy()), (0.75, 0.25));
    assert_eq!((adapter.loss, adapter.accuracy()), (0.5, 0.75));
}

#[test]
fn a_run_tells_what_it_learnt_from_and_who_approved_what_was_generated() {
    let root = tempfile::tempdir().unwrap();
    finished(&root, NAME);
    let run = RunFolders::new(root.path()).details(NAME).unwrap();
    assert_eq!(run.problems, [""; 0]);
    assert_eq!(
        run.metrics.steps.iter().map(|it| (it.step, it.loss)).collect::<Vec<_>>(),
        [(1, 1.0), (2, 0.5), (3, 1.0 / 3.0)]
    );
    assert_eq!(run.metrics.evaluations, [EvaluationPoint { step: 2, loss: 0.5, accuracy: 0.75, best: true }]);
    let count = |what: &str, count| Count { what: what.to_owned(), count };
    assert_eq!(run.skipped, [count("empty input", 1), count("no verdict", 26)]);
    assert_eq!(run.redacted, [count("email", 3)]);
    assert_eq!((run.plugins[0].name.as_str(), run.plugins[0].calls), ("annotated-extractor", Some(2)));
    assert!(run.lineage[0].corrected && run.lineage[0].synthetic.is_none());
    let anna = Synthetic {
        item: Some(7),
        approved_by: Some("anna".to_owned()),
        approved_at_ms: Some(1_764_146_643_000),
        edited: true,
        generator: Some("templates".to_owned()),
    };
    assert_eq!(run.lineage[1].synthetic, Some(anna));
    assert_eq!(run.config["training"]["epochs"], 6);
}

#[test]
fn what_cannot_be_read_is_told_beside_what_could() {
    let root = tempfile::tempdir().unwrap();
    let runs = RunFolders::new(root.path());
    finished(&root, NAME);
    let folder = root.path().join(NAME);
    fs::write(folder.join("metrics.jsonl"), step(1) + "{\"event\":\"unheard\"}\nnot json\n" + &step(2)).unwrap();
    fs::write(folder.join("run.json"), "{\"report\": {\"agent_").unwrap();
    let run = runs.details(NAME).unwrap();
    assert_eq!(
        run.problems,
        [
            "`run.json` is not whole (EOF while parsing a string at line 1 column 19)",
            "2 lines of `metrics.jsonl` are no events"
        ]
    );
    assert_eq!((run.metrics.steps.len(), run.summary.agent_type.as_str()), (2, "routing"));
    let listed = runs.page(None, 1).runs.remove(0);
    assert_eq!(
        listed.problem.as_deref(),
        Some("`run.json` is not whole (EOF while parsing a string at line 1 column 19)")
    );

    for wrong in [
        "null",
        "[]",
        "3",
        "{}",
        "{\"report\": 1}",
        "{\"report\": {\"held_out\": 5, \"n_train\": \"x\"}}",
        "\"\\ud800\"",
    ] {
        fs::write(folder.join("run.json"), wrong).unwrap();
        let (listed, run) = (runs.page(None, 1).runs.remove(0), runs.details(NAME).unwrap());
        assert_eq!((listed.n_train, run.summary.n_train), (None, None), "{wrong}");
    }
    fs::remove_file(folder.join("run.json")).unwrap();
    let problems = runs.details(NAME).unwrap().problems;
    assert_eq!(problems[0], "`run.json` can't be read (No such file or directory (os error 2))");
}

#[test]
fn nothing_outside_the_folder_is_reached() {
    let root = tempfile::tempdir().unwrap();
    let (own, other) = (root.path().join("own"), root.path().join("other"));
    fs::create_dir_all(&own).unwrap();
    fs::create_dir_all(other.join(NAME)).unwrap();
    fs::write(other.join(NAME).join("run.json"), record().to_string()).unwrap();
    let runs = RunFolders::new(&own);
    for name in [
        &format!("../other/{NAME}"),
        "..",
        ".",
        "",
        "/",
        &format!("{NAME}/"),
        &format!("{NAME}\0"),
        "a_20261126_084403/..",
    ] {
        assert_eq!(runs.find(name), None, "{name:?}");
    }
    symlink(other.join(NAME), own.join(NAME)).unwrap();
    assert_eq!((runs.page(None, 9).total, runs.find(NAME)), (0, None));
    fs::remove_file(own.join(NAME)).unwrap();

    fs::create_dir(own.join(NAME)).unwrap();
    symlink(other.join(NAME).join("run.json"), own.join(NAME).join("run.json")).unwrap();
    let run = runs.details(NAME).unwrap();
    assert_eq!(run.summary.n_train, None);
    assert!(
        run.problems[0].starts_with("`run.json` can't be read (Too many levels of symbolic links"),
        "{:?}",
        run.problems
    );
}

#[test]
fn a_run_trains_while_its_folder_is_locked_and_grows_a_line_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let runs = RunFolders::new(root.path());
    let folder = unfinished(&root, NAME);
    let lock = File::open(&folder).unwrap();
    lock.lock().unwrap();
    let mut metrics = File::create(folder.join("metrics.jsonl")).unwrap();
    let mut tail = Tail::new();
    assert!(!tail.read(&folder).unwrap());

    metrics.write_all((step(1) + &step(2)[..9]).as_bytes()).unwrap();
    assert!(tail.read(&folder).unwrap());
    assert!(!tail.read(&folder).unwrap());
    assert_eq!(tail.series().steps.len(), 1);
    let listed = runs.page(None, 1).runs.remove(0);
    assert_eq!((listed.name.as_str(), listed.state), (NAME, RunState::Training));
    assert_eq!((listed.steps, listed.total_steps, listed.last_loss), (Some(1), Some(3), Some(1.0)));
    let run = runs.details(NAME).unwrap();
    assert_eq!((run.summary.steps, run.summary.total_steps, run.problems), (Some(1), Some(3), vec![]));

    // Another process finishes a line, and gives the folder its name.
    metrics.write_all((step(2)[9..].to_owned() + &evaluation(2)).as_bytes()).unwrap();
    fs::rename(&folder, root.path().join(NAME)).unwrap();
    assert!(tail.read(&folder).unwrap());
    assert_eq!((tail.series().steps.len(), tail.series().evaluations.len()), (2, 1));
    drop(lock);
    assert_eq!(runs.find(NAME).unwrap().state(), RunState::Finished);
}

#[test]
fn a_run_that_was_stopped_is_told_from_one_that_trains() {
    let root = tempfile::tempdir().unwrap();
    let folder = unfinished(&root, NAME);
    assert_eq!(RunFolders::new(root.path()).page(None, 1).runs[0].state, RunState::Stopped);
    // Nobody is kept from taking it up.
    assert!(File::open(&folder).unwrap().try_lock().is_ok());
    finished(&root, NAME);
    let both = RunFolders::new(root.path()).page(None, 9);
    assert_eq!(names(&both), [&format!("{NAME}.unfinished-Ab3dE6"), NAME]);
    assert_eq!(RunFolders::new(root.path()).details(&both.runs[0].name).unwrap().summary.state, RunState::Stopped);
}

#[test]
fn a_resumed_run_starts_over_at_its_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let folder = unfinished(&root, NAME);
    let path = folder.join("metrics.jsonl");
    fs::write(&path, [step(1), step(2), evaluation(2), step(3)].concat()).unwrap();
    let mut tail = Tail::new();
    tail.read(&folder).unwrap();
    fs::write(folder.join("new"), [step(1), "{\"event\":\"resumed\",\"step\":1}\n".to_owned(), step(2)].concat())
        .unwrap();
    fs::rename(folder.join("new"), &path).unwrap();
    assert!(tail.read(&folder).unwrap());
    let steps: Vec<_> = tail.series().steps.iter().map(|point| point.step).collect();
    assert_eq!((steps, tail.series().evaluations.len()), (vec![1, 2], 0));
}
