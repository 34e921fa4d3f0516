//! What a run found out, as JSON and as a table.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use trainer_cuda::method::{Evaluation, MethodMetrics};
use trainer_cuda::trainer::Stopped;

use crate::config::Modality;
use crate::dataset::{RedactionCounts, SkipTable};
use crate::plugins::bindings::selection_policy::{self, DatasetStatistics, TrainingChoice};
use crate::plugins::bindings::types::{ExampleKind, TrainingMethod};

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// Whose data it was.
    pub tenant_id: String,
    /// The telemetry project.
    pub project: String,
    /// The agent.
    pub agent_type: String,
    /// Of an embedding model's documents.
    pub modality: Option<Modality>,
    /// What was trained, and why.
    pub decision: Decision,
    /// What was trained.
    pub base_model: PathBuf,
    /// False where every weight was trained.
    pub lora: bool,
    /// What it was trained on.
    pub device: String,
    /// Why it was that, where `auto` chose.
    pub device_choice: Option<String>,
    /// The job that trained, where it wasn't this process.
    pub job: Option<RemoteJob>,
    /// Spans that the extractor saw.
    pub spans: u64,
    /// Examples that could train, by kind.
    pub examples: ExampleCounts,
    /// What was left out, by reason.
    pub skipped: SkipTable,
    /// How often something was taken out of the spans' texts, by what it was.
    pub redacted: RedactionCounts,
    /// Examples that trained.
    pub n_train: usize,
    /// Of those, examples that were generated, and whose approval a person gave.
    pub n_synthetic: usize,
    /// Who gave them, by name.
    pub approved_by: BTreeSet<String>,
    /// Examples that judged.
    pub n_held_out: usize,
    /// Of those, examples whose input is nearly one of training.
    pub n_held_out_near_training: usize,
    /// Of the records that trained and judged.
    pub dataset_sha256: String,
    /// Adapter against base; none where there were too few examples to hold any out.
    pub held_out: Option<HeldOutComparison>,
    /// Loss of the last optimiser step.
    pub final_train_loss: f64,
    /// Optimiser steps done.
    pub steps: usize,
    /// Whether they were all, or the held-out loss stopped falling.
    pub stopped: Stopped,
    /// Where early stopping keeps the best weights, the step that they are of.
    pub best_step: Option<usize>,
    /// The step of the checkpoint that the run went on from.
    pub resumed_at: Option<usize>,
    /// The adapter's folder.
    pub adapter_path: PathBuf,
    /// Where the time went.
    pub timings: Timings,
    /// Tokens of the examples trained on, per second of training.
    pub tokens_per_second: f64,
    /// The most memory held at once.
    pub peak_rss_bytes: u64,
}

/// A job of another machine's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RemoteJob {
    /// Its name.
    pub key: String,
    /// The engine: `slurm`.
    pub engine: String,
    /// Attempts that it took.
    pub attempts: u32,
    /// Seconds from its submission until the adapter was here.
    pub took_s: f64,
    /// USD by the price table, where it has the GPU: what all attempts were on machines.
    pub cost_usd: Option<f64>,
}

/// What the data is good for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// `sft`, `dpo` or `triplet`; none where more data is needed.
    pub method: Option<&'static str>,
    /// 0 to 1.
    pub confidence: Option<f64>,
    /// The policy's words.
    pub reason: String,
    /// What is short, any one of which would do.
    pub shortfalls: Vec<Shortfall>,
}

/// How far a kind of example is from its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shortfall {
    /// `approved_examples`, `preference_pairs` or `triplets`.
    pub kind: &'static str,
    /// How many there are.
    pub have: u32,
    /// How many it takes.
    pub need: u32,
}

/// Examples that could train: distinct, less those that would be held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExampleCounts {
    /// For SFT.
    pub approved_examples: u32,
    /// For DPO.
    pub preference_pairs: u32,
    /// For embedding models.
    pub triplets: u32,
}

/// Adapter against base on examples that neither was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HeldOutComparison {
    /// The base model's scores.
    pub base: Evaluation,
    /// The adapter's.
    pub adapter: Evaluation,
    /// True where the adapter's loss is lower and it is right no less often; for preference pairs, where it also
    /// prefers more of the chosen than of the rejected sides.
    pub adapter_beats_base: bool,
}

/// Where the time went, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timings {
    /// From the start to the first optimiser step: reading, extraction, encoding, loading, the base's scores.
    pub before_training_s: f64,
    /// Of that, in plugin calls.
    pub plugins_s: f64,
    /// `plugins_s / before_training_s`.
    pub plugin_share: f64,
    /// In optimiser steps.
    pub training_s: f64,
    /// Of the whole run.
    pub total_s: f64,
}

impl HeldOutComparison {
    /// Compares two scores of the same examples.
    pub fn new(base: Evaluation, adapter: Evaluation) -> Self {
        let least = match adapter.metrics {
            // The base prefers neither side to what it does itself: its accuracy is 0 by definition.
            MethodMetrics::Dpo { .. } => 0.5,
            MethodMetrics::Sft { .. } | MethodMetrics::Triplet { .. } => base.accuracy(),
        };
        let adapter_beats_base = adapter.loss < base.loss && adapter.accuracy() >= least;
        Self { base, adapter, adapter_beats_base }
    }

    /// The sentence that a run ends with.
    pub fn verdict(&self) -> &'static str {
        if self.adapter_beats_base { "adapter beats base" } else { "adapter does not beat base" }
    }
}

impl Timings {
    /// From durations; the total is told by the run's end.
    pub fn new(before_training: Duration, plugins: Duration, training: Duration) -> Self {
        Self {
            before_training_s: before_training.as_secs_f64(),
            plugins_s: plugins.as_secs_f64(),
            plugin_share: plugins.as_secs_f64() / before_training.as_secs_f64().max(1e-9),
            training_s: training.as_secs_f64(),
            total_s: 0.0,
        }
    }
}

/// The word for a method in names and reports.
pub fn method_name(method: TrainingMethod) -> &'static str {
    match method {
        TrainingMethod::Sft => "sft",
        TrainingMethod::Dpo => "dpo",
        TrainingMethod::Triplet => "triplet",
    }
}

impl From<TrainingChoice> for Decision {
    fn from(choice: TrainingChoice) -> Self {
        let TrainingChoice { method, confidence, reason } = choice;
        Self { method: Some(method_name(method)), confidence: Some(confidence), reason, shortfalls: Vec::new() }
    }
}

impl From<selection_policy::Decision> for Decision {
    fn from(decision: selection_policy::Decision) -> Self {
        match decision {
            selection_policy::Decision::Train(choice) => choice.into(),
            selection_policy::Decision::Insufficient(short) => Self {
                method: None,
                confidence: None,
                reason: short.reason,
                shortfalls: short.shortfalls.iter().map(Shortfall::from).collect(),
            },
        }
    }
}

impl From<&selection_policy::Shortfall> for Shortfall {
    fn from(shortfall: &selection_policy::Shortfall) -> Self {
        let kind = match shortfall.kind {
            ExampleKind::ApprovedExample => "approved_examples",
            ExampleKind::PreferencePair => "preference_pairs",
            ExampleKind::Triplet => "triplets",
        };
        Self { kind, have: shortfall.have, need: shortfall.need }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.method {
            Some(method) => write!(f, "{method} ({})", self.reason),
            None => write!(f, "not enough to train ({})", self.reason),
        }
    }
}

impl From<&DatasetStatistics> for ExampleCounts {
    fn from(statistics: &DatasetStatistics) -> Self {
        let DatasetStatistics { approved_examples, preference_pairs, triplets, .. } = *statistics;
        Self { approved_examples, preference_pairs, triplets }
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", left_out(&self.skipped, &self.redacted))?;
        let mut table = table();
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("method", self.decision.to_string());
        row("examples", format!("{} to train, {} held out, from {} spans", self.n_train, self.n_held_out, self.spans));
        if self.n_synthetic > 0 {
            let people: Vec<_> = self.approved_by.iter().map(String::as_str).collect();
            let (n, people) = (self.n_synthetic, people.join(", "));
            row("", format!("{n} of those that train were generated, and approved by {people}"));
        }
        if self.n_held_out_near_training > 0 {
            row("", format!("{} of those held out are nearly in training", self.n_held_out_near_training));
        }
        row("device", self.device.clone());
        if let Some(why) = &self.device_choice {
            row("", format!("chosen, as {why}"));
        }
        if let Some(job) = &self.job {
            let attempts = if job.attempts == 1 { String::new() } else { format!(", {} attempts", job.attempts) };
            let cost = job.cost_usd.map(|usd| format!(", about {usd:.2} USD")).unwrap_or_default();
            row("job", format!("{} at {}, {:.1} s{attempts}{cost}", job.key, job.engine, job.took_s));
        }
        row("steps", self.steps_told());
        row(
            "training",
            format!(
                "{:.1} s, {:.0} tokens/s, last loss {:.4}",
                self.timings.training_s, self.tokens_per_second, self.final_train_loss
            ),
        );
        row(
            "before it",
            format!(
                "{:.1} s, {:.1}% of it in plugins",
                self.timings.before_training_s,
                100.0 * self.timings.plugin_share
            ),
        );
        row("whole run", format!("{:.1} s, peak memory {} MiB", self.timings.total_s, self.peak_rss_bytes >> 20));
        row("adapter", self.adapter_path.display().to_string());
        writeln!(f, "{table}\n")?;
        match &self.held_out {
            Some(held_out) => write!(f, "{}\n\n{}", scores(held_out), held_out.verdict()),
            None => write!(f, "adapter was not compared with base: too few examples to hold any out"),
        }
    }
}

/// What was left out, and what was redacted where anything was.
pub fn left_out(skipped: &SkipTable, redacted: &RedactionCounts) -> String {
    if redacted.is_empty() {
        return skip_table(skipped);
    }
    let mut table = table();
    table.set_header(["redacted", "count"]);
    for (what, count) in redacted {
        table.add_row([what.clone(), count.to_string()]);
    }
    align_right(&mut table, &[1]);
    format!("{}\n\n{table}", skip_table(skipped))
}

/// Reason and count of what was left out.
pub fn skip_table(skipped: &SkipTable) -> String {
    if skipped.total() == 0 {
        return " nothing was left out".to_owned();
    }
    let mut table = table();
    table.set_header(["left out", "count"]);
    for (reason, count) in skipped.rows() {
        table.add_row([reason.to_owned(), count.to_string()]);
    }
    align_right(&mut table, &[1]);
    table.to_string()
}

/// A table without a frame; on a terminal it fits the width, into a pipe its lines stay whole.
pub fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    // A pseudo-terminal without a size says 0, and a column of single letters helps nobody.
    if table.width().is_some_and(|width| width >= 60) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

impl RunReport {
    fn steps_told(&self) -> String {
        let mut told = self.steps.to_string();
        if let Some(step) = self.resumed_at {
            told.push_str(&format!(", resumed after step {step}"));
        }
        if self.stopped == Stopped::Early {
            told.push_str(", stopped early");
        }
        if let Some(step) = self.best_step {
            told.push_str(&format!(", with the weights of step {step}"));
        }
        told
    }
}

/// A method's figures by their names, the loss first.
pub fn figures(loss: f64, metrics: &MethodMetrics) -> Vec<(&'static str, String)> {
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    let mut figures = vec![("loss", format!("{loss:.4}"))];
    match *metrics {
        MethodMetrics::Sft { exact_match } => figures.extend(exact_match.map(|share| ("exact match", percent(share)))),
        MethodMetrics::Dpo { reward_accuracy, reward_margin, chosen_reward, rejected_reward } => figures.extend([
            ("reward accuracy", percent(reward_accuracy)),
            ("reward margin", format!("{reward_margin:.4}")),
            ("chosen reward", format!("{chosen_reward:.4}")),
            ("rejected reward", format!("{rejected_reward:.4}")),
        ]),
        MethodMetrics::Triplet { triplet_accuracy, positive_distance, negative_distance } => figures.extend([
            ("triplet accuracy", percent(triplet_accuracy)),
            ("positive distance", format!("{positive_distance:.4}")),
            ("negative distance", format!("{negative_distance:.4}")),
        ]),
    }
    figures
}

fn scores(held_out: &HeldOutComparison) -> Table {
    let mut table = table();
    let columns = figures(held_out.base.loss, &held_out.base.metrics);
    table.set_header(std::iter::once("held out").chain(columns.iter().map(|(name, _)| *name)));
    for (name, scores) in [("base", &held_out.base), ("adapter", &held_out.adapter)] {
        let values = figures(scores.loss, &scores.metrics).into_iter().map(|(_, value)| value);
        table.add_row(std::iter::once(name.to_owned()).chain(values));
    }
    align_right(&mut table, &(1..=columns.len()).collect::<Vec<_>>());
    table
}

/// Numbers stand below each other by their ends.
pub fn align_right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(loss: f64, exact_match: f64) -> Evaluation {
        Evaluation {
            loss,
            n_examples: 10,
            n_labels: 40,
            metrics: MethodMetrics::Sft { exact_match: Some(exact_match) },
        }
    }

    #[test]
    fn an_adapter_beats_its_base_only_with_a_lower_loss_and_no_fewer_exact_answers() {
        let verdict = |adapter| HeldOutComparison::new(scores(1.0, 0.5), adapter).verdict();
        assert_eq!(verdict(scores(0.9, 0.5)), "adapter beats base");
        assert_eq!(verdict(scores(0.9, 0.4)), "adapter does not beat base");
        assert_eq!(verdict(scores(1.0, 0.9)), "adapter does not beat base");
        assert_eq!(verdict(scores(f64::NAN, 0.9)), "adapter does not beat base");
    }

    #[test]
    fn a_dpo_adapter_beats_its_base_only_where_it_prefers_more_chosen_than_rejected_sides() {
        let scores = |loss, reward_accuracy| {
            let (reward_margin, chosen_reward, rejected_reward) = (0.0, 0.0, 0.0);
            let metrics = MethodMetrics::Dpo { reward_accuracy, reward_margin, chosen_reward, rejected_reward };
            Evaluation { loss, n_examples: 10, n_labels: 40, metrics }
        };
        let verdict = |adapter| HeldOutComparison::new(scores(std::f64::consts::LN_2, 0.0), adapter).adapter_beats_base;
        assert!(verdict(scores(0.5, 0.6)));
        assert!(!verdict(scores(0.5, 0.4)));
        assert!(!verdict(scores(0.7, 0.6)));
    }

    #[test]
    fn the_skip_table_has_a_row_per_reason() {
        let mut skipped = SkipTable::default();
        skipped.add_many("no verdict", 120);
        skipped.add("empty output");
        let lines: Vec<_> = skip_table(&skipped).lines().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(lines, [" left out      count", " no verdict      120", " empty output      1"]);
    }
}
