//! The dataset card: what was trained on, counted, measured and with digests to know it again by.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::config::RunConfig;
use crate::dataset::{self, KindCounts, NearDuplicates, RedactionCounts, SkipTable};
use crate::plugins::PluginIdentity;
use crate::plugins::bindings::types::Example;

use super::records::{RecordText, digest};
use super::{Admitted, Collected, RunPlugins};

/// Outputs that are listed, the most frequent ones.
const MAX_OUTPUTS: usize = 20;
/// Characters of each.
const MAX_OUTPUT_LENGTH: usize = 200;

/// `dataset.json`.
#[derive(Debug, Serialize)]
pub(super) struct DatasetCard<'a> {
    /// SHA-256 over all records: those of training, then those held out.
    pub(super) sha256: String,
    train: SetCard,
    held_out: SetCard,
    split: SplitCard,
    near_duplicates: NearDuplicateCard,
    /// Spans that the extractor saw.
    spans: u64,
    /// When the first and the last span of an example started.
    first_span_at: Option<String>,
    last_span_at: Option<String>,
    /// What the extractor made of them.
    extracted: KindCounts,
    /// Without duplicates and contradictions.
    distinct: KindCounts,
    left_out: &'a SkipTable,
    redacted: &'a RedactionCounts,
    /// How many different outputs there are, and the most frequent ones.
    n_outputs: usize,
    outputs: Vec<OutputCount>,
    plugins: [&'a PluginIdentity; 3],
}

#[derive(Debug, Serialize)]
struct SetCard {
    examples: usize,
    /// Of them, those that were generated and that a person approved.
    synthetic: usize,
    sha256: String,
    input_characters: Lengths,
    output_characters: Lengths,
    tokens: Lengths,
}

#[derive(Debug, Serialize)]
struct SplitCard {
    seed: u64,
    held_out_share: f64,
}

#[derive(Debug, Serialize)]
struct NearDuplicateCard {
    handling: NearDuplicates,
    threshold: f64,
    /// Held-out examples whose input is nearly one of training.
    pub(super) held_out_near_training: usize,
}

/// Nearest ranks; 0 where there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Lengths {
    p50: usize,
    p90: usize,
    p99: usize,
    max: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct OutputCount {
    output: String,
    train: usize,
    held_out: usize,
}

/// One side of the split.
pub(super) struct Side<'a> {
    pub(super) examples: &'a [Admitted],
    pub(super) records: &'a [RecordText],
    /// Tokens of each.
    pub(super) tokens: Vec<usize>,
}

impl<'a> DatasetCard<'a> {
    pub(super) fn new(
        config: &RunConfig,
        plugins: &'a RunPlugins,
        collected: &'a Collected,
        held_out_near_training: usize,
        [train, held_out]: [&Side<'_>; 2],
    ) -> Self {
        let all = train.examples.len() + held_out.examples.len();
        let starts = || {
            let spans =
                train.examples.iter().chain(held_out.examples).flat_map(|it| &dataset::lineage(it.example()).span_ids);
            spans.filter_map(|id| collected.origins.of(id)).map(|origin| origin.start_time_ns)
        };
        let outputs = outputs(train.examples, held_out.examples);
        Self {
            sha256: digest(train.records.iter().chain(held_out.records)),
            train: SetCard::new(train),
            held_out: SetCard::new(held_out),
            split: SplitCard {
                seed: config.training.seed,
                held_out_share: held_out.examples.len() as f64 / all.max(1) as f64,
            },
            near_duplicates: NearDuplicateCard {
                handling: config.dataset.near_duplicates,
                threshold: config.dataset.near_duplicate_threshold,
                held_out_near_training,
            },
            spans: collected.spans,
            first_span_at: starts().min().and_then(time),
            last_span_at: starts().max().and_then(time),
            extracted: collected.extracted,
            distinct: dataset::counts(&collected.examples),
            left_out: &collected.skipped,
            redacted: &collected.redacted,
            n_outputs: outputs.len(),
            outputs: most_frequent(outputs),
            plugins: plugins.identities(),
        }
    }

    /// A section of the run's README.
    pub(super) fn section(&self) -> String {
        let mut text =
            String::from("## Data\n\n| | approved examples | preference pairs | triplets |\n|---|---:|---:|---:|\n");
        for (what, counts) in [("extracted", self.extracted), ("distinct", self.distinct)] {
            let KindCounts { approved_examples, preference_pairs, triplets } = counts;
            let _ = writeln!(text, "| {what} | {approved_examples} | {preference_pairs} | {triplets} |");
        }
        if let (Some(first), Some(last)) = (&self.first_span_at, &self.last_span_at) {
            let _ = writeln!(text, "\nFrom {} spans; those behind the examples are of {first} to {last}.", self.spans);
        }
        if self.train.synthetic > 0 {
            let _ = writeln!(
                text,
                "{} of the training examples were generated, and approved one by one: `run.json` says by whom. None judges.",
                self.train.synthetic
            );
        }
        let near = &self.near_duplicates;
        let _ = writeln!(
            text,
            "Of {} held-out examples {} have an input that is nearly one of training (an overlap of {} or more).",
            self.held_out.examples, near.held_out_near_training, near.threshold
        );
        text.push_str("\n| | examples | tokens: median | 90% | 99% | longest | SHA-256 of the records |\n|---|---:|---:|---:|---:|---:|---|\n");
        for (what, SetCard { examples, sha256, tokens, .. }) in [("train", &self.train), ("held out", &self.held_out)] {
            let Lengths { p50, p90, p99, max } = tokens;
            let _ = writeln!(text, "| {what} | {examples} | {p50} | {p90} | {p99} | {max} | `{sha256}` |");
        }
        let left_out: Vec<_> = self.left_out.rows().into_iter().map(|(why, n)| (why.to_owned(), n)).collect();
        let redacted: Vec<_> = self.redacted.iter().map(|(what, n)| (what.clone(), *n)).collect();
        for (what, rows) in [("left out", left_out), ("redacted", redacted)] {
            if !rows.is_empty() {
                let _ = writeln!(text, "\n| {what} | count |\n|---|---:|");
                for (name, count) in rows {
                    let _ = writeln!(text, "| {} | {count} |", cell(&name));
                }
            }
        }
        let _ = writeln!(text, "\nOf {} different outputs, the most frequent:\n", self.n_outputs);
        text.push_str("| output | train | held out |\n|---|---:|---:|\n");
        for OutputCount { output, train, held_out } in &self.outputs {
            let _ = writeln!(text, "| {} | {train} | {held_out} |", cell(output));
        }
        text
    }
}

impl SetCard {
    fn new(side: &Side<'_>) -> Self {
        let characters = |text: fn(&Example) -> &str| {
            Lengths::new(side.examples.iter().map(|example| text(example.example()).chars().count()).collect())
        };
        Self {
            examples: side.examples.len(),
            synthetic: side.examples.iter().filter(|example| example.approval().is_some()).count(),
            sha256: digest(side.records),
            input_characters: characters(dataset::input),
            output_characters: characters(dataset::output),
            tokens: Lengths::new(side.tokens.clone()),
        }
    }
}

impl Lengths {
    fn new(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let rank = |percent: usize| {
            let rank = (lengths.len() * percent).div_ceil(100).max(1);
            lengths.get(rank - 1).copied().unwrap_or(0)
        };
        Self { p50: rank(50), p90: rank(90), p99: rank(99), max: rank(100) }
    }
}

fn outputs(train: &[Admitted], held_out: &[Admitted]) -> BTreeMap<String, [usize; 2]> {
    let mut outputs: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for (side, examples) in [train, held_out].into_iter().enumerate() {
        for example in examples {
            outputs.entry(dataset::output(example.example()).to_owned()).or_default()[side] += 1;
        }
    }
    outputs
}

/// Equally frequent ones by their text.
fn most_frequent(outputs: BTreeMap<String, [usize; 2]>) -> Vec<OutputCount> {
    let mut outputs: Vec<_> = outputs.into_iter().collect();
    outputs.sort_by_key(|(_, [train, held_out])| std::cmp::Reverse(train + held_out));
    let shown = outputs.into_iter().take(MAX_OUTPUTS);
    shown.map(|(output, [train, held_out])| OutputCount { output: cut(&output), train, held_out }).collect()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_OUTPUT_LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A text in a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('\\', "\\\\").replace('|', "\\|")
}

/// `None` for a time that no calendar has.
fn time(ns: u64) -> Option<String> {
    let time = jiff::Timestamp::from_nanosecond(ns.into()).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        assert_eq!(Lengths::new((1..=200).rev().collect()), Lengths { p50: 100, p90: 180, p99: 198, max: 200 });
        assert_eq!(Lengths::new(vec![7]), Lengths { p50: 7, p90: 7, p99: 7, max: 7 });
        assert_eq!(Lengths::new(Vec::new()), Lengths { p50: 0, p90: 0, p99: 0, max: 0 });
    }

    #[test]
    fn the_most_frequent_outputs_come_first_and_long_ones_are_cut() {
        let long = "é".repeat(201);
        let outputs = BTreeMap::from([("b".to_owned(), [1, 1]), ("a".to_owned(), [2, 0]), (long, [2, 1])]);
        let told = most_frequent(outputs);
        let expected = |output: &str, train, held_out| OutputCount { output: output.to_owned(), train, held_out };
        let cut = format!("{}…", "é".repeat(200));
        assert_eq!(told, [expected(&cut, 2, 1), expected("a", 2, 0), expected("b", 1, 1)]);
        assert_eq!(most_frequent((0..30).map(|n| (n.to_string(), [1, 0])).collect()).len(), 20);
    }

    #[test]
    fn a_cell_of_a_table_stays_one() {
        assert_eq!(cell("a | b\n\\c"), "a \\| b \\\\c");
    }
}
