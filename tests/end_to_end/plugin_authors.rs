//! `plugins check`, `plugins test` and `plugins new`: what authors of plugins work with.

use std::fs;

use serde_json::{Value, json};

use crate::home::{Home, repository};

fn guest(name: &str) -> String {
    repository("tests/guests/dist").join(name).with_extension("wasm").to_str().unwrap().to_owned()
}

/// A guest of the tests with its manifest beside it, in this home.
fn bring(home: &Home, name: &str) -> String {
    fs::copy(guest(name), home.path(&format!("{name}.wasm"))).unwrap();
    fs::copy(repository("tests/guests").join(name).join("plugin.toml"), home.path("plugin.toml")).unwrap();
    format!("{name}.wasm")
}

/// A fixture of one instruction example, with these settings.
fn fixture(name: &str, settings: Value) -> String {
    let lineage = json!({ "span_ids": ["a"], "trace_id": "b", "session_id": null, "annotation_names": [] });
    let example = json!({ "instruction": "i", "input": "q", "output": "a", "corrected": false, "lineage": lineage });
    let config = json!({ "agent_type": "routing", "settings": settings });
    format!("{}\n", json!({ "name": name, "config": config, "examples": [{ "Instruction": example }] }))
}

#[test]
fn the_default_plugins_keep_the_contract_of_their_kind() {
    let home = Home::empty();
    for plugin in
        ["annotated-extractor", "alpaca-formatter", "prompt-completion-formatter", "chat-formatter", "threshold-policy"]
    {
        let ended = home.run(&["plugins", "test", plugin, "--json"]);
        let report = ended.json();
        assert_eq!((ended.code, &report["passed"]), (Some(0), &json!(true)), "{report:#}");
        assert!(report["contract"].as_array().unwrap().len() >= 8);
        for run in report["fixtures"].as_array().unwrap() {
            assert!(run["fuel"].as_u64().unwrap() > 100 && run["memory_bytes"].as_u64().unwrap() > 0, "{run}");
        }
    }
}

#[test]
fn a_hostile_plugin_fails_the_check_that_it_breaks() {
    let home = Home::empty();
    let ended = home.run(&["plugins", "test", &guest("hostile-formatter"), "--setting", "behaviour=too-few"]);
    assert_eq!(ended.code, Some(1));
    for line in [
        "FAILED a triplet: plugin `hostile-formatter`, call `format` of batch 1: handed back invalid output: 0 results for 1 examples; fix the plugin, or use another",
        "FAILED each kind and text is formatted, left out, or refused with an error of the plugin's own: plugin `hostile-formatter`, call `format` of batch 1: handed back invalid output: 0 results for 1 examples",
        "hostile-formatter did not pass",
    ] {
        assert!(ended.stdout.lines().any(|found| found.starts_with(line)), "{line}\n{}", ended.stdout);
    }
    let failed = |behaviour: &str| {
        let setting = format!("behaviour={behaviour}");
        let report =
            home.run(&["plugins", "test", &guest("hostile-formatter"), "--setting", &setting, "--json"]).json();
        let checks = report["contract"].as_array().unwrap().iter();
        let failed =
            checks.filter(|check| !check["failure"].is_null()).map(|check| check["check"].as_str().unwrap().to_owned());
        failed.collect::<Vec<_>>()
    };
    assert_eq!(failed("skip-all"), ["records of ordinary examples are fit to train"]);
    assert_eq!(failed("empty-text").first().unwrap(), "records of ordinary examples are fit to train");
}

#[test]
fn outputs_are_compared_with_expectations_down_to_the_first_difference() {
    let home = Home::empty();
    home.write("calls.jsonl", fixture("one", json!([])));
    let args = ["plugins", "test", "alpaca-formatter", "--fixtures", "calls.jsonl", "--expect", "expected.jsonl"];
    let written = home.run(&[&args[..], &["--update"]].concat());
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    let expected = String::from_utf8(home.read("expected.jsonl")).unwrap();
    let text = "### Instruction:\\ni\\n### Input:\\nq\\n### Response:\\na\"";
    assert!(
        expected.starts_with(r#"{"name":"one","output":[{"Ready":{"Text":{"#) && expected.contains(text),
        "{expected}"
    );
    assert_eq!(home.run(&args).code, Some(0));

    home.write("expected.jsonl", expected.replace("Response:\\na", "Response:\\nb"));
    let ended = home.run(&args);
    assert_eq!(ended.code, Some(1));
    let difference = r#"FAILED one: not as expected: [0].Ready.Text.text: from character 46 on, expected "Response:\nb", got "Response:\na""#;
    assert!(ended.stdout.contains(difference), "{}", ended.stdout);

    home.write("calls.jsonl", fixture("another", json!([])));
    let ended = home.run(&args);
    assert!(
        ended
            .stdout
            .contains("FAILED another: the file of `--expect` has nothing under this name; write it with `--update`"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_component_is_told_with_everything_that_keeps_it_from_loading() {
    let home = Home::empty();
    let ended = home.run(&["plugins", "check", &bring(&home, "terse-formatter"), "--json"]);
    let report = ended.json();
    assert_eq!(
        (ended.code, &report["loads"], &report["component"]["kind"]),
        (Some(0), &json!(true), &json!("formatter"))
    );

    // Another kind, and an import that it does not ask for.
    home.write(
        "plugin.toml",
        "name = \"other\"\nversion = \"1\"\nkind = \"policy\"\nwit = \"0.1.1\"\ndescription = \"d\"\nagent_types = [\"*\"]\n",
    );
    fs::copy(guest("logging-formatter"), home.path("mine.wasm")).unwrap();
    let ended = home.run(&["plugins", "check", "mine.wasm"]);
    assert_eq!(ended.code, Some(1));
    for line in [
        "problem: it imports `tunesmith:plugin/log@0.1.1`, and does not ask for it; write `wants = [\"log\"]` in its `plugin.toml`",
        "problem: its `plugin.toml` says policy, and it exports the interface of a formatter; write `kind = \"formatter\"`",
        "note: `plugin.toml` calls it `other`, its file `mine`",
    ] {
        assert!(ended.stdout.lines().any(|found| found == line), "{line}\n{}", ended.stdout);
    }

    home.write("mine.wasm", "no component");
    let ended = home.run(&["plugins", "check", "mine.wasm"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.contains("problem: plugin `mine` is not a WebAssembly component: it does not start with"));
    let ended = home.run(&["plugins", "check", "nowhere.wasm"]);
    assert_eq!(
        (ended.code, ended.error()),
        (Some(1), "cannot read `nowhere.wasm`: No such file or directory (os error 2)")
    );
}

#[test]
fn an_earlier_patch_of_the_contract_loads() {
    let frozen = repository("tests/guests/frozen/0.1.0/alpaca-formatter/alpaca-formatter.wasm");
    let ended = Home::empty().run(&["plugins", "check", frozen.to_str().unwrap(), "--json"]);
    let report = ended.json();
    assert_eq!((ended.code, &report["component"]["wit"]), (Some(0), &json!("0.1.0")), "{report:#}");
}

#[test]
fn wasi_has_no_power_and_is_the_same_in_every_call() {
    let home = Home::empty();
    let plugin = bring(&home, "wasi-formatter");
    home.write("calls.jsonl", fixture("seen", json!([])));
    let args =
        ["plugins", "test", &plugin, "--fixtures", "calls.jsonl", "--expect", "seen.jsonl", "--update", "--json"];
    let report = home.run(&args).json();
    // It ran twice, and a third time for the example alone.
    assert_eq!(report["fixtures"][0]["failure"], Value::Null, "{report:#}");
    let seen: Value = serde_json::from_slice(&home.read("seen.jsonl")).unwrap();
    assert_eq!(
        seen["output"][0]["Skipped"],
        "environment 0, arguments 0, folder None, files 0, written true, wall 1767225600, monotonic 0 0, random \
         16294208416658607535 [244, 79, 236]"
    );
}

#[test]
fn wasi_that_reaches_out_ends_the_call_with_the_functions_name() {
    let home = Home::empty();
    let plugin = bring(&home, "wasi-formatter");
    for (reach, why) in [
        (
            "socket",
            "it called `wasi:sockets/tcp-create-socket#create-tcp-socket`, and WASI is without power here: no files, network or processes",
        ),
        ("random", "it asked for 1099511627776 random bytes at once, more than 65536"),
    ] {
        home.write("calls.jsonl", fixture(reach, json!([["reach", reach]])));
        let ended = home.run(&["plugins", "test", &plugin, "--fixtures", "calls.jsonl"]);
        assert_eq!(ended.code, Some(1));
        let line = format!(
            "FAILED {reach}: plugin `wasi-formatter`, call `format` of batch 1: trapped: {why}; fix the plugin, or use another"
        );
        assert!(ended.stdout.lines().any(|found| found == line), "{line}\n{}", ended.stdout);
    }
}

#[test]
fn wasi_that_was_not_asked_for_is_refused_with_both_remedies() {
    let plugin = repository("tests/guests/dist/wasi-formatter.wasm");
    Home::ready().refuses(
        &["--formatter", plugin.to_str().unwrap()],
        "plugin `wasi-formatter` imports `wasi:cli/environment@0.2.6`, which it was not granted; its `plugin.toml` has to say \
         `wants = [\"wasi\"]`, and the operator to grant `wasi`; or build it with WASI stubbed out",
    );
}

#[test]
fn a_scaffold_is_a_folder_that_is_not_there_yet() {
    let home = Home::empty();
    let ended = home.run(&["plugins", "new", "policy", "ours", "--lang", "python"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(home.path("ours/plugin.py").is_file() && home.path("ours/wit/policy.wit").is_file());
    assert!(ended.stdout.contains("tunesmith plugins test dist/ours.wasm"), "{}", ended.stdout);
    let refused = |args: &[&str]| home.run(args).error().to_owned();
    assert_eq!(
        refused(&["plugins", "new", "policy", "ours", "--lang", "python"]),
        "`ours` is there and not empty; name another folder with `--dir`"
    );
    assert_eq!(
        refused(&["plugins", "new", "extractor", "theirs", "--lang", "js"]),
        "there is no extractor in js to start from; extractor plugins can start in `rust`, `python`"
    );
}
