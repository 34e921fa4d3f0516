//! What a formatter costs: natively and as a component, cold, from the cache and warm, alone and in batches.
//!
//! `plugin_costs [NAME=COMPONENT.wasm ...]`; `run.sh` builds the components and gives it an empty cache. Times are the
//! least of many repetitions: other load makes a time longer, never shorter.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tunesmith::plugins::bindings::formatting::{
    Formatted, FormatterConfig, PreferenceRecord, TextRecord, TrainingRecord, TripletRecord,
};
use tunesmith::plugins::bindings::types::{Example, InstructionExample, Lineage};
use tunesmith::plugins::{
    Extractor, Formatter, Limits, PluginEngine, PluginError, PluginKind, PluginPackage, PluginRef, Policy,
};

const BATCHES: [usize; 3] = [1, 64, 1024];
/// How long each figure is measured.
const PATIENCE: Duration = Duration::from_millis(700);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let components = std::env::args().skip(1).map(|argument| {
        let (name, path) = argument.split_once('=').ok_or("give NAME=COMPONENT.wasm")?;
        Ok((name.to_owned(), PluginRef::File(PathBuf::from(path))))
    });
    let components: Vec<_> = components.collect::<Result<_, &str>>()?;

    println!(
        "| formatter | component | compiled | from cache | empty call | batch 1 | batch 64 | batch 1024 | memory |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let native = BATCHES.map(|n| {
        let examples = examples(n);
        micros(least(|| drop(black_box(native(&examples))))) / n as f64
    });
    println!("| native Rust | | | | | {:.2} | {:.2} | {:.2} | |", native[0], native[1], native[2]);
    let built_in = [("Rust".to_owned(), PluginRef::BuiltIn("alpaca-formatter".to_owned()))];
    for (name, reference) in built_in.iter().chain(&components) {
        row(name, reference, native)?;
    }
    println!(
        "\nall default plugins, engine included, from the cache: {:.2} ms",
        start_of_defaults()?.as_secs_f64() * 1e3
    );
    println!("the 1024 are {} calls of {} each", 1024 / Formatter::MAX_BATCH, Formatter::MAX_BATCH);
    Ok(())
}

fn row(name: &str, reference: &PluginRef, native: [f64; 3]) -> Result<(), PluginError> {
    let engine = PluginEngine::new(Limits::default())?;
    let package = PluginPackage::find(reference, PluginKind::Formatter, None)?;
    let start = Instant::now();
    let formatter = Formatter::load(&engine, &package)?;
    let compiled = start.elapsed();
    let cached = least(|| drop(black_box(Formatter::load(&engine, &package))));
    let config = FormatterConfig { agent_type: "routing".to_owned(), settings: vec![] };
    let empty = least(|| drop(black_box(formatter.format_batch(&config, &[], 1))));
    let mut cells = Vec::new();
    for (n, native) in BATCHES.into_iter().zip(native) {
        let examples = examples(n);
        formatter.format(&config, &examples)?;
        let each = micros(least(|| drop(black_box(formatter.format(&config, &examples))))) / n as f64;
        let ratio = each / native;
        cells.push(if ratio < 10.0 { format!("{each:.2} ({ratio:.1}x)") } else { format!("{each:.2} ({ratio:.0}x)") });
    }
    println!(
        "| {name} | {} KB | {:.0} ms | {:.2} ms | {:.0} us | {} | {} KB |",
        package.size_bytes() / 1000,
        compiled.as_secs_f64() * 1e3,
        cached.as_secs_f64() * 1e3,
        micros(empty),
        cells.join(" | "),
        formatter.costs().max.memory_bytes / 1000
    );
    Ok(())
}

/// A new engine and the five default plugins, as a process that starts has them.
fn start_of_defaults() -> Result<Duration, PluginError> {
    let load = || -> Result<Arc<PluginEngine>, PluginError> {
        let engine = PluginEngine::new(Limits::default())?;
        for package in PluginPackage::all_built_in()? {
            match package.manifest.kind {
                PluginKind::Extractor => drop(Extractor::load(&engine, &package)?),
                PluginKind::Formatter => drop(Formatter::load(&engine, &package)?),
                PluginKind::Policy => drop(Policy::load(&engine, &package)?),
            }
        }
        Ok(engine)
    };
    load()?;
    Ok(least(|| drop(black_box(load()))))
}

/// The least time of `work`, over and over.
fn least(mut work: impl FnMut()) -> Duration {
    let (end, mut least) = (Instant::now() + PATIENCE, Duration::MAX);
    for done in 0.. {
        if done >= 5 && Instant::now() > end {
            break;
        }
        let start = Instant::now();
        work();
        least = least.min(start.elapsed());
    }
    least
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Of 1 KB each, most of it the input.
fn examples(n: usize) -> Vec<Example> {
    let example = |id: usize| {
        Example::Instruction(InstructionExample {
            instruction: "Route the following query to the appropriate agent".to_owned(),
            input: "What's the weather in Málaga? ".repeat(30),
            output: "weather_agent".to_owned(),
            corrected: false,
            lineage: Lineage {
                span_ids: vec![format!("{id:016x}")],
                trace_id: format!("{id:032x}"),
                session_id: None,
                annotation_names: vec!["approval".to_owned()],
            },
        })
    };
    (0..n).map(example).collect()
}

/// The rules of `alpaca-formatter`, without a boundary.
fn native(examples: &[Example]) -> Vec<Formatted> {
    let prompt = |instruction: &str, input: &str| match input {
        "" => format!("### Instruction:\n{instruction}\n### Response:\n"),
        _ => format!("### Instruction:\n{instruction}\n### Input:\n{input}\n### Response:\n"),
    };
    let format = |example: &Example| match example {
        Example::Instruction(e) if e.output.trim().is_empty() => Formatted::Skipped("empty output".to_owned()),
        Example::Instruction(e) => {
            let mut text = prompt(&e.instruction, &e.input);
            let response_start = u32::try_from(text.len()).ok();
            text.push_str(&e.output);
            Formatted::Ready(TrainingRecord::Text(TextRecord { text, response_start }))
        }
        Example::Preference(e) => Formatted::Ready(TrainingRecord::Preference(PreferenceRecord {
            prompt: prompt(&e.instruction, &e.input),
            chosen: e.chosen.clone(),
            rejected: e.rejected.clone(),
        })),
        Example::Triplet(e) => Formatted::Ready(TrainingRecord::Triplet(TripletRecord {
            anchor: e.anchor.clone(),
            positive: e.positive.clone(),
            negative: e.negative.clone(),
        })),
    };
    examples.iter().map(format).collect()
}
