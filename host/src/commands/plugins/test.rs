//! `tunesmith plugins test`

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::authoring::{self, AuthoringError, Call, Fixture, Outcome, Subject, first_difference};
use crate::cli::TestArgs;
use crate::commands::Answer;
use crate::error::HostError;
use crate::plugins::{
    CallCost, Fault, Limits, PluginEngine, PluginError, PluginIdentity, PluginKind, PluginPackage, PluginRef, Surface,
};
use crate::report;

/// Enough for whatever the deadline allows: fuel is counted here, not capped.
const FUEL: u64 = u64::MAX / 2;

/// What came of a fixture.
#[derive(Serialize)]
struct Run {
    fixture: String,
    /// Why it failed; none where it did not.
    failure: Option<String>,
    #[serde(flatten)]
    cost: CallCost,
    #[serde(skip)]
    output: Value,
}

#[derive(Serialize)]
struct Report<'a> {
    plugin: &'a PluginIdentity,
    passed: bool,
    fixtures: Vec<Run>,
    contract: Vec<Outcome>,
}

pub(super) fn run(args: &TestArgs) -> Result<Answer, HostError> {
    let engine = PluginEngine::new(Limits { fuel: Some(FUEL), ..Limits::default() })?;
    let package = find(&engine, &args.plugin)?;
    let kind = package.manifest.kind;
    let subject = Subject::load(&engine, &package)?;
    let agent_type = match package.manifest.agent_types.first().map(String::as_str) {
        None | Some("*") => "routing",
        Some(agent_type) => agent_type,
    };
    let fixtures = match &args.fixtures {
        Some(path) => authoring::read_fixtures(path, kind)?,
        None => authoring::built_in_fixtures(kind, agent_type, &args.settings),
    };
    let expected = match &args.expect {
        Some(path) if !args.update => Some(authoring::read_expectations(path)?),
        _ => None,
    };
    let fixtures: Vec<_> = fixtures.iter().map(|fixture| run_fixture(&subject, fixture, expected.as_ref())).collect();
    if let Some(path) = args.expect.as_deref().filter(|_| args.update) {
        update(path, &fixtures)?;
    }
    let contract = authoring::conform(&subject, agent_type, &args.settings);
    let passed =
        fixtures.iter().all(|run| run.failure.is_none()) && contract.iter().all(|check| check.failure.is_none());
    let report = Report { plugin: subject.identity(), passed, fixtures, contract };
    Ok(Answer { exit_code: u8::from(!passed), ..Answer::new(text(&report), &report) })
}

/// A built-in plugin, or a component of the kind that it exports where no manifest says so.
fn find(engine: &PluginEngine, plugin: &str) -> Result<PluginPackage, HostError> {
    let reference = PluginRef::parse(plugin);
    let PluginRef::File(path) = &reference else {
        let mut built_in = PluginPackage::all_built_in()?;
        let kind = built_in.iter().find(|package| package.manifest.name == plugin).map(|package| package.manifest.kind);
        built_in.clear();
        return Ok(PluginPackage::find(&reference, kind.unwrap_or(PluginKind::Formatter), None)?);
    };
    let wasm = std::fs::read(path).map_err(|source| PluginError::Read { path: path.clone(), source })?;
    let surface = Surface::of(engine, plugin, &wasm)?;
    let kind = surface.kind().ok_or_else(|| {
        let found = format!("`{}`", surface.exports.join("`, `"));
        AuthoringError::NoKind { plugin: plugin.to_owned(), found }
    })?;
    Ok(PluginPackage::find(&reference, kind, None)?)
}

fn run_fixture(subject: &Subject, fixture: &Fixture, expected: Option<&BTreeMap<String, Value>>) -> Run {
    let before = subject.costs().total;
    let first = called(subject, &fixture.call);
    let cost = since(before, subject);
    let failure = failure(subject, fixture, &first, expected);
    let output = first.unwrap_or_else(|error| json!({ "error": error }));
    Run { fixture: fixture.name.clone(), failure, cost, output }
}

/// What a call gives; an error that the plugin chose is an answer too, and is held to the expectation.
fn called(subject: &Subject, call: &Call) -> Result<Value, String> {
    match subject.call(call) {
        Ok(output) => Ok(output),
        Err(PluginError::Call { fault: Fault::Plugin(own), .. }) => Ok(json!({ "error": own })),
        Err(error) => Err(error.to_string()),
    }
}

fn failure(
    subject: &Subject,
    fixture: &Fixture,
    first: &Result<Value, String>,
    expected: Option<&BTreeMap<String, Value>>,
) -> Option<String> {
    let first = match first {
        Ok(output) => output,
        Err(error) => return Some(error.clone()),
    };
    match called(subject, &fixture.call) {
        Ok(second) => {
            if let Some(difference) = first_difference(first, &second) {
                return Some(format!("the same call twice gave something else: {difference}"));
            }
        }
        Err(error) => return Some(format!("the same call failed the second time: {error}")),
    }
    if let Some(difference) = one_by_one(subject, &fixture.call, first) {
        return Some(format!("an example alone gave something else than among others: {difference}"));
    }
    match expected?.get(&fixture.name) {
        None => Some("the file of `--expect` has nothing under this name; write it with `--update`".to_owned()),
        Some(expected) => first_difference(expected, first).map(|difference| format!("not as expected: {difference}")),
    }
}

/// A formatter's batch as batches of one: results must not depend on what else is in the batch.
fn one_by_one(subject: &Subject, call: &Call, together: &Value) -> Option<String> {
    let (Call::Format(config, examples), Value::Array(together)) = (call, together) else { return None };
    examples.iter().zip(together).enumerate().find_map(|(index, (example, expected))| {
        match called(subject, &Call::Format(config.clone(), vec![example.clone()])) {
            Ok(alone) => {
                first_difference(&json!([expected]), &alone).map(|difference| format!("[{index}]{difference}"))
            }
            Err(error) => Some(format!("[{index}]: {error}")),
        }
    })
}

fn since(before: CallCost, subject: &Subject) -> CallCost {
    let costs = subject.costs();
    CallCost {
        wall: costs.total.wall - before.wall,
        fuel: costs.total.fuel.map(|fuel| fuel - before.fuel.unwrap_or(0)),
        memory_bytes: costs.total.memory_bytes - before.memory_bytes,
        log_bytes: costs.total.log_bytes - before.log_bytes,
    }
}

fn update(path: &Path, runs: &[Run]) -> Result<(), AuthoringError> {
    let outputs: Vec<_> = runs.iter().map(|run| (run.fixture.as_str(), &run.output)).collect();
    authoring::write_expectations(path, &outputs)
}

fn text(report: &Report) -> String {
    let mut fixtures = report::table();
    fixtures.set_header(["fixture", "", "ms", "fuel", "KiB"]);
    for run in &report.fixtures {
        fixtures.add_row([
            run.fixture.clone(),
            if run.failure.is_some() { "FAILED" } else { "ok" }.to_owned(),
            format!("{:.2}", millis(run.cost.wall)),
            run.cost.fuel.map_or_else(String::new, |fuel| fuel.to_string()),
            (run.cost.memory_bytes / 1024).to_string(),
        ]);
    }
    let mut contract = report::table();
    contract.set_header(["contract", ""]);
    for outcome in &report.contract {
        contract.add_row([outcome.check, if outcome.failure.is_some() { "FAILED" } else { "ok" }]);
    }
    let mut text = format!("{fixtures}\n\n{contract}\n");
    let of_fixtures = report.fixtures.iter().map(|run| (run.fixture.as_str(), &run.failure));
    let of_contract = report.contract.iter().map(|outcome| (outcome.check, &outcome.failure));
    for (name, failure) in of_fixtures.chain(of_contract) {
        if let Some(failure) = failure {
            text.push_str(&format!("\nFAILED {name}: {failure}"));
        }
    }
    let verdict = if report.passed { "passed" } else { "did not pass" };
    text.push_str(&format!("\n{} {verdict}", report.plugin.name));
    text
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
