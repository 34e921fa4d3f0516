//! Who a plugin is and what it gets: manifests, pins, signatures, and the table that tells.

use std::fs;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::home::{Home, repository};

/// Of a tenant's own formatter; more keys can follow.
const MANIFEST: &str = r#"name = "terse"
version = "1.2.0"
kind = "formatter"
wit = "0.1"
description = "Q and A"
agent_types = ["routing"]
"#;

fn terse() -> Vec<u8> {
    fs::read(repository("tests/guests/dist/terse-formatter.wasm")).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A run whose formatter is `p/ours.wasm`, with a manifest.
fn home(manifest: &str) -> Home {
    let home = Home::ready();
    fs::create_dir(home.path("p")).unwrap();
    home.write("p/ours.wasm", terse());
    home.write("p/plugin.toml", manifest);
    home.configure("[plugins]\nformatter = \"p/ours.wasm\"");
    home
}

/// The same, signed by the key in `plugins.key`, and that key as it is trusted.
fn signed_home() -> (Home, String) {
    let home = home(MANIFEST);
    let keygen = home.run(&["plugins", "keygen", "--out", "plugins.key", "--json"]);
    assert_eq!(keygen.code, Some(0), "{}", keygen.stderr);
    sign(&home, "p/ours.wasm");
    let key = keygen.json()["public_key"].as_str().unwrap().to_owned();
    (home, key)
}

#[track_caller]
fn sign(home: &Home, component: &str) {
    let ended = home.run(&["plugins", "sign", "--key", "plugins.key", component]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

/// The formatter's row of the table, and the exit code.
fn explained(home: &Home, args: &[&str]) -> (Value, Option<i32>) {
    let ended = home.run(&[&["plugins", "explain", "--json"], args].concat());
    (ended.json()["plugins"][1].clone(), ended.code)
}

#[test]
fn a_plugin_that_is_what_its_pin_says_serves_and_another_does_not() {
    let home = home(MANIFEST);
    let pinned = |digest: &str| format!("p/ours.wasm@sha256:{digest}");
    let right = sha256(&terse());
    let ended = home.run(&["extract", "--formatter", &pinned(&right)]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("\"prompt\":\"Q: "), "{}", ended.stdout);

    let wrong = "0".repeat(64);
    home.refuses(
        &["--formatter", &pinned(&wrong)],
        &format!(
            "plugin `p/ours.wasm` is not the one that is pinned: its component is sha256:{right}, its pin says \
             sha256:{wrong}; put the pinned file back, or pin the new one if the change is meant"
        ),
    );
    home.refuses(
        &["--formatter", &pinned(&right[..12])],
        &format!(
            "`formatter`: `sha256:{}` is no SHA-256: give `sha256:` and all 64 hexadecimal digits, as `sha256sum` prints \
             them",
            &right[..12]
        ),
    );
}

#[test]
fn a_built_in_plugin_can_be_pinned_too() {
    let home = Home::ready();
    let list = home.run(&["plugins", "list", "--json"]).json();
    let policy = list.as_array().unwrap().iter().find(|entry| entry["plugin"]["kind"] == "policy").unwrap();
    let digest = policy["plugin"]["sha256"].as_str().unwrap();
    let pinned = format!("threshold-policy@sha256:{digest}");
    let row =
        |pinned: &str| home.run(&["plugins", "explain", "--policy", pinned, "--json"]).json()["plugins"][2].clone();
    assert_eq!(row(&pinned)["problems"], json!([]));
    assert_eq!(row(&pinned)["pin"], digest);
    let moved = format!("threshold-policy@sha256:{}", "1".repeat(64));
    assert!(row(&moved)["problems"][0].as_str().unwrap().contains("is not the one that is pinned"));
}

#[test]
fn a_key_is_its_owners_alone_and_is_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let (home, key) = signed_home();
    assert_eq!(fs::metadata(home.path("plugins.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(key.starts_with("ed25519:") && key.len() == 52, "{key}");
    let before = home.read("plugins.key");
    home.fails(
        &["plugins", "keygen", "--out", "plugins.key"],
        "cannot write `plugins.key` (File exists (os error 17)); name a file that is not there yet, in a folder that you \
         may write to",
    );
    assert_eq!(home.read("plugins.key"), before);
}

#[test]
fn what_can_not_be_signed_is_told() {
    let (home, _) = signed_home();
    home.fails(
        &["plugins", "sign", "--key", "none.key", "p/ours.wasm"],
        "cannot read `none.key` (No such file or directory (os error 2)); name the key's file with `--key`",
    );
    home.fails(
        &["plugins", "sign", "--key", "p/plugin.toml", "p/ours.wasm"],
        "`p/plugin.toml` is no ed25519 key in PKCS#8; make one with `tunesmith plugins keygen --out FILE`",
    );
    home.write("bare.wasm", terse());
    home.fails(
        &["plugins", "sign", "--key", "plugins.key", "bare.wasm"],
        "`bare.wasm` has no manifest; write `plugin.toml` beside it, and sign both",
    );
}

#[test]
fn a_signed_plugin_serves_and_its_signer_is_told() {
    let (home, key) = signed_home();
    let (row, code) = explained(&home, &[]);
    assert_eq!((&row["found"]["signer"], &row["problems"], code), (&json!(key), &json!([]), Some(0)));
    let check = home.run(&["plugins", "check", "p/ours.wasm", "--json"]);
    assert_eq!((&check.json()["component"]["signer"], check.code), (&json!(key), Some(0)), "{}", check.stdout);
    let run: Value = serde_json::from_slice(&fs::read(home.trains(&[]).join("run.json")).unwrap()).unwrap();
    assert_eq!((&run["plugins"][1]["name"], &run["plugins"][1]["signer"]), (&json!("terse"), &json!(key)));
}

#[track_caller]
fn refuses_what_was_changed(home: &Home, plugin: &str, key: &str) {
    home.refuses(
        &[],
        &format!(
            "plugin `{plugin}` is not what {key} signed: its component, its manifest or its signature was changed or \
             swapped; get all three again from its maker, or sign it anew"
        ),
    );
}

#[test]
fn a_component_that_was_changed_after_it_was_signed() {
    let (home, key) = signed_home();
    home.write("p/ours.wasm", fs::read(repository("tests/guests/dist/hostile-formatter.wasm")).unwrap());
    refuses_what_was_changed(&home, "terse", &key);
    sign(&home, "p/ours.wasm");
    assert_eq!(explained(&home, &[]).1, Some(0));
}

#[test]
fn a_manifest_that_was_changed_after_it_was_signed() {
    let (home, key) = signed_home();
    // A comment is enough: the bytes are signed, not what they mean.
    home.write("p/plugin.toml", format!("{MANIFEST}# harmless\n"));
    refuses_what_was_changed(&home, "terse", &key);
    home.write("p/plugin.toml", MANIFEST.replace("1.2.0", "1.3.0"));
    refuses_what_was_changed(&home, "terse", &key);
}

#[test]
fn the_signature_of_another_plugin() {
    let (home, key) = signed_home();
    fs::create_dir(home.path("q")).unwrap();
    home.write("q/other.wasm", terse());
    home.write("q/plugin.toml", MANIFEST.replace("terse", "other"));
    sign(&home, "q/other.wasm");
    fs::copy(home.path("q/other.wasm.sig"), home.path("p/ours.wasm.sig")).unwrap();
    refuses_what_was_changed(&home, "terse", &key);
}

#[test]
fn a_signature_that_is_none_and_one_whose_manifest_is_gone() {
    let (home, _) = signed_home();
    let signature = String::from_utf8(home.read("p/ours.wasm.sig")).unwrap();
    home.write("p/ours.wasm.sig", "signed, honestly\n");
    let path = "p/ours.wasm.sig";
    home.refuses(
        &[],
        &format!(
            "`{path}` is no signature, which is one line, `ed25519 KEY SIGNATURE`; copy it again, or sign the plugin with \
             `tunesmith plugins sign`"
        ),
    );
    home.write("p/ours.wasm.sig", signature);
    fs::remove_file(home.path("p/plugin.toml")).unwrap();
    home.refuses(
        &[],
        &format!("`{path}` signs a manifest that is not there; put the plugin's `plugin.toml` back beside it"),
    );
}

#[test]
fn settings_for_a_plugin_that_takes_none() {
    let home = home(MANIFEST);
    home.configure("[plugins.settings.formatter]\nlines = 3");
    home.refuses(
        &[],
        "plugin `terse` takes no settings, and is given `lines`; add \"settings\" to `wants` in its `plugin.toml`, or \
         leave them out",
    );
    home.write("p/plugin.toml", format!("{MANIFEST}wants = [\"settings\"]\n"));
    assert_eq!(explained(&home, &[]).1, Some(0));
}

#[test]
fn limits_are_those_configured_else_those_asked_for_else_the_defaults() {
    let home = home(&format!("{MANIFEST}[limits]\ndeadline_ms = 9000\noutput_mib = 1\n"));
    let limits = |args: &[&str]| explained(&home, args).0["found"]["limits"].clone();
    let of = |limits: &Value| {
        (limits["deadline"]["secs"].clone(), limits["memory_bytes"].clone(), limits["output_bytes"].clone())
    };
    assert_eq!(of(&limits(&[])), (json!(9), json!(64 << 20), json!(1 << 20)));
    let configured = ["--plugin-deadline-ms", "2000", "--plugin-memory-mib", "8"];
    assert_eq!(of(&limits(&configured)), (json!(2), json!(8 << 20), json!(1 << 20)));
}

#[test]
fn the_table_tells_who_decided() {
    let home = home(&format!("{MANIFEST}wants = [\"settings\", \"log\"]\n"));
    home.configure("[agents.routing]\npolicy = \"threshold-policy\"");
    let decided = |args: &[&str]| {
        let explained = home.run(&[&["plugins", "explain", "--json"], args].concat()).json();
        [0, 1, 2].map(|index| explained["plugins"][index]["decided"].clone())
    };
    let file = |key: &str| json!({ "by": "file", "path": "tunesmith.toml", "key": key });
    assert_eq!(decided(&[]), [json!({ "by": "default" }), file("plugins.formatter"), file("agents.routing.policy")]);
    assert_eq!(
        decided(&["--policy", "threshold-policy", "--extractor", "annotated-extractor"]),
        [
            json!({ "by": "flag", "name": "--extractor" }),
            file("plugins.formatter"),
            json!({ "by": "flag", "name": "--policy" })
        ]
    );
    let mut command = home.command(&["plugins", "explain", "--json"]);
    command.env("TUNESMITH_FORMATTER", "chat-formatter");
    let explained = crate::home::run(command).json();
    assert_eq!(explained["plugins"][1]["decided"], json!({ "by": "environment", "name": "TUNESMITH_FORMATTER" }));
    assert_eq!(explained["plugins"][1]["found"]["name"], "chat-formatter");
}

#[test]
fn the_table_is_for_people_too() {
    let home = home(MANIFEST);
    let ended = home.run(&["plugins", "explain", "--tenant", "acme"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let digest = sha256(&terse());
    for want in [
        "tenant acme, agent type routing\n",
        "p/ours.wasm",
        "plugins.formatter in tunesmith.toml",
        &digest[..12],
        "terse 1.2.0",
    ] {
        assert!(ended.stdout.contains(want), "{want} is not in:\n{}", ended.stdout);
    }
    assert!(ended.stdout.ends_with("\nall three may serve\n"), "{}", ended.stdout);
}

#[test]
fn every_problem_of_every_plugin_is_told_at_once() {
    let home = home(&MANIFEST.replace("0.1\"", "0.2.0\"").replace("formatter", "policy"));
    home.write("p/ours.wasm", "no component");
    let pinned = format!("p/ours.wasm@sha256:{}", "0".repeat(64));
    let ended = home.run(&["plugins", "explain", "--formatter", &pinned, "--policy", "none.wasm"]);
    assert_eq!(ended.code, Some(1));
    let (_, problems) = ended.stdout.split_once("\n\nformatter: ").unwrap();
    let lines: Vec<_> = problems.lines().collect();
    assert_eq!(lines.len(), 5, "{problems}");
    assert!(lines[0].starts_with("plugin `p/ours.wasm` is not the one that is pinned: "), "{problems}");
    assert_eq!(
        lines[1..3],
        [
            "formatter: plugin `terse` does not fit this run: its manifest says policy, but it is configured as the \
             formatter",
            "formatter: plugin `terse` does not fit this run: it was built against WIT 0.2.0; this host speaks 0.1.1: \
             update tunesmith, or rebuild it",
        ]
    );
    assert!(lines[3].starts_with("formatter: plugin `terse` is not a WebAssembly component: "), "{problems}");
    assert_eq!(
        lines[4],
        "policy: cannot read plugin `none.wasm` (No such file or directory (os error 2)); name a `.wasm` file, or a \
         built-in plugin"
    );
}

/// A box with one tenant, `acme`, whose formatter is `p/ours.wasm` with this manifest, under these terms.
fn box_of_acme(manifest: &str, terms: &str) -> Home {
    let home = Home::empty();
    fs::create_dir_all(home.path("tenants/acme/p")).unwrap();
    home.write("operator.toml", format!("tenants_dir = \"tenants\"\n[tenants.acme.plugins]\n{terms}"));
    home.write("tenants/acme/p/ours.wasm", terse());
    home.write("tenants/acme/p/plugin.toml", manifest);
    home.write("tenants/acme/tunesmith.toml", "agent_type = \"routing\"\n[plugins]\nformatter = \"p/ours.wasm\"\n");
    home
}

/// `plugins explain` for `acme`: the rows, and the exit code.
fn explained_to_acme(home: &Home, args: &[&str]) -> (Vec<Value>, Option<i32>) {
    let mut command = home.command(&[&["plugins", "explain", "--json", "--tenant-id", "acme"], args].concat());
    command.current_dir(home.path("tenants/acme")).env("TUNESMITH_OPERATOR", home.path("operator.toml"));
    let ended = crate::home::run(command);
    let rows = ended.json()["plugins"].as_array().unwrap_or_else(|| panic!("{}", ended.stderr)).clone();
    (rows, ended.code)
}

fn problems(row: &Value) -> Vec<String> {
    row["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_want_that_the_operator_does_not_grant_is_refused_with_its_key() {
    let manifest = format!("{MANIFEST}wants = [\"log\", \"wasi\"]\n");
    let home = box_of_acme(&manifest, "wants = [\"settings\", \"wasi\"]\n");
    let (rows, code) = explained_to_acme(&home, &[]);
    assert_eq!(code, Some(1));
    assert_eq!(rows[1]["found"]["wants"], json!({ "asked": ["log", "wasi"], "granted": ["wasi"] }));
    assert_eq!(
        problems(&rows[1]),
        ["plugin `terse` wants `log`, which tenant `acme` is not granted; add \"log\" to `wants` in \
          `[tenants.acme.plugins]` or `[defaults.plugins]` of the operator's file, or use another plugin"]
    );
    // A run refuses it with the same words.
    let mut command = home.command(&["extract", "--tenant-id", "acme"]);
    command.current_dir(home.path("tenants/acme")).env("TUNESMITH_OPERATOR", home.path("operator.toml"));
    let ended = crate::home::run(command);
    assert_eq!((ended.code, ended.error()), (Some(1), problems(&rows[1])[0].as_str()));
}

#[test]
fn limits_are_the_lesser_of_what_is_asked_and_what_is_granted() {
    let manifest = format!("{MANIFEST}[limits]\ndeadline_ms = 9000\nmemory_mib = 8\nlog_kib = 4\n");
    let terms = "max_deadline_ms = 1000\nmax_memory_mib = 32\nmax_fuel = 1000000\nmax_log_kib = 1\n";
    let (rows, code) = explained_to_acme(&box_of_acme(&manifest, terms), &["--plugin-output-mib", "2"]);
    assert_eq!(code, Some(0), "{rows:?}");
    let limits = |row: usize| {
        let limits = &rows[row]["found"]["limits"];
        ["memory_bytes", "output_bytes", "fuel", "log_bytes"].map(|key| limits[key].as_u64().unwrap())
    };
    assert_eq!(limits(1), [8 << 20, 2 << 20, 1_000_000, 1 << 10]);
    // A built-in plugin is held to the grants as any other.
    assert_eq!(limits(0), [32 << 20, 2 << 20, 1_000_000, 1 << 10]);
    assert_eq!(rows[1]["found"]["limits"]["deadline"], json!({ "secs": 1, "nanos": 0 }));
}

#[test]
fn a_tenant_that_has_to_sign_and_pin_is_held_to_both() {
    let home = box_of_acme(MANIFEST, "");
    let keygen = |file: &str| home.run(&["plugins", "keygen", "--out", file, "--json"]).json()["public_key"].clone();
    let (ours, other) = (keygen("plugins.key"), keygen("other.key"));
    let trust = |key: &Value| {
        let terms = format!("require_pin = true\nrequire_signature = true\ntrusted_keys = [{key}]\n");
        home.write("operator.toml", format!("tenants_dir = \"tenants\"\n[tenants.acme.plugins]\n{terms}"));
    };
    trust(&ours);
    let (rows, code) = explained_to_acme(&home, &[]);
    assert_eq!(code, Some(1));
    let told = problems(&rows[1]);
    let path = home.path("tenants/acme/p/ours.wasm").canonicalize().unwrap();
    assert_eq!(
        told,
        [
            format!(
                "plugin `{0}` is not pinned, as every plugin of tenant `acme` has to be; name it `{0}@sha256:{1}`",
                path.display(),
                sha256(&terse())
            ),
            "plugin `terse` is not signed, as every plugin of tenant `acme` has to be; put its maker's `.wasm.sig` beside \
             it, or sign it with `tunesmith plugins sign`"
                .to_owned()
        ]
    );
    assert_eq!((problems(&rows[0]).len(), problems(&rows[2]).len()), (0, 0));

    sign(&home, "tenants/acme/p/ours.wasm");
    let pinned = format!("p/ours.wasm@sha256:{}", sha256(&terse()));
    let (rows, code) = explained_to_acme(&home, &["--formatter", &pinned]);
    assert_eq!((code, &rows[1]["found"]["signer"]), (Some(0), &ours), "{rows:?}");

    trust(&other);
    let (rows, _) = explained_to_acme(&home, &["--formatter", &pinned]);
    assert_eq!(
        problems(&rows[1]),
        [format!(
            "plugin `terse` is signed by {}, whom tenant `acme` does not trust; add the key to `trusted_keys` in \
             `[tenants.acme.plugins]` or `[defaults.plugins]` of the operator's file if you do",
            ours.as_str().unwrap()
        )]
    );
}
