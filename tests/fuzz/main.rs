//! A fuzz target over the plugin loader: components that were damaged in their structure, loaded and called. Whatever
//! they are, the host neither panics nor aborts, and what loads keeps to its limits.
//!
//! A few hundred in a test run; for as long as wanted, from another start:
//!
//!     TUNESMITH_FUZZ_SECONDS=600 TUNESMITH_FUZZ_SEED=7 cargo test --release --package tunesmith --test fuzz -- --nocapture
//!
//! The component at work lies in the target folder's `tmp/fuzz.wasm`: where the process dies, that is what killed it.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

mod component;
#[path = "../end_to_end/hostile_formatters.rs"]
#[allow(dead_code)] // what they are told is another test's matter
mod hostile_formatters;
mod mutation;
#[path = "../end_to_end/wat.rs"]
mod wat;

/// What `wat.rs` wants of its home.
mod home {
    use std::path::{Path, PathBuf};

    pub(crate) fn repository(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
    }
}

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tunesmith::plugins::bindings::extraction::{ExtractionConfig, VerdictRules};
use tunesmith::plugins::bindings::formatting::FormatterConfig;
use tunesmith::plugins::bindings::selection_policy::{DatasetStatistics, PolicyConfig};
use tunesmith::plugins::bindings::types::{Example, InstructionExample, Lineage, MatchRule, ModelType};
use tunesmith::plugins::{
    Allowance, Costs, Extractor, Formatter, Limits, PluginEngine, PluginError, PluginKind, PluginPackage, PluginRef,
    Policy, Want,
};

use home::repository;
use mutation::Random;

/// Components of a test run without `TUNESMITH_FUZZ_SECONDS`.
const RUNS: usize = 400;

/// The host may hold this much more than before: twice the largest component's compilation.
const MAX_GROWTH_BYTES: u64 = 512 << 20;

fn limits() -> Limits {
    Limits {
        deadline: Duration::from_millis(50),
        memory_bytes: 8 << 20,
        output_bytes: 1 << 20,
        log_bytes: 1 << 10,
        ..Limits::default()
    }
}

#[test]
fn damaged_components_do_no_damage() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let until = number("TUNESMITH_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut random = Random::new(number("TUNESMITH_FUZZ_SEED").unwrap_or(1));

    let seeds = seeds();
    // An unharmed one of each goes first: what it takes is the measure.
    let mut outcome = Outcome::default();
    for seed in &seeds {
        outcome.note(run(seed));
    }
    let before = tunesmith::pipeline::peak_rss_bytes();
    let mut runs = 0;
    while until.map_or(runs < RUNS, |until| Instant::now() < until) {
        outcome.note(run(&mutation::mutate(&seeds, &mut random)));
        runs += 1;
    }
    let growth = tunesmith::pipeline::peak_rss_bytes() - before;
    println!("{runs} damaged components: {outcome:?}; memory grew by {} MiB", growth >> 20);
    assert!(growth < MAX_GROWTH_BYTES, "{growth}");
    // Else it would test the parser only.
    assert!(outcome.called > runs / 50, "{outcome:?}");
}

/// Every committed component, and those made of text.
fn seeds() -> Vec<Vec<u8>> {
    let mut files: Vec<_> = ["plugins/dist", "tests/guests/dist"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(repository(folder)).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    files.sort();
    let text = hostile_formatters::hostile_formatters().into_iter().map(|hostile| hostile.core.component());
    files.iter().map(|path| std::fs::read(path).unwrap()).chain(text).collect()
}

/// How many components ended how.
#[derive(Debug, Default)]
struct Outcome {
    refused: usize,
    called: usize,
    failed: usize,
}

impl Outcome {
    fn note(&mut self, result: Result<bool, PluginError>) {
        match result {
            Ok(true) => self.called += 1,
            Ok(false) => {
                self.called += 1;
                self.failed += 1;
            }
            Err(_) => self.refused += 1,
        }
    }
}

/// Loads the component as whatever kind it exports, and calls it: true where the call succeeded, an error where it did
/// not load.
fn run(bytes: &[u8]) -> Result<bool, PluginError> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz.wasm");
    std::fs::write(&path, bytes).unwrap();
    let engine = PluginEngine::uncached(limits()).unwrap();
    let (result, costs) = match kind(bytes) {
        PluginKind::Formatter => {
            let formatter = checked(Formatter::load(&engine, &package(&path, PluginKind::Formatter)))?;
            let config = FormatterConfig { agent_type: "routing".into(), settings: vec![] };
            (checked(formatter.format(&config, &examples())).map(drop), formatter.costs())
        }
        PluginKind::Extractor => {
            let extractor = checked(Extractor::load(&engine, &package(&path, PluginKind::Extractor)))?;
            let result = extractor.selection(&extraction()).and_then(|_| extractor.extract(&extraction(), &[], 1));
            (checked(result).map(drop), extractor.costs())
        }
        PluginKind::Policy => {
            let policy = checked(Policy::load(&engine, &package(&path, PluginKind::Policy)))?;
            (checked(policy.decide(&policy_config(), &statistics())).map(drop), policy.costs())
        }
    };
    kept_to(&costs);
    drop(Arc::into_inner(engine));
    Ok(result.is_ok())
}

/// What a component says that it is, whatever has become of it.
fn kind(bytes: &[u8]) -> PluginKind {
    let says = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    match (says(b"tunesmith:plugin/extraction"), says(b"tunesmith:plugin/selection-policy")) {
        (true, _) => PluginKind::Extractor,
        (_, true) => PluginKind::Policy,
        _ => PluginKind::Formatter,
    }
}

fn package(path: &Path, kind: PluginKind) -> PluginPackage {
    let mut package = PluginPackage::find(&PluginRef::File(path.to_owned()), kind, None).unwrap();
    package.allowance = Allowance { wants: Want::ALL.into(), limits: limits() };
    package
}

/// An error is the plugin's, in one line that a terminal can show.
fn checked<T>(result: Result<T, PluginError>) -> Result<T, PluginError> {
    if let Err(error) = &result {
        let text = error.to_string();
        assert!(!error.is_ours() && !text.contains(char::is_control) && text.len() < 5000, "{text:?}");
    }
    result
}

fn kept_to(costs: &Costs) {
    assert!(costs.max.memory_bytes <= limits().memory_bytes, "{costs:?}");
    assert!(costs.max.log_bytes <= limits().log_bytes, "{costs:?}");
    // Far over the deadline, because of whatever else this machine does: an endless run would never come here.
    assert!(costs.max.wall < Duration::from_secs(20), "{costs:?}");
}

fn examples() -> Vec<Example> {
    let lineage = || Lineage {
        span_ids: vec!["00f067aa0ba902b7".into()],
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        session_id: Some("s".into()),
        annotation_names: vec!["human_approval".into()],
    };
    let example = |input: &str| {
        Example::Instruction(InstructionExample {
            instruction: "Route".into(),
            input: input.into(),
            output: "agent".into(),
            corrected: false,
            lineage: lineage(),
        })
    };
    ["query", "", "schön"].map(example).into()
}

fn extraction() -> ExtractionConfig {
    ExtractionConfig {
        agent_type: "routing".into(),
        model_type: ModelType::Llm,
        instruction: "Route".into(),
        match_rules: vec![MatchRule::NameSuffix("route".into())],
        own_span_attributes: vec![],
        verdicts: VerdictRules {
            annotation_names: vec![],
            annotator_kinds: vec![],
            approved_labels: vec!["approved".into()],
            rejected_labels: vec!["rejected".into()],
            score_rules: vec![],
            correction_keys: vec![],
            explanation_correction_labels: vec![],
        },
        settings: vec![],
    }
}

fn policy_config() -> PolicyConfig {
    PolicyConfig { min_sft_examples: 50, min_dpo_pairs: 20, min_triplets: 100, settings: vec![] }
}

fn statistics() -> DatasetStatistics {
    DatasetStatistics {
        agent_type: "routing".into(),
        model_type: ModelType::Llm,
        approved_examples: 60,
        preference_pairs: 3,
        triplets: 0,
    }
}
