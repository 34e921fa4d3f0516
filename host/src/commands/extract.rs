//! `tunesmith extract`: the training records as JSON lines, in the fields that TRL and sentence-transformers read.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::Answer;
use crate::approval::Approval;
use crate::cli::ExampleChoice;
use crate::config::RunConfig;
use crate::dataset::{self, RedactionCounts, SkipTable};
use crate::error::HostError;
use crate::pipeline::{self, Admitted, Formatting, RecordText, RunPlugins};
use crate::plugins::bindings::types::{ExampleKind, Lineage};
use crate::progress::Progress;
use crate::report;
use crate::run_dir;

#[derive(Serialize)]
struct Line<'a> {
    /// `train` or `held_out`, as in `run.json`.
    set: &'static str,
    #[serde(flatten)]
    record: Value,
    /// Who approved it, where it was generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<&'a Approval>,
    lineage: &'a Lineage,
}

#[derive(Serialize)]
struct Summary {
    records: usize,
    spans: u64,
    skipped: SkipTable,
    redacted: RedactionCounts,
    sha256: Digests,
}

/// Of the records, as `dataset.json` has them where the trainer takes all.
#[derive(Serialize)]
struct Digests {
    train: String,
    held_out: String,
    all: String,
}

pub(super) fn run(
    config: &RunConfig,
    output: Option<&Path>,
    choice: ExampleChoice,
    progress: &Progress,
) -> Result<Answer, HostError> {
    let plugins = RunPlugins::load(config)?;
    let source = pipeline::open_source(config, progress)?;
    let mut collected = pipeline::collect(config, &source, &plugins.extractor, progress)?;
    collected.admit_approved(config)?;
    let split = pipeline::split_kind(config, &collected, kind(choice))?;
    let mut skipped = collected.skipped;
    let sets = [
        ("train", pipeline::format(config, &plugins.formatter, split.train, &mut skipped)?),
        ("held_out", pipeline::format(config, &plugins.formatter, split.held_out, &mut skipped)?),
    ];
    let texts = sets.each_ref().map(|(_, set)| set.records.iter().map(RecordText::new).collect::<Vec<_>>());
    let sources = |side: usize| sets[side].1.sources.iter().map(Admitted::example);
    let prompts = |side: usize| texts[side].iter().map(|text| text.prompt.as_str()).zip(sources(side));
    dataset::check_prompts(prompts(0), prompts(1))?;
    match output {
        Some(path) => run_dir::write_whole(path, |file| write(&sets, file))?,
        None => match write(&sets, &mut io::stdout().lock()) {
            // A reader that has seen enough, such as `head`, is no failure.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(HostError::io("write", Path::new("standard output"))(error));
            }
            _ => {}
        },
    }
    let records = sets.iter().map(|(_, formatting)| formatting.records.len()).sum();
    let [train, held_out] = texts.each_ref().map(pipeline::digest);
    let sha256 = Digests { train, held_out, all: pipeline::digest(texts.iter().flatten()) };
    let summary = Summary { records, spans: collected.spans, skipped, redacted: collected.redacted, sha256 };
    let left_out = report::left_out(&summary.skipped, &summary.redacted);
    let text = format!("{}\n\n{} records from {} spans", left_out, summary.records, summary.spans);
    Ok(Answer { aside: output.is_none(), ..Answer::new(text, &summary) })
}

fn kind(choice: ExampleChoice) -> ExampleKind {
    match choice {
        ExampleChoice::Approved => ExampleKind::ApprovedExample,
        ExampleChoice::Pairs => ExampleKind::PreferencePair,
        ExampleChoice::Triplets => ExampleKind::Triplet,
    }
}

fn write(sets: &[(&'static str, Formatting)], output: &mut dyn Write) -> io::Result<()> {
    let mut output = io::BufWriter::new(output);
    for (set, formatting) in sets {
        for (record, source) in formatting.records.iter().zip(&formatting.sources) {
            let lineage = dataset::lineage(source.example());
            let line = Line { set, record: pipeline::fields(record), approval: source.approval(), lineage };
            serde_json::to_writer(&mut output, &line)?;
            output.write_all(b"\n")?;
        }
    }
    output.flush()
}
