//! Plugins that attack their host: each is stopped by the limit it runs into, with its own words, and the next job is
//! fine.

use std::fs;
use std::path::Path;

use crate::home::{Ended, Home, repository};
use crate::hostile_formatters::hostile_formatters;

/// A run whose plugin of this kind is a guest of ours that behaves as it is told.
fn hostile(kind: &str, behaviour: &str) -> Home {
    let home = Home::ready();
    let guest = repository(guest(kind));
    // 300 ms: the call that spins costs that much, the others end before it.
    home.configure(&format!(
        "plugins = {{ {kind} = {guest:?}, deadline_ms = 300, settings.{kind}.behaviour = \"{behaviour}\" }}"
    ));
    home
}

fn guest(kind: &str) -> &'static str {
    match kind {
        "extractor" => "tests/guests/dist/hostile-extractor.wasm",
        "formatter" => "tests/guests/dist/hostile-formatter.wasm",
        _ => "tests/guests/dist/hostile-policy.wasm",
    }
}

/// The fault of the hostile formatter's first call.
fn refuses_call(behaviour: &str, fault: &str) {
    hostile("formatter", behaviour)
        .refuses(&[], &format!("plugin `hostile-formatter` of tenant `default`, call `format` of batch 1: {fault}"));
}

fn refuses_extraction(behaviour: &str, fault: &str) {
    hostile("extractor", behaviour)
        .refuses(&[], &format!("plugin `hostile-extractor` of tenant `default`, call `extract` of batch 1: {fault}"));
}

fn refuses_decision(behaviour: &str, fault: &str) {
    let home = hostile("policy", behaviour);
    home.refuses(
        &["--method", "auto"],
        &format!("plugin `hostile-policy` of tenant `default`, call `decide`: {fault}"),
    );
}

const DEADLINE: &str =
    "stopped at its deadline of 300ms; the plugin loops or is too slow: fix it, or raise `plugins.deadline_ms`";

#[test]
fn every_formatter_below_its_wit_is_refused_with_its_fault() {
    for hostile in hostile_formatters() {
        let home = Home::ready();
        home.write("mine.wasm", hostile.core.component());
        let deadline = hostile.deadline_ms().to_string();
        let ended = home.run(&["finetune", "--formatter", "mine.wasm", "--plugin-deadline-ms", &deadline]);
        assert_eq!(
            (ended.code, ended.error(), ended.stdout.as_str()),
            (
                Some(1),
                format!("plugin `mine` of tenant `default`, call `format` of batch 1: {}", hostile.fault).as_str(),
                ""
            ),
            "{}",
            hostile.name
        );
        assert!(!ended.stderr.contains("panicked at"), "{}: {}", hostile.name, ended.stderr);
        assert_eq!(home.outputs(), [""; 0], "{}", hostile.name);
    }
}

#[test]
fn a_plugin_that_panics() {
    refuses_call(
        "panic",
        "trapped: wasm `unreachable` instruction executed (a panic shows as this); fix the plugin, or use another",
    );
}

#[test]
fn a_plugin_that_loops_for_ever() {
    refuses_call("spin", DEADLINE);
}

#[test]
fn a_plugin_that_loops_at_the_end_of_a_deep_recursion() {
    refuses_call("spin-deep", DEADLINE);
}

#[test]
fn a_plugin_that_allocates_so_slowly_that_its_deadline_comes_first() {
    refuses_call("allocate-slowly", DEADLINE);
}

#[test]
fn a_plugin_that_loops_is_stopped_by_its_fuel_where_that_is_counted() {
    let home = hostile("formatter", "spin");
    home.refuses(
        &["--plugin-deadline-ms", "60000", "--plugin-fuel", "50000000"],
        "plugin `hostile-formatter` of tenant `default`, call `format` of batch 1: used up its fuel of 50000000 \
         instructions; the plugin loops or does too much in one call: fix it, or raise `plugins.fuel`",
    );
    // Enough for those that do their work.
    Home::ready().trains(&["--plugin-fuel", "50000000"]);
}

#[test]
fn a_plugin_that_allocates_for_ever() {
    let home = hostile("formatter", "allocate");
    let ended = home.run(&["finetune", "--plugin-deadline-ms", "60000"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    // How far over its cap of 64 MiB the guest reaches is its allocator's choice.
    let (start, end) = ended.error().split_once(" bytes of memory, ").unwrap();
    let site = "plugin `hostile-formatter` of tenant `default`, call `format` of batch 1:";
    assert!(start.starts_with(&format!("{site} wanted 68")), "{start}");
    assert_eq!(
        end,
        "more than its cap of 67108864; the plugin leaks or needs smaller batches: fix it, or raise `plugins.memory_mib`"
    );
    assert_eq!(home.outputs(), [""; 0]);
}

#[test]
fn a_plugin_that_recurses_for_ever() {
    refuses_call(
        "recurse",
        "trapped: out of bounds memory access (possibly a stack overflow); fix the plugin, or use another",
    );
}

#[test]
fn a_plugin_that_floods_the_host() {
    refuses_call(
        "flood",
        "handed back more than 16777216 bytes; the plugin repeats its output: fix it, or raise `plugins.output_mib`",
    );
}

#[test]
fn a_plugin_that_returns_too_few_records() {
    refuses_call("too-few", "handed back invalid output: 0 results for 54 examples; fix the plugin, or use another");
}

#[test]
fn a_plugin_that_splits_a_character() {
    refuses_call(
        "split-character",
        "handed back invalid output: the response of result 0 starts at byte 1, which is no character of its text of 2 \
         bytes; fix the plugin, or use another",
    );
}

#[test]
fn a_plugin_whose_error_would_write_to_the_terminal() {
    refuses_call(
        "forge-error",
        "the plugin reports a defect of its own: \\u{1b}]0;owned\\u{7}\\nerror: tenant b is broken",
    );
}

#[test]
fn a_plugin_whose_reason_would_write_to_the_terminal() {
    let start = "\\u{1b}[2J\\rdone\\nerror: \\u{9b}31m";
    // 200 characters of what the plugin said.
    let reason = format!("{start}{}…", "x".repeat(200 - "\x1b[2J\rdone\nerror: \u{9b}31m".chars().count()));
    hostile("formatter", "forge-reason").refuses(
        &[],
        &format!(
            "Cannot train with empty dataset. No training examples available after formatting. All were left out \
             ({reason}: 54): change the formatter, or raise `max_length`"
        ),
    );
}

#[test]
fn an_extractor_that_breaks_its_contract() {
    let invalid = |what: &str| format!("handed back invalid output: {what}; fix the plugin, or use another");
    // The last of the batch, as the store orders it.
    refuses_extraction(
        "lose-a-span",
        &invalid("the span `000000000000000b` is neither in an example nor skipped with a reason"),
    );
    refuses_extraction(
        "invent-lineage",
        &invalid("an example names the span `\\u{1b}[31mffffffffffffffff`, which is not in the batch"),
    );
    refuses_extraction("no-lineage", &invalid("an example without a span id in its lineage"));
    // 60 spans, 64 each, and 1024.
    let flood = |what: &str, given: usize| {
        format!(
            "handed back {given} {what} for 60 spans, more than its cap of 4864; the plugin repeats its output: fix it, \
             or raise `plugins.records_per_span`"
        )
    };
    refuses_extraction("flood-examples", &flood("examples", 20_060));
    refuses_extraction("flood-skips", &flood("skipped spans", 20_000));
    refuses_extraction(
        "panic",
        "trapped: wasm `unreachable` instruction executed (a panic shows as this); fix the plugin, or use another",
    );
    let site = "plugin `hostile-extractor` of tenant `default`, call `selection`:";
    hostile("extractor", "spin-in-selection").refuses(&[], &format!("{site} {DEADLINE}"));
    hostile("extractor", "flood-rules")
        .refuses(&[], &format!("{site} {}", invalid("5000 match rules, more than 1000")));
}

#[test]
fn an_extractor_that_floods_the_table_of_reasons() {
    let ended = hostile("extractor", "flood-reasons").run(&["analyze", "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let skipped = ended.json()["skipped"].as_object().unwrap().clone();
    assert_eq!((skipped.len(), skipped["other reasons"].as_u64()), (1001, Some(3000)));
}

#[test]
fn an_extractor_whose_warning_would_forge_a_line() {
    let ended = hostile("extractor", "forge-warning").run(&["analyze"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let forged = "span 000000000000002c: \\u{1b}[2Jall is well\\nerror: no, it is not";
    assert!(ended.stderr.contains(forged), "{}", ended.stderr);
    assert!(!ended.stderr.contains("\nerror:"), "{}", ended.stderr);
}

#[test]
fn a_policy_that_breaks_its_contract() {
    let invalid = |what: &str| format!("handed back invalid output: {what}; fix the plugin, or use another");
    refuses_decision("nan", &invalid("a confidence of NaN, which is not from 0 to 1"));
    refuses_decision("infinite", &invalid("a confidence of inf, which is not from 0 to 1"));
    refuses_decision("negative", &invalid("a confidence of -0.5, which is not from 0 to 1"));
    refuses_decision("no-shortfall", &invalid("data is said to be insufficient, but no shortfall is named"));
    refuses_decision("spin", DEADLINE);
    // A policy's failure ends the run, whatever becomes of a batch.
    let home = hostile("policy", "spin");
    let args = ["--method", "auto", "--plugin-on-failure", "skip"];
    home.refuses(&args, &format!("plugin `hostile-policy` of tenant `default`, call `decide`: {DEADLINE}"));
}

#[test]
fn a_policy_whose_reason_would_write_to_the_terminal() {
    let ended = hostile("policy", "forge-reason").run(&["analyze", "--method", "auto"]);
    assert!(ended.stdout.contains("\\u{1b}[2Jenough\\nerror: of another kind"), "{}", ended.stdout);
}

/// A run whose formatter logs, which is granted where its manifest asks.
fn logging(behaviour: &str) -> Home {
    let home = Home::ready();
    home.write("mine.wasm", fs::read(repository("tests/guests/dist/logging-formatter.wasm")).unwrap());
    home.write("plugin.toml", fs::read(repository("tests/guests/logging-formatter/plugin.toml")).unwrap());
    home.configure(&format!(
        "plugins = {{ formatter = \"./mine.wasm\", settings.formatter.behaviour = \"{behaviour}\" }}"
    ));
    home
}

/// Lines of the log that tell of the logging formatter.
fn log_lines(ended: &Ended) -> Vec<&str> {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stderr.lines().filter(|line| line.contains("plugin `logging-formatter`")).collect()
}

#[test]
fn a_plugins_log_lines_bear_its_name_its_tenant_and_its_call() {
    let home = logging("fine");
    let site = "plugin `logging-formatter` of tenant `default`, call `format` of batch 1:";
    // Two calls, one for each side of the split; debug and info are told to those who ask.
    let warnings = [format!(" WARN {site} few examples"), format!("ERROR {site} no examples")];
    let ended = home.run(&["extract", "--output", "records.jsonl"]);
    assert_eq!(log_lines(&ended), [&warnings[..], &warnings].concat());
    let ended = home.run(&["extract", "--output", "records.jsonl", "-vv"]);
    assert_eq!(log_lines(&ended)[..2], [format!("DEBUG {site} looked closely"), format!(" INFO {site} 54 examples")]);
}

#[test]
fn a_plugin_that_logs_without_asking_is_refused_with_what_to_ask_for() {
    let home = logging("fine");
    fs::remove_file(home.path("plugin.toml")).unwrap();
    home.refuses(
        &[],
        "plugin `mine` imports `tunesmith:plugin/log@0.1.1`, which it was not granted; its `plugin.toml` has to say \
         `wants = [\"log\"]`, and the operator to grant `log`",
    );
}

#[test]
fn a_plugin_that_floods_the_log() {
    let extract = ["extract", "--output", "records.jsonl"];
    let dropped = |ended: &Ended, kept: usize, dropped: usize| {
        let lines = log_lines(ended);
        assert_eq!(lines.len(), 2 * (kept + 1), "{}", ended.stderr);
        let site = "plugin `logging-formatter` of tenant `default`, call `format` of batch 1:";
        let want = format!(
            " WARN {site} {dropped} more log lines dropped: a call may log 200 lines and 65536 bytes (`plugins.log_kib`)"
        );
        assert_eq!(lines[kept], want);
    };
    dropped(&logging("lines").run(&extract), 200, 4800);
    dropped(&logging("bytes").run(&extract), 16, 84);
    // One line of 8 MiB is cut.
    let ended = logging("giant").run(&extract);
    let lines = log_lines(&ended);
    assert_eq!((lines.len(), lines[0].matches('y').count()), (2, 4096));
}

#[test]
fn a_log_line_larger_than_what_a_plugin_may_hand_back() {
    logging("over-the-output-cap").refuses(
        &[],
        "plugin `logging-formatter` of tenant `default`, call `format` of batch 1: handed back more than 16777216 \
         bytes; the plugin repeats its output: fix it, or raise `plugins.output_mib`",
    );
}

#[test]
fn a_log_line_that_would_forge_another() {
    let ended = logging("forge").run(&["extract", "--output", "records.jsonl"]);
    let site = "plugin `logging-formatter` of tenant `default`, call `format` of batch 1:";
    let line = format!(" WARN {site} \\u{{1b}}[2Jdone\\nerror: tenant b is broken\\r\\u{{9b}}31m");
    assert_eq!(log_lines(&ended), [line.as_str(), &line]);
    assert!(!ended.stderr.contains("\nerror:"), "{}", ended.stderr);
}

/// 300 spans: the formatter's examples come in more than one batch.
fn many_spans(home: &Home) {
    use crate::spans::{Verdict, lines, span};
    home.write("traces.jsonl", lines((0..300).map(|index| span(index, Verdict::Approved))));
}

#[test]
fn a_batch_that_a_plugin_fails_on_is_left_out_where_that_is_wanted() {
    let home = hostile("formatter", "panic-at-query-0");
    many_spans(&home);
    let trap =
        "trapped: wasm `unreachable` instruction executed (a panic shows as this); fix the plugin, or use another";
    let error = format!("plugin `hostile-formatter` of tenant `default`, call `format` of batch 1: {trap}");
    home.refuses(&[], &error);

    let ended = home.run(&["extract", "--output", "records.jsonl", "--plugin-on-failure", "skip", "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!(" WARN {error} (256 left out)")), "{}", ended.stderr);
    let answer = ended.json();
    assert_eq!(answer["skipped"]["plugin `hostile-formatter` failed: trap"], 256);
    assert_eq!((answer["records"].as_u64(), answer["spans"].as_u64()), (Some(44), Some(300)));
    assert_eq!(String::from_utf8(home.read("records.jsonl")).unwrap().lines().count(), 44);
}

#[test]
fn a_run_whose_plugin_fails_on_every_batch_ends_with_the_first_failure() {
    let skip = ["--plugin-on-failure", "skip"];
    let trap =
        "trapped: wasm `unreachable` instruction executed (a panic shows as this); fix the plugin, or use another";
    for (kind, call) in [("formatter", "format"), ("extractor", "extract")] {
        let error = format!("plugin `hostile-{kind}` of tenant `default`, call `{call}` of batch 1: {trap}");
        let ended = hostile(kind, "panic").run(&[&["finetune"], &skip[..]].concat());
        assert_eq!((ended.code, ended.error()), (Some(1), error.as_str()));
    }
}

#[test]
fn compiled_code_is_no_plugin() {
    let home = Home::ready();
    let mut command = home.command(&["extract", "--output", "records.jsonl"]);
    command.env("XDG_CACHE_HOME", home.path("cache"));
    assert_eq!(crate::home::run(command).code, Some(0));
    let compiled = compiled_files(&home.path("cache"));
    assert_eq!(compiled.len(), 3, "{compiled:?}");
    for (name, skip) in [("./mine.cwasm", 0), ("./mine.wasm", 32)] {
        home.write(name, &fs::read(&compiled[0]).unwrap()[skip..]);
        home.refuses(
            &["--formatter", name],
            "plugin `mine` is not a WebAssembly component: it does not start with `\\0asm`; build it as a component \
             (core module + `wit-component`), not as a plain module",
        );
    }
}

fn compiled_files(cache: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(cache.join("tunesmith/components")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_poisoned_cache_is_compiled_anew() {
    let home = Home::ready();
    let cache = home.path("cache");
    let extract = || {
        let mut command = home.command(&["extract", "--output", "records.jsonl"]);
        command.env("XDG_CACHE_HOME", &cache);
        let ended = crate::home::run(command);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        home.read("records.jsonl")
    };
    let records = extract();
    let files = compiled_files(&cache);
    let good: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let poison = |poisoned: &dyn Fn(usize) -> Vec<u8>| {
        for (index, file) in files.iter().enumerate() {
            fs::write(file, poisoned(index)).unwrap();
        }
        assert_eq!(extract(), records);
        // What was wrong is written anew.
        assert_eq!(compiled_files(&cache), files);
        assert!(files.iter().zip(&good).all(|(file, good)| fs::read(file).unwrap() == *good));
    };
    poison(&|_| Vec::new());
    poison(&|index| good[index][..good[index].len() / 2].to_vec());
    // Another plugin's, as it was written.
    poison(&|index| good[(index + 1) % good.len()].clone());
    poison(&|index| {
        let mut bytes = good[index].clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    });
}
