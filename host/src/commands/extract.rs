//! `tunesmith extract`: the training records as JSON lines, in the fields that TRL and sentence-transformers read.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::Answer;
use crate::cli::ExampleChoice;
use crate::config::RunConfig;
use crate::dataset::{self, SkipTable};
use crate::error::HostError;
use crate::pipeline::{self, Formatting, RunPlugins};
use crate::plugins::bindings::formatting::{ChatMessage, TrainingRecord};
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
    lineage: &'a Lineage,
}

#[derive(Serialize)]
struct Summary {
    records: usize,
    spans: u64,
    skipped: SkipTable,
}

pub(super) fn run(
    config: &RunConfig,
    output: Option<&Path>,
    choice: ExampleChoice,
    progress: &Progress,
) -> Result<Answer, HostError> {
    let plugins = RunPlugins::load(config)?;
    let source = pipeline::open_source(config, progress)?;
    let collected = pipeline::collect(config, &source, &plugins.extractor, progress)?;
    let examples = dataset::of_kind(&collected.examples, kind(choice));
    let split = dataset::split(examples, &collected.origins, config.training.seed)?;
    let mut skipped = collected.skipped;
    let sets = [
        ("train", pipeline::format(config, &plugins.formatter, split.train, &mut skipped)?),
        ("held_out", pipeline::format(config, &plugins.formatter, split.held_out, &mut skipped)?),
    ];
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
    let summary = Summary { records, spans: collected.spans, skipped };
    let text =
        format!("{}\n\n{} records from {} spans", report::skip_table(&summary.skipped), summary.records, summary.spans);
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
            let line = Line { set, record: fields(record), lineage: dataset::lineage(source) };
            serde_json::to_writer(&mut output, &line)?;
            output.write_all(b"\n")?;
        }
    }
    output.flush()
}

fn fields(record: &TrainingRecord) -> Value {
    match record {
        TrainingRecord::Text(record) => json!({ "text": record.text, "response_start": record.response_start }),
        TrainingRecord::PromptCompletion(record) => {
            json!({ "prompt": record.prompt, "completion": record.completion })
        }
        TrainingRecord::Chat(messages) => json!({ "messages": turns(messages) }),
        TrainingRecord::Preference(record) => {
            json!({ "prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected })
        }
        // The assistant's turns as messages too, as TRL's conversational preference records have them.
        TrainingRecord::ChatPreference(record) => {
            let answer = |content: &str| json!([{ "role": "assistant", "content": content }]);
            json!({
                "prompt": turns(&record.prompt),
                "chosen": answer(&record.chosen),
                "rejected": answer(&record.rejected),
            })
        }
        TrainingRecord::Triplet(record) => {
            json!({ "anchor": record.anchor, "positive": record.positive, "negative": record.negative })
        }
    }
}

fn turns(messages: &[ChatMessage]) -> Vec<Value> {
    let turn = |message: &ChatMessage| json!({ "role": pipeline::role(message.role), "content": message.content });
    messages.iter().map(turn).collect()
}
