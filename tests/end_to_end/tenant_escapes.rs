//! Two tenants on one box: whatever tenant `acme` names, sends, configures or links, nothing of tenant `beta` is read, changed
//! or told of, and `acme`'s own work goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;

use clap::CommandFactory;
use clap::builder::ValueParser;
use sha2::{Digest, Sha256};
use tunesmith::cli::Cli;

use crate::home::{Ended, Home, copy_folder, golden, repository, run, tiny_model};
use crate::serving::{JSON, PROTOBUF, Serving, otlp_protobuf, post, stored_in};
use crate::spans::{Verdict, lines, otlp, span, span_id};

/// In everything of `beta`'s: no word of an answer to `acme` may have it.
const SECRET: &str = "secret-of-beta";

const CONFIG: &str = "agent_type = \"routing\"\nmethod = \"sft\"\nepochs = 1\nbase_model = \"../../models/base\"\n";

/// A box whose tenants have a store each; `beta` has everything that a tenant may have.
struct Box_ {
    home: Home,
}

impl Box_ {
    fn new() -> Self {
        let home = Home::empty();
        for folder in ["tenants/acme", "tenants/beta/outputs/adapters", "models", "libraries"] {
            fs::create_dir_all(home.path(folder)).unwrap();
        }
        home.write(
            "operator.toml",
            "tenants_dir = \"tenants\"\nshared_dirs = [\"models\"]\n[tenants.acme]\n[tenants.beta]\n",
        );
        copy_folder(&tiny_model(), &home.path("models/base"));
        home.write("tenants/acme/tunesmith.toml", CONFIG);
        home.write("tenants/acme/traces.jsonl", lines((0..60).map(|index| span(index, Verdict::Approved))));

        let beta = home.path("tenants/beta");
        copy_folder(&tiny_model(), &beta.join("model"));
        copy_folder(&golden("llama_tied/adapter_init"), &beta.join("adapter"));
        fs::copy(repository("tests/guests/dist/terse-formatter.wasm"), beta.join("plugin.wasm")).unwrap();
        for file in ["tunesmith.toml", "key", "plugin.toml", "records.jsonl", "token"] {
            fs::write(beta.join(file), format!("{SECRET} = 1\n")).unwrap();
        }
        let secret = |index| {
            let mut span = span(index, Verdict::Approved);
            span["attributes"]["input.value"] = format!("{SECRET} {index}").into();
            span
        };
        fs::write(beta.join("traces.jsonl"), lines((100..160).map(secret))).unwrap();
        let box_ = Self { home };
        fs::remove_file(beta.join("tunesmith.toml")).unwrap();
        let filled = box_.run_for("beta", &["import", "../beta/traces.jsonl", "--project", "project-of-beta"]);
        assert_eq!(filled.code, Some(0), "{}", filled.stderr);
        fs::write(beta.join("tunesmith.toml"), format!("{SECRET} = 1\n")).unwrap();
        box_.home.write("tenants/beta/plugin.toml", format!("{SECRET} = 1\n"));
        box_
    }

    fn acme(&self, path: &str) -> PathBuf {
        self.home.path("tenants/acme").join(path)
    }

    /// A command for a tenant, in `acme`'s folder.
    fn command_for(&self, tenant: &str, args: &[&str]) -> Command {
        let mut command = self.home.command(args);
        command.current_dir(self.acme("")).env("TUNESMITH_OPERATOR", self.home.path("operator.toml"));
        command.env("TUNESMITH_TENANT_ID", tenant);
        command
    }

    fn run_for(&self, tenant: &str, args: &[&str]) -> Ended {
        run(self.command_for(tenant, args))
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> Ended {
        let ended = self.run_for("acme", args);
        assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
        assert!(!(ended.stdout.clone() + &ended.stderr).contains(SECRET), "{args:?}: {}{}", ended.stdout, ended.stderr);
        ended
    }

    /// `acme` is refused, with a text in which `wanted` is, and learns nothing.
    #[track_caller]
    fn refuses(&self, command: Command, wanted: &str) {
        let told = format!("{command:?}");
        let ended = run(command);
        assert_eq!(ended.code, Some(1), "{told}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.error().contains(wanted), "{told}: {}", ended.stderr);
        for secret in [SECRET, "project-of-beta"] {
            assert!(
                !(ended.stdout.clone() + &ended.stderr).contains(secret),
                "{told}: {}{}",
                ended.stdout,
                ended.stderr
            );
        }
    }

    /// Digests of all that `beta` has.
    fn of_beta(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        digests(&self.home.path("tenants/beta"), &mut files);
        files
    }
}

fn digests(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            digests(&path, files);
            files.insert(path, Vec::new());
        } else {
            files.insert(path.clone(), Sha256::digest(fs::read(path).unwrap()).to_vec());
        }
    }
}

/// What `acme` may not do with the path of a flag.
const OUT_OF_REACH: &str = "tenant `acme` may not";

/// The commands that take a run's configuration, and each of its flags that takes a path, with what of `beta`'s it is tried with.
const OF_RUNS: [&str; 8] =
    ["finetune", "extract", "analyze", "doctor", "plan", "gpus list", "gpus recommend", "plugins explain"];
const PATHS_OF_RUNS: [(&str, &str); 11] = [
    ("--config", "tunesmith.toml"),
    ("--store", "telemetry.sqlite"),
    ("--import", "traces.jsonl"),
    ("--output-dir", "outputs/adapters"),
    ("--base-model", "model"),
    ("--phoenix-api-key-file", "key"),
    ("--cuda-libs", "adapter"),
    ("--approvals", "approvals.sqlite"),
    ("--people", "people.toml"),
    ("--synthetic-api-key-file", "key"),
    ("--remote-program", "key"),
];

/// The commands that take the record of a job, and their flags.
const OF_JOBS: [&str; 7] = [
    "jobs list",
    "jobs show one",
    "jobs logs one",
    "jobs wait one",
    "jobs cancel one",
    "jobs remove one",
    "jobs fetch one --out new",
];
const PATHS_OF_JOBS: [(&str, &str); 4] = [
    ("--store", "telemetry.sqlite"),
    ("--config", "tunesmith.toml"),
    ("--approvals", "approvals.sqlite"),
    ("--people", "people.toml"),
];

/// Every other flag and argument that takes a path, in a command that `acme` could give; `{}` is the path, and the name behind it
/// is what of `beta`'s it is tried with.
const PATHS: &[(&str, &str, &str)] = &[
    ("extract --output", "extract --output {}", "records.jsonl"),
    ("train --out", "train --job own/job.json --out {}", "new"),
    ("jobs fetch --out", "jobs fetch one --out {}", "new"),
    ("review --approvals", "review list --approvals {}", "approvals.sqlite"),
    ("review --store", "review list --store {}", "telemetry.sqlite"),
    ("review --config", "review list --config {}", "tunesmith.toml"),
    ("review edit --from", "review edit 1-00000000 --from {}", "records.jsonl"),
    ("review export --output", "review export --output {}", "new.jsonl"),
    ("review push --phoenix-api-key-file", "review push --phoenix-api-key-file {}", "key"),
    ("review poll --phoenix-api-key-file", "review poll --phoenix-api-key-file {}", "key"),
    ("review restore --journal", "review restore --approvals new.sqlite --journal {}", "records.jsonl"),
    ("runs list --store", "runs list --store {}", "telemetry.sqlite"),
    ("runs list --config", "runs list --config {}", "tunesmith.toml"),
    ("runs list --approvals", "runs list --approvals {}", "approvals.sqlite"),
    ("runs list --people", "runs list --people {}", "people.toml"),
    ("runs show --store", "runs show one --store {}", "telemetry.sqlite"),
    ("runs show --config", "runs show one --config {}", "tunesmith.toml"),
    ("runs show --approvals", "runs show one --approvals {}", "approvals.sqlite"),
    ("runs show --people", "runs show one --people {}", "people.toml"),
    ("runs resume --store", "runs resume one --store {}", "telemetry.sqlite"),
    ("runs resume --config", "runs resume one --config {}", "tunesmith.toml"),
    ("runs resume --approvals", "runs resume one --approvals {}", "approvals.sqlite"),
    ("runs resume --people", "runs resume one --people {}", "people.toml"),
    ("import files", "import {}", "traces.jsonl"),
    ("import --store", "import traces.jsonl --store {}", "telemetry.sqlite"),
    ("import --config", "import traces.jsonl --config {}", "tunesmith.toml"),
    ("sync --phoenix-api-key-file", "sync --phoenix-url http://127.0.0.1:9 --phoenix-api-key-file {}", "key"),
    ("sync --store", "sync --phoenix-url http://127.0.0.1:9 --store {}", "telemetry.sqlite"),
    ("sync --config", "sync --phoenix-url http://127.0.0.1:9 --config {}", "tunesmith.toml"),
    ("annotate --store", "annotate 0000000000000064 --label approved --store {}", "telemetry.sqlite"),
    ("annotate --config", "annotate 0000000000000064 --label approved --config {}", "tunesmith.toml"),
    ("prune --store", "prune --before 2030-01-01T00:00:00Z --store {}", "telemetry.sqlite"),
    ("prune --config", "prune --before 2030-01-01T00:00:00Z --config {}", "tunesmith.toml"),
    ("mark --adapter", "mark --adapter {} --phoenix-url http://127.0.0.1:1 --project p", "adapter"),
    ("mark --phoenix-api-key-file", "mark --adapter own --project p --phoenix-api-key-file {}", "key"),
    ("mark --config", "mark --adapter own --project p --config {}", "tunesmith.toml"),
    ("generate --base-model", "generate --prompt x --base-model {}", "model"),
    ("generate --adapter", "generate --prompt x --base-model ../../models/base --adapter {}", "adapter"),
    ("generate --cuda-libs", "generate --prompt x --base-model ../../models/base --cuda-libs {}", "adapter"),
    ("embed --base-model", "embed x --base-model {}", "model"),
    ("embed --adapter", "embed x --base-model ../../models/base --adapter {}", "adapter"),
    ("embed --cuda-libs", "embed x --base-model ../../models/base --cuda-libs {}", "adapter"),
    ("merge --base-model", "merge --base-model {} --adapter own --out new", "model"),
    ("merge --adapter", "merge --base-model ../../models/base --adapter {} --out new", "adapter"),
    ("merge --out", "merge --base-model ../../models/base --adapter own --out {}", "new"),
    ("export --base-model", "export --base-model {} --adapter own --out new.gguf", "model"),
    ("export --adapter", "export --base-model ../../models/base --adapter {} --out new.gguf", "adapter"),
    ("export --out", "export --base-model ../../models/base --adapter own --out {}", "new.gguf"),
    ("people add --people", "people add anna --role viewer --people {}", "people.toml"),
    ("people add --store", "people add anna --role viewer --store {}", "telemetry.sqlite"),
    ("people add --config", "people add anna --role viewer --config {}", "tunesmith.toml"),
    ("people list --people", "people list --people {}", "people.toml"),
    ("people list --store", "people list --store {}", "telemetry.sqlite"),
    ("people list --config", "people list --config {}", "tunesmith.toml"),
    ("people remove --people", "people remove anna --people {}", "people.toml"),
    ("people remove --store", "people remove anna --store {}", "telemetry.sqlite"),
    ("people remove --config", "people remove anna --config {}", "tunesmith.toml"),
    ("plugins new --dir", "plugins new formatter mine --lang rust --dir {}", "new"),
    ("plugins check component", "plugins check {}", "plugin.wasm"),
    ("plugins test --fixtures", "plugins test alpaca-formatter --fixtures {}", "records.jsonl"),
    ("plugins test --expect", "plugins test alpaca-formatter --update --expect {}", "new.jsonl"),
    ("plugins keygen --out", "plugins keygen --out {}", "new"),
    ("plugins sign component", "plugins sign {} --key own", "plugin.wasm"),
    ("plugins sign --key", "plugins sign own.wasm --key {}", "key"),
];

/// Of all commands: the argument, the line, and what of `beta`'s it is tried with.
fn paths() -> Vec<(String, String, &'static str)> {
    let of_run = |(command, (flag, of_beta)): (&str, (&str, &'static str))| {
        (format!("{command} {flag}"), format!("{command} {flag} {{}}"), of_beta)
    };
    let of_runs = OF_RUNS.into_iter().flat_map(|command| PATHS_OF_RUNS.map(|path| (command, path))).map(of_run);
    let of_job = |(command, (flag, of_beta)): (&str, (&str, &'static str))| {
        let name = command.split(' ').take(2).collect::<Vec<_>>().join(" ");
        (format!("{name} {flag}"), format!("{command} {flag} {{}}"), of_beta)
    };
    let of_jobs = OF_JOBS.into_iter().flat_map(|command| PATHS_OF_JOBS.map(|path| (command, path))).map(of_job);
    let of_runs = of_runs.chain(of_jobs);
    let others = PATHS.iter().map(|&(name, line, of_beta)| (name.to_owned(), line.to_owned(), of_beta));
    of_runs.chain(others).collect()
}
/// Arguments of paths that are the operator's, or refused where there is one.
const OF_OPERATOR: [&str; 11] = [
    "serve --jobs-dir",
    "serve --worker-token-file",
    "serve --approvals",
    "serve --people",
    "serve --output-dir",
    "--operator",
    "serve --config",
    "serve --store",
    "serve --token-file",
    "serve --tls-cert",
    "serve --tls-key",
];

#[test]
fn every_argument_that_takes_a_path_is_tried() {
    let mut all = BTreeSet::new();
    let mut commands = vec![(String::new(), Cli::command())];
    while let Some((name, command)) = commands.pop() {
        let path = ValueParser::path_buf().type_id();
        for arg in command.get_arguments().filter(|arg| arg.get_value_parser().type_id() == path) {
            let arg = arg.get_long().map_or_else(|| arg.get_id().to_string(), |long| format!("--{long}"));
            all.insert(format!("{name}{arg}"));
        }
        let sub = |sub: &Command_| (format!("{name}{} ", sub.get_name()), sub.clone());
        commands.extend(command.get_subcommands().map(sub));
    }
    // Whose file it is, the operator says; and of all tenants at once none is named.
    for of_operator in OF_OPERATOR {
        assert!(all.remove(of_operator), "{of_operator}");
    }
    let tried: BTreeSet<_> = paths().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(all.difference(&tried).collect::<Vec<_>>(), [""; 0], "give these a line of `PATHS`");
    assert_eq!(tried.difference(&all).collect::<Vec<_>>(), [""; 0], "these are no arguments any more");
}

type Command_ = clap::Command;

#[test]
fn no_path_of_an_argument_leads_to_another_tenant() {
    let box_ = Box_::new();
    let beta = box_.home.path("tenants/beta");
    symlink(&beta, box_.acme("link")).unwrap();
    fs::create_dir(box_.acme("own")).unwrap();
    let before = box_.of_beta();
    for (name, line, of_beta) in paths() {
        let tricks = [
            format!("../beta/{of_beta}"),
            beta.join(of_beta).display().to_string(),
            format!("link/{of_beta}"),
            format!("own/../../beta/{of_beta}"),
        ];
        for path in tricks {
            let args: Vec<_> = line.split(' ').map(|word| if word == "{}" { path.as_str() } else { word }).collect();
            box_.refuses(box_.command_for("acme", &args), OUT_OF_REACH);
        }
        assert!(!box_.acme("telemetry.sqlite").exists(), "{name}");
    }
    assert_eq!(box_.of_beta(), before);
}

#[test]
fn no_variable_leads_to_another_tenant() {
    let box_ = Box_::new();
    let before = box_.of_beta();
    let variables = [
        ("TUNESMITH_STORE", "telemetry.sqlite"),
        ("TUNESMITH_IMPORT", "traces.jsonl"),
        ("TUNESMITH_CONFIG", "tunesmith.toml"),
        ("TUNESMITH_OUTPUT_DIR", "outputs/adapters"),
        ("TUNESMITH_BASE_MODEL", "model"),
        ("TUNESMITH_FORMATTER", "plugin.wasm"),
    ];
    for (variable, of_beta) in variables {
        let mut command = box_.command_for("acme", &["analyze"]);
        command.env(variable, box_.home.path("tenants/beta").join(of_beta));
        box_.refuses(command, OUT_OF_REACH);
    }
    assert_eq!(box_.of_beta(), before);
}

#[test]
fn no_key_of_a_configuration_leads_to_another_tenant() {
    let box_ = Box_::new();
    let before = box_.of_beta();
    let keys = [
        "output_dir = \"../beta/outputs/adapters\"",
        "base_model = \"../beta/model\"",
        "[telemetry]\nstore = \"../beta/telemetry.sqlite\"",
        "[telemetry]\nimport = [\"traces.jsonl\", \"../beta/traces.jsonl\"]",
        "[telemetry]\nphoenix_api_key_file = \"../beta/key\"",
        "[telemetry]\nphoenix_url = \"http://127.0.0.1:9\"",
        "[synthetic]\nsynthetic_api_key_file = \"../beta/key\"",
        "[synthetic]\nsynthetic_url = \"http://127.0.0.1:9/v1\"",
        "[compute]\ncuda_libs = \"../../libraries\"",
        "[plugins]\nextractor = \"../beta/plugin.wasm\"",
        "[plugins]\nformatter = \"../beta/plugin.wasm\"",
        "[plugins]\npolicy = \"../beta/plugin.wasm\"",
        "[agents.routing]\nformatter = \"../beta/plugin.wasm\"",
        "[agents.another]\nextractor = \"own@sha256:x/../../beta/plugin.wasm\"",
    ];
    for key in keys {
        let config = CONFIG.lines().filter(|line| !key.starts_with(line.split('=').next().unwrap()));
        let config: String = config.map(|line| format!("{line}\n")).collect();
        box_.home.write("tenants/acme/tunesmith.toml", format!("{config}{key}\n"));
        for command in ["finetune", "extract", "analyze", "plan"] {
            box_.refuses(box_.command_for("acme", &[command]), OUT_OF_REACH);
        }
    }
    box_.home.write("tenants/acme/tunesmith.toml", format!("{CONFIG}tenant_id = \"beta\"\n"));
    box_.refuses(box_.command_for("acme", &["analyze"]), "says `tenant_id = \"beta\"`, and this is tenant `acme`");
    assert_eq!(box_.of_beta(), before);
}

#[test]
fn no_link_in_a_tenants_folder_leads_to_another_tenant() {
    let box_ = Box_::new();
    let before = box_.of_beta();
    let beta = box_.home.path("tenants/beta");
    let imported = ["analyze", "--import", "traces.jsonl"];
    // Each of these is where a command looks by itself.
    for (link, of_beta) in [
        ("telemetry.sqlite", "telemetry.sqlite"),
        ("telemetry.sqlite-wal", "telemetry.sqlite"),
        ("telemetry.sqlite-shm", "key"),
        ("telemetry.sqlite-journal", "key"),
        ("outputs", "outputs"),
    ] {
        symlink(beta.join(of_beta), box_.acme(link)).unwrap();
        box_.refuses(box_.command_for("acme", &imported), OUT_OF_REACH);
        fs::remove_file(box_.acme(link)).unwrap();
    }
    let config = box_.acme("tunesmith.toml");
    let own = fs::read(&config).unwrap();
    fs::remove_file(&config).unwrap();
    symlink(beta.join("tunesmith.toml"), &config).unwrap();
    box_.refuses(box_.command_for("acme", &imported), OUT_OF_REACH);
    fs::remove_file(&config).unwrap();
    fs::write(&config, own).unwrap();

    // What is read beside what is named, and would be quoted where it is wrong.
    fs::copy(beta.join("plugin.wasm"), box_.acme("plugin.wasm")).unwrap();
    symlink(beta.join("plugin.toml"), box_.acme("plugin.toml")).unwrap();
    box_.refuses(box_.command_for("acme", &[&imported[..], &["--formatter", "plugin.wasm"]].concat()), OUT_OF_REACH);
    copy_folder(&tiny_model(), &box_.acme("model"));
    fs::remove_file(box_.acme("model/config.json")).unwrap();
    symlink(beta.join("model/config.json"), box_.acme("model/config.json")).unwrap();
    box_.refuses(box_.command_for("acme", &["plan", "--base-model", "model"]), OUT_OF_REACH);
    assert_eq!(box_.of_beta(), before);
}

#[test]
fn no_id_leads_to_another_tenant() {
    let box_ = Box_::new();
    box_.succeeds(&["import", "traces.jsonl"]);
    let before = box_.of_beta();
    // `beta` has the span 100, and `acme` has not.
    let (theirs, own) = (span_id(100), span_id(0));
    for project in [&[][..], &["--project", "project-of-beta"], &["--project", "default"]] {
        let args = [&["annotate", &theirs, "--label", "approved"], project].concat();
        let ended = box_.run_for("acme", &args);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(!ended.stdout.contains("added"), "{}", ended.stdout);
    }
    let ended = box_.run_for("acme", &["analyze", "--project", "project-of-beta"]);
    assert!(ended.error().ends_with("it holds `default`"), "{}", ended.stderr);
    box_.succeeds(&["annotate", &own, "--label", "rejected"]);
    assert_eq!(box_.of_beta(), before);

    for tenant in ["../beta", "acme/../beta", "Beta", ".", "", "beta/", "gamma", "acme\n"] {
        box_.refuses(box_.command_for(tenant, &["analyze"]), "has no tenant");
    }
    let mut nameless = box_.command_for("acme", &["analyze"]);
    nameless.env_remove("TUNESMITH_TENANT_ID");
    box_.refuses(nameless, "`tenant_id` is not set: name the tenant with `--tenant-id`");
}

#[test]
fn a_tenants_own_run_is_in_its_own_folder_wherever_it_is_started() {
    let box_ = Box_::new();
    let before = box_.of_beta();
    let mut command = box_.command_for("acme", &["finetune", "--import", "tenants/acme/traces.jsonl"]);
    // Another's file by that name lies where the command is given.
    box_.home.write("tunesmith.toml", format!("{SECRET} = 1\n"));
    command.current_dir(box_.home.path(""));
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let runs: Vec<_> = fs::read_dir(box_.acme("outputs/adapters")).unwrap().collect();
    assert_eq!(runs.len(), 1);
    assert!(box_.acme("telemetry.sqlite").is_file());
    let adapter = runs[0].as_ref().unwrap().path().display().to_string();
    let model = "../../models/base";
    box_.succeeds(&[
        "generate",
        "--base-model",
        model,
        "--adapter",
        &adapter,
        "--prompt",
        "x",
        "--max-new-tokens",
        "1",
    ]);
    box_.succeeds(&["export", "--base-model", model, "--adapter", &adapter, "--out", "mine.gguf"]);
    assert_eq!(box_.of_beta(), before);
}

#[test]
fn what_a_tenant_may_fill_ends_at_its_quotas() {
    let box_ = Box_::new();
    let tenants = "tenants_dir = \"tenants\"\nshared_dirs = [\"models\"]\n[tenants.beta]\n[tenants.acme]\n";
    let ended = |terms: &str, args: &[&str]| {
        box_.home.write("operator.toml", format!("{tenants}{terms}\n"));
        box_.run_for("acme", args)
    };
    let full = ended("store_quota = \"44KiB\"", &["import", "traces.jsonl"]);
    assert_eq!(full.code, Some(1), "{}", full.stderr);
    assert_eq!(
        full.error(),
        format!(
            "the telemetry store `{}` is full: its quota is 44.00 KiB; remove old spans with `tunesmith prune`, or have \
             `store_quota` raised",
            box_.acme("telemetry.sqlite").display()
        )
    );
    assert!(fs::metadata(box_.acme("telemetry.sqlite")).unwrap().len() <= 44 << 10);
    assert_eq!(ended("store_quota = \"1MiB\"", &["import", "traces.jsonl"]).code, Some(0));
    assert_eq!(ended("output_quota = \"1KiB\"", &["finetune"]).code, Some(0));
    let emptied = ended("store_quota = \"44KiB\"", &["prune", "--before", "2030-01-01T00:00:00Z", "--json"]);
    assert_eq!(emptied.json()["removed"], serde_json::json!({ "spans": 60, "annotations": 60 }));
    // What was freed is filled again, although the file is as large as it was.
    assert_eq!(ended("store_quota = \"44KiB\"", &["import", "traces.jsonl"]).code, Some(0));
    let full = ended("output_quota = \"1KiB\"", &["finetune"]);
    assert!(full.error().contains("and its quota is 1.00 KiB: remove adapters"), "{}", full.stderr);
    let large = ended("memory_limit = \"1MiB\"", &["finetune", "--memory-limit", "8GiB"]);
    assert!(large.error().contains("1.00 MiB"), "{}", large.stderr);
}

/// Answers one request with 401; its address, and the request's head.
fn refusing() -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        let no =
            "HTTP/1.1 401 Unauthorized\r\ncontent-type: text/plain\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
        stream.write_all(no.as_bytes()).unwrap();
        head
    });
    (url, server)
}

#[test]
fn a_key_of_the_environment_is_not_sent_for_a_tenant() {
    let box_ = Box_::new();
    let tenants = "tenants_dir = \"tenants\"\nshared_dirs = [\"models\"]\n[tenants.beta]\n[tenants.acme]\n";
    let sync = ["sync", "--project", "p", "--phoenix-url"];
    let generate = [
        "finetune --import traces.jsonl --min-sft-examples 100 --generator endpoint --synthetic-model m",
        "--synthetic-url",
    ];
    let generate: Vec<_> = generate.iter().flat_map(|part| part.split(' ')).collect();
    for (grant, args) in [("phoenix_urls", &sync[..]), ("synthetic_urls", &generate)] {
        let (url, server) = refusing();
        box_.home.write("operator.toml", format!("{tenants}{grant} = [{url:?}]\n"));
        let mut command = box_.command_for("acme", &[args, &[url.as_str()]].concat());
        for variable in ["PHOENIX_API_KEY", "TUNESMITH_SYNTHETIC_API_KEY", "OPENAI_API_KEY"] {
            command.env(variable, SECRET);
        }
        box_.refuses(command, "wants a key");
        let head = server.join().unwrap();
        assert!(head[0].starts_with("GET ") || head[0].starts_with("POST "), "{head:?}");
        assert!(!head.iter().any(|line| line.to_ascii_lowercase().starts_with("authorization")), "{head:?}");
    }
}

impl Box_ {
    fn serve(&self, args: &[&str]) -> Command {
        let own = ["serve", "--otlp", "--json", "--listen", "127.0.0.1:0"];
        let mut command = self.home.command(&[&own, args].concat());
        command.env("TUNESMITH_OPERATOR", self.home.path("operator.toml"));
        command
    }
}

#[test]
fn no_request_reaches_another_tenant() {
    let box_ = Box_::new();
    // The configuration of `beta` is no TOML that a server could read.
    fs::remove_file(box_.home.path("tenants/beta/tunesmith.toml")).unwrap();
    let of_beta = || stored_in(&box_.home.path("tenants/beta/telemetry.sqlite"));
    let before = of_beta();
    let serving = Serving::started(box_.serve(&[]));
    let ids: Vec<_> = serving.announced["tenants"].as_array().unwrap().iter().map(|t| t["tenant_id"].clone()).collect();
    assert_eq!(ids, ["acme", "beta"]);
    let (acme, beta) = (serving.token_of(0), serving.token_of(1));
    assert_ne!(acme, beta);
    let send = |token: &str, path: &str, content_type: &str, more: &str, body: &[u8]| {
        let headers = format!("authorization: Bearer {token}\r\ncontent-type: {content_type}\r\n{more}");
        let answered = post(&serving.address, path, &headers, body).unwrap();
        let text = String::from_utf8_lossy(&answered.body).into_owned() + &answered.head;
        assert!(!text.contains(SECRET) && !text.contains("beta"), "{path}: {text}");
        answered.status
    };

    // A tenant is its token, whatever else a request says.
    let mut spans = otlp(200..201);
    spans["resourceSpans"][0]["resource"]["attributes"] = serde_json::json!([
        { "key": "openinference.project.name", "value": { "stringValue": "project-of-acme" } },
        { "key": "tenant_id", "value": { "stringValue": "beta" } },
    ]);
    let spans = spans.to_string();
    let headers = "x-tenant-id: beta\r\nx-scope-orgid: beta\r\ntunesmith-tenant-id: beta\r\ncookie: tenant=beta\r\n";
    assert_eq!(send(&acme, "/v1/traces", JSON, headers, spans.as_bytes()), 200);
    for (number, path) in ["/v1/traces?tenant_id=beta", "/v1/traces?store=../beta/telemetry.sqlite"].iter().enumerate()
    {
        assert_eq!(send(&acme, path, PROTOBUF, headers, &otlp_protobuf(201 + number..202 + number)), 200, "{path}");
    }
    let paths = [
        "/beta/v1/traces",
        "/v1/beta/traces",
        "/v1/traces/beta",
        "/v1/traces/../../beta/v1/traces",
        "/v1/traces/%2e%2e/beta",
        "//v1/traces",
        "/v1/stores/beta",
        "/../tenants/beta/telemetry.sqlite",
        "/tenants/beta/serve.token",
    ];
    for path in paths {
        assert_eq!(send(&acme, path, PROTOBUF, "", &otlp_protobuf(210..211)), 404, "{path}");
    }

    // Nor does feedback reach another's span, or tell that there is one.
    let feedback = |more: serde_json::Value| {
        let mut feedback = serde_json::json!({ "span_id": span_id(100), "label": "rejected" });
        feedback.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        feedback.to_string()
    };
    for more in [serde_json::json!({}), serde_json::json!({ "project": "project-of-beta" })] {
        assert_eq!(send(&acme, "/v1/annotations", JSON, headers, feedback(more).as_bytes()), 404);
    }
    for more in [serde_json::json!({ "tenant_id": "beta" }), serde_json::json!({ "store": "../beta/telemetry.sqlite" })]
    {
        assert_eq!(send(&acme, "/v1/annotations", JSON, "", feedback(more).as_bytes()), 422);
    }

    // What is nearly a token is none.
    let nearly = [
        String::new(),
        "beta".to_owned(),
        beta[..beta.len() - 1].to_owned(),
        format!("{beta}x"),
        beta.to_ascii_uppercase(),
        format!("{acme},{beta}"),
        format!("{acme} {beta}"),
    ];
    for token in nearly {
        assert_eq!(send(&token, "/v1/traces", PROTOBUF, "", &otlp_protobuf(220..221)), 401, "{token}");
    }
    serving.stop();

    assert_eq!(of_beta(), before);
    let own = stored_in(&box_.acme("telemetry.sqlite"));
    let text = |value: &rusqlite::types::Value| match value {
        rusqlite::types::Value::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    let own: Vec<_> = own.iter().map(|row| (text(&row[0]), text(&row[1]))).collect();
    let expected = [("default", 201), ("default", 202), ("project-of-acme", 200)];
    assert_eq!(own, expected.map(|(project, id)| (project.to_owned(), span_id(id))));
}

#[test]
fn what_is_wrong_with_one_tenant_leaves_the_others_served() {
    let box_ = Box_::new();
    // `beta`'s configuration has a key that is none; `gamma`'s token is too short, and `delta`'s a link to `acme`'s.
    box_.home.write(
        "operator.toml",
        "tenants_dir = \"tenants\"\nshared_dirs = [\"models\"]\n[tenants.acme]\n[tenants.beta]\n[tenants.gamma]\n\
         token_file = \"short\"\n[tenants.delta]\n",
    );
    box_.home.write("short", "short");
    fs::create_dir(box_.home.path("tenants/delta")).unwrap();
    symlink(box_.acme("serve.token"), box_.home.path("tenants/delta/serve.token")).unwrap();
    let mut serving = Serving::started(box_.serve(&[]));
    let served = &serving.announced["tenants"];
    assert_eq!((served.as_array().unwrap().len(), &served[0]["tenant_id"]), (1, &"acme".into()));
    assert_eq!(serving.post("/v1/traces", PROTOBUF, &otlp_protobuf(0..3)).status, 200);
    let log = serving.log();
    for tenant in ["beta", "gamma", "delta"] {
        assert!(log.contains(&format!("tenant `{tenant}` is not served: ")), "{log}");
    }
    drop(serving);

    for (flags, key) in
        [(["--store", "x"], "store"), (["--token-file", "x"], "token_file"), (["--store-quota", "1GiB"], "store_quota")]
    {
        let ended = run(box_.serve(&flags));
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert_eq!(
            ended.error(),
            format!("`{key}` is given: each tenant has its own: leave it out, or set it in the operator's file")
        );
    }
}
