//! Plugins that are none, that want what they may not have, and that do not do their work.

use std::fs;

use serde_json::Value;

use crate::home::{Home, repository};

/// A run whose formatter is the hostile guest, which behaves as it is told.
fn hostile(behaviour: &str) -> Home {
    let home = Home::ready();
    let guest = repository("tests/guests/dist/hostile-formatter.wasm");
    // 300 ms: the call that spins costs that much, the others end before it.
    home.configure(&format!(
        "plugins = {{ formatter = {guest:?}, deadline_ms = 300, settings.formatter.behaviour = \"{behaviour}\" }}"
    ));
    home
}

/// The fault of the hostile guest's first call.
fn refuses_call(behaviour: &str, fault: &str) {
    hostile(behaviour)
        .refuses(&[], &format!("plugin `hostile-formatter` of tenant `default`, call `format` of batch 1: {fault}"));
}

/// A run with these bytes as its formatter, `mine.wasm`.
fn refuses_bytes(bytes: &[u8], error: &str) {
    let home = Home::ready();
    home.write("mine.wasm", bytes);
    home.refuses(&["--formatter", "mine.wasm"], error);
}

#[test]
fn a_plugin_file_that_is_not_there() {
    Home::ready().refuses(
        &["--formatter", "mine.wasm"],
        "cannot read plugin `mine.wasm` (No such file or directory (os error 2)); name a `.wasm` file, or a built-in \
         plugin",
    );
}

#[test]
fn a_plugin_name_that_is_not_built_in() {
    Home::ready().refuses(
        &["--formatter", "terse-formatter"],
        "no built-in formatter is called `terse-formatter`; built in: `alpaca-formatter`, \
         `prompt-completion-formatter`, `chat-formatter`; a plugin of your own is named by the path of its `.wasm` file",
    );
}

#[test]
fn a_text_file() {
    refuses_bytes(
        b"def format(examples): ...\n",
        "plugin `mine` is not a WebAssembly component: it does not start with `\\0asm`; build it as a component (core \
         module + `wit-component`), not as a plain module",
    );
}

#[test]
fn a_core_module() {
    refuses_bytes(
        b"\0asm\x01\0\0\0",
        "plugin `mine` is not a WebAssembly component: it is a core module; build it as a component (core module + \
         `wit-component`), not as a plain module",
    );
}

#[test]
fn a_component_that_is_cut_off() {
    let whole = fs::read(repository("tests/guests/dist/terse-formatter.wasm")).unwrap();
    let home = Home::ready();
    home.write("mine.wasm", &whole[..5000]);
    let ended = home.run(&["finetune", "--formatter", "mine.wasm"]);
    assert_eq!(ended.code, Some(1));
    let error = ended.error();
    // The offsets between the two are the compiler's.
    let start = "plugin `mine` does not fit this run: it does not compile: failed to parse WebAssembly module: ";
    assert!(error.starts_with(start), "{error}");
    assert!(error.ends_with("is out of bounds (bound = 5000); build or copy it again"), "{error}");
    assert_eq!(home.outputs(), [""; 0]);
}

#[test]
fn a_policy_in_the_formatters_place() {
    let policy = repository("plugins/dist/threshold-policy.wasm");
    Home::ready().refuses(
        &["--formatter", policy.to_str().unwrap()],
        "plugin `threshold-policy` does not export `tunesmith:plugin/formatting@0.1.1`, which every formatter must; it \
         exports: `tunesmith:plugin/selection-policy@0.1.1`; name another plugin, or build it for the world `formatter`",
    );
}

#[test]
fn a_plugin_that_imports_the_network() {
    let guest = repository("tests/guests/dist/importing-formatter.wasm");
    Home::ready().refuses(
        &["--formatter", guest.to_str().unwrap()],
        "plugin `importing-formatter` imports `tenant:reach/http`, and plugins get no imports (no files, network, clock \
         or environment); build it for `wasm32-unknown-unknown`, or stub WASI out",
    );
}

#[test]
fn a_plugin_that_refuses_an_example_is_told_with_the_span_behind_it() {
    // The first of the training set, as `extract` lists it.
    let records = Home::ready().run(&["extract"]).stdout;
    let first: Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    assert_eq!(first["set"], "train");
    let span = first["lineage"]["span_ids"][0].as_str().unwrap();
    refuses_call("refuse", &format!("the plugin refused item 0 of the batch: refused on purpose (span `{span}`)"));
}

#[test]
fn a_plugin_that_refuses_its_configuration() {
    refuses_call("dance", "the plugin refused its configuration: no behaviour `dance`");
}

#[test]
fn a_record_without_a_field_has_the_known_text() {
    hostile("missing-field").refuses(
        &[],
        "Invalid SFT dataset at index 5: missing required fields ['completion']. Expected fields: ['prompt', \
         'completion'], got: ['prompt']",
    );
}

#[test]
fn a_plugin_that_skips_every_example() {
    hostile("skip-all").refuses(
        &[],
        "Cannot train with empty dataset. No training examples available after formatting. All were left out (skipped \
         on purpose: 54): change the formatter, or raise `max_length`",
    );
}
