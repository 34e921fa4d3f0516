//! What the plugin engine costs, and how well it holds a plugin to its deadline: a table to read.
//!
//!     cargo run --release --example plugin_engine [BUSY_THREADS]
#![allow(clippy::unwrap_used)] // a figure that can't be measured is no figure

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tunesmith::plugins::bindings::formatting::FormatterConfig;
use tunesmith::plugins::bindings::types::{Example, InstructionExample, Lineage};
use tunesmith::plugins::{
    Allowance, Extractor, Formatter, Limits, PluginEngine, PluginKind, PluginPackage, PluginRef, Policy, Want,
};

fn main() {
    let busy: usize = std::env::args().nth(1).map_or(0, |n| n.parse().unwrap());
    for _ in 0..busy {
        std::thread::spawn(|| {
            loop {
                std::hint::black_box(0);
            }
        });
    }
    println!("{busy} busy threads beside\n");
    start();
    calls(None);
    calls(Some(1 << 40));
    deadlines();
    compiler();
}

/// The fastest of `n` runs.
fn best<T>(n: usize, mut run: impl FnMut() -> T) -> Duration {
    let time = |run: &mut dyn FnMut() -> T| {
        let start = Instant::now();
        std::hint::black_box(run());
        start.elapsed()
    };
    (0..n).map(|_| time(&mut run)).min().unwrap()
}

fn row(what: &str, took: Duration) {
    println!("{what:<60} {:>10.1} us", took.as_secs_f64() * 1e6);
}

fn start() {
    row("engine: start", best(20, || PluginEngine::new(Limits::default()).unwrap()));
    let load = |engine: &Arc<PluginEngine>| {
        for package in PluginPackage::all_built_in().unwrap() {
            match package.manifest.kind {
                PluginKind::Extractor => drop(Extractor::load(engine, &package).unwrap()),
                PluginKind::Formatter => drop(Formatter::load(engine, &package).unwrap()),
                PluginKind::Policy => drop(Policy::load(engine, &package).unwrap()),
            }
        }
    };
    let uncached = PluginEngine::uncached(Limits::default()).unwrap();
    row("default plugins: compiled", best(3, || load(&uncached)));
    let engine = PluginEngine::new(Limits::default()).unwrap();
    load(&engine);
    row("default plugins: loaded from the cache", best(50, || load(&engine)));
    row(
        "both: a new engine, and them from the cache",
        best(20, || load(&PluginEngine::new(Limits::default()).unwrap())),
    );
}

fn calls(fuel: Option<u64>) {
    let engine = PluginEngine::new(Limits { fuel, ..Limits::default() }).unwrap();
    let mut package = PluginPackage::find(&PluginRef::parse("alpaca-formatter"), PluginKind::Formatter, None).unwrap();
    package.allowance.limits = *engine.limits();
    let formatter = Formatter::load(&engine, &package).unwrap();
    let config = FormatterConfig { agent_type: "routing".into(), settings: vec![] };
    let counted = if fuel.is_some() { ", fuel counted" } else { "" };
    for batch in [0, 1, 64, 256] {
        let examples = examples(batch);
        let took = best(2000, || formatter.format_batch(&config, &examples, 1).unwrap());
        row(&format!("alpaca-formatter: a call of {batch} examples of 1 KB{counted}"), took);
        if batch > 0 {
            row("    an example of it", took / batch as u32);
        }
    }
}

/// 1 KB of text each.
fn examples(n: usize) -> Vec<Example> {
    let example = |index| {
        Example::Instruction(InstructionExample {
            instruction: "Route the following query to the appropriate agent".into(),
            input: format!("{index} {}", "what is the weather in Lisbon? ".repeat(16)),
            output: "the weather agent ".repeat(25),
            corrected: false,
            lineage: Lineage {
                span_ids: vec![format!("{index:016x}")],
                trace_id: format!("{index:032x}"),
                session_id: None,
                annotation_names: vec!["human_approval".into()],
            },
        })
    };
    (0..n).map(example).collect()
}

fn deadlines() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/dist/hostile-formatter.wasm");
    let config = FormatterConfig { agent_type: "routing".into(), settings: vec![("behaviour".into(), "spin".into())] };
    for ms in [10, 50, 100, 300] {
        let deadline = Duration::from_millis(ms);
        let engine = PluginEngine::uncached(Limits { deadline, ..Limits::default() }).unwrap();
        let mut package = PluginPackage::find(&PluginRef::File(path.clone()), PluginKind::Formatter, None).unwrap();
        package.allowance = Allowance { limits: *engine.limits(), wants: [Want::Settings].into() };
        let formatter = Formatter::load(&engine, &package).unwrap();
        let mut took: Vec<_> = (0..20)
            .map(|_| {
                let start = Instant::now();
                formatter.format_batch(&config, &examples(1), 1).unwrap_err();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        took.sort_by(f64::total_cmp);
        println!("a deadline of {ms} ms: stopped after {:.0} ms (median), {:.0} ms (worst of 20)", took[10], took[19]);
    }
}

/// Components that are small for their compiler's work.
fn compiler() {
    let core = |body: String| wat::parse_str(format!("(component (core module {body}))")).unwrap();
    let function = |body: &str| format!("(func (param i64) (result i64) {body})");
    let arithmetic = |n: usize| "(local.set 0 (i64.mul (local.get 0) (i64.const 3))) ".repeat(n) + "(local.get 0)";
    let locals = |n: usize, blocks: usize| {
        let sets: String =
            (0..n).map(|local| format!("(local.set {local} (local.get {}))", (local * 7 + 1) % n)).collect();
        let locals = "i64 ".repeat(n - 1);
        let blocks: String = (0..blocks)
            .map(|_| format!("(loop (if (i64.eqz (local.get 1)) (then {sets})) (br_if 0 (i64.eqz (local.get 2))))"))
            .collect();
        format!("(func (param i64) (result i64) (local {locals}) {blocks} (local.get 0))")
    };
    let bombs = [
        ("10,000 functions of 10 operations", core(function(&arithmetic(10)).repeat(10_000))),
        ("one function of 140,000 operations", core(function(&arithmetic(140_000)))),
        ("one function of 1,000 locals over 20 loops", core(locals(1000, 20))),
        ("one function of 1,000 locals over 200 loops", core(locals(1000, 200))),
        ("100 functions of 1,000 locals over 20 loops", core(locals(1000, 20).repeat(100))),
    ];
    for (what, wasm) in bombs {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.wasm");
        std::fs::write(&path, &wasm).unwrap();
        let package = PluginPackage::find(&PluginRef::File(path), PluginKind::Formatter, None).unwrap();
        let engine = PluginEngine::uncached(Limits::default()).unwrap();
        let start = Instant::now();
        let error = Formatter::load(&engine, &package).err().unwrap().to_string();
        println!(
            "compiling {what} ({} KB): {:.1} s; {}",
            wasm.len() >> 10,
            start.elapsed().as_secs_f64(),
            &error[..error.len().min(60)]
        );
    }
}
