//! All that is known of a run.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::series::{METRICS, Series, Tail};
use super::summary::{RUN, RunState, RunSummary};
use super::{RunFolder, files};

/// A run, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RunDetails {
    /// As in a list.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// Why it was trained as it was.
    pub reason: Option<String>,
    /// What it was trained on.
    pub device: Option<String>,
    /// Of the base model's files.
    pub base_sha256: Option<String>,
    /// Of the records that trained and judged.
    pub dataset_sha256: Option<String>,
    /// Of the whole run, in seconds.
    pub total_s: Option<f64>,
    /// Of the examples trained on, per second of training.
    pub tokens_per_second: Option<f64>,
    /// What made it.
    pub version: Option<String>,
    /// Spans that the extractor saw.
    pub spans: Option<u64>,
    /// What was left out, by reason.
    pub skipped: Vec<Count>,
    /// What was taken out of texts, by what it was.
    pub redacted: Vec<Count>,
    /// What it measured.
    pub metrics: Series,
    /// Who extracted, formatted and decided.
    pub plugins: Vec<PluginRow>,
    /// Where every example came from.
    pub lineage: Vec<LineageRow>,
    /// As it ran.
    #[schema(value_type = Object)]
    pub config: Value,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// How often something was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Count {
    /// What.
    pub what: String,
    /// How often.
    pub count: u64,
}

/// A plugin that took part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct PluginRow {
    /// `extractor`, `formatter` or `policy`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `built-in`, or its file.
    pub origin: String,
    /// Of its component.
    pub sha256: String,
    /// Whose signature it has.
    pub signer: Option<String>,
    /// How often it was called.
    pub calls: Option<u64>,
    /// For how long, in seconds.
    pub wall_s: Option<f64>,
}

/// Where an example came from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct LineageRow {
    /// `train` or `held_out`.
    pub set: String,
    /// Whether a person corrected the answer.
    pub corrected: bool,
    /// The spans that gave it.
    pub span_ids: Vec<String>,
    /// Their trace.
    pub trace_id: Option<String>,
    /// Their session.
    pub session_id: Option<String>,
    /// Who let it in, where it was generated.
    pub synthetic: Option<Synthetic>,
}

/// Who let a generated example in. What the run does not tell is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Synthetic {
    /// The item in the approval store.
    pub item: Option<i64>,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// When, in unix milliseconds.
    pub approved_at_ms: Option<i64>,
    /// Whether that person changed the text first.
    pub edited: bool,
    /// What generated it.
    pub generator: Option<String>,
}

impl RunDetails {
    pub(super) fn read(folder: &RunFolder) -> Self {
        let mut problems = Vec::new();
        let mut tail = Tail::new();
        if let Err(error) = tail.read(&folder.path) {
            problems.push(format!("`{METRICS}` can't be read ({error})"));
        }
        let metrics = tail.series().clone();
        let mut summary = RunSummary::of_name(folder);
        let record = match summary.state {
            RunState::Finished => record(folder).unwrap_or_else(|problem| {
                problems.push(problem);
                Value::Null
            }),
            RunState::Training | RunState::Stopped => Value::Null,
        };
        match metrics.unreadable_lines {
            0 => {}
            1 => problems.push(format!("one line of `{METRICS}` is no event")),
            n => problems.push(format!("{n} lines of `{METRICS}` are no events")),
        }
        if summary.state == RunState::Finished && metrics.steps.is_empty() && problems.is_empty() {
            problems.push(format!("`{METRICS}` has no step"));
        }
        let report = &record["report"];
        if report.is_object() {
            summary.fill(report, text(&record["verdict"]));
        } else {
            let last = metrics.steps.last();
            summary.steps = last.map(|last| last.step as u64);
            summary.last_loss = last.map(|last| last.loss);
        }
        summary.total_steps = metrics.total_steps.filter(|_| summary.state != RunState::Finished).map(|n| n as u64);
        Self {
            reason: text(&report["decision"]["reason"]),
            device: text(&report["device"]),
            base_sha256: text(&record["base_sha256"]),
            dataset_sha256: text(&report["dataset_sha256"]),
            total_s: report["timings"]["total_s"].as_f64(),
            tokens_per_second: report["tokens_per_second"].as_f64(),
            version: text(&record["versions"]["tunesmith"]),
            spans: report["spans"].as_u64(),
            skipped: counts(&report["skipped"]),
            redacted: counts(&report["redacted"]),
            plugins: rows(&record["plugins"], PluginRow::of),
            lineage: rows(&record["lineage"], LineageRow::of),
            config: record["config"].clone(),
            summary,
            metrics,
            problems,
        }
    }
}

impl PluginRow {
    fn of(row: &Value) -> Self {
        let own = |key: &str| text(&row[key]).unwrap_or_default();
        Self {
            kind: own("kind"),
            name: own("name"),
            version: own("version"),
            origin: own("origin"),
            sha256: own("sha256"),
            signer: text(&row["signer"]),
            calls: row["costs"]["calls"].as_u64(),
            wall_s: row["costs"]["total"]["wall_s"].as_f64(),
        }
    }
}

impl LineageRow {
    fn of(row: &Value) -> Self {
        Self {
            set: text(&row["set"]).unwrap_or_default(),
            corrected: row["corrected"].as_bool().unwrap_or_default(),
            span_ids: rows(&row["span_ids"], |id| text(id).unwrap_or_default()),
            trace_id: text(&row["trace_id"]),
            session_id: text(&row["session_id"]),
            synthetic: Synthetic::of(row),
        }
    }
}

impl Synthetic {
    fn of(row: &Value) -> Option<Self> {
        let approval = [&row["approval"], &row["synthetic"]].into_iter().find(|value| value.is_object());
        if approval.is_none() && row["synthetic"] != Value::Bool(true) {
            return None;
        }
        let approval = approval.unwrap_or(&Value::Null);
        Some(Self {
            item: approval["item"].as_i64(),
            approved_by: text(&approval["approved_by"]),
            approved_at_ms: approval["approved_at_ms"].as_i64(),
            edited: approval["edited"].as_bool().unwrap_or_default(),
            generator: text(&approval["generator"]),
        })
    }
}

fn record(folder: &RunFolder) -> Result<Value, String> {
    let bytes = files::read(&folder.path.join(RUN)).map_err(|error| format!("`{RUN}` can't be read ({error})"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("`{RUN}` is not whole ({error})"))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn rows<T>(values: &Value, row: impl Fn(&Value) -> T) -> Vec<T> {
    values.as_array().into_iter().flatten().map(row).collect()
}

fn counts(table: &Value) -> Vec<Count> {
    let counts = table.as_object().into_iter().flatten();
    counts.filter_map(|(what, count)| Some(Count { what: what.clone(), count: count.as_u64()? })).collect()
}
