//! A run in a line.

use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Serialize, de};
use serde_json::Value;
use trainer_cuda::method::Evaluation;
use trainer_cuda::trainer::{Event, StepMetrics};
use utoipa::ToSchema;

use super::series::METRICS;
use super::{RunFolder, files};

/// The file of a finished run.
pub(super) const RUN: &str = "run.json";
/// Has the last step of a run that trains.
const END_OF_METRICS: u64 = 8 << 10;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It is under way.
    Training,
    /// It ended before its time; it goes on with `--resume` where it had a checkpoint.
    Stopped,
    /// Its adapter is whole.
    Finished,
}

impl RunState {
    /// Its name: `training`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }
}

/// A run in a line of a list.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RunSummary {
    /// What it is known by.
    pub name: String,
    /// Where it stands.
    pub state: RunState,
    /// `sft`, `dpo` or `triplet`.
    pub method: String,
    /// The agent.
    pub agent_type: String,
    /// The telemetry project; none before the run is finished.
    pub project: Option<String>,
    /// When, by RFC 3339.
    pub started: Option<String>,
    /// The model that it trains.
    pub base_model: Option<String>,
    /// Steps done.
    pub steps: Option<u64>,
    /// Steps that it will have; none once it is finished.
    pub total_steps: Option<u64>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// Examples that trained it.
    pub n_train: Option<u64>,
    /// Examples that judged it.
    pub n_held_out: Option<u64>,
    /// `adapter beats base` or the contrary; none where it was not judged.
    pub verdict: Option<String>,
    /// The same as a word of logic.
    pub adapter_beats_base: Option<bool>,
    /// The base model's scores.
    #[schema(value_type = Option<Object>)]
    pub base: Option<Evaluation>,
    /// The adapter's.
    #[schema(value_type = Option<Object>)]
    pub adapter: Option<Evaluation>,
    /// What of it could not be read, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl RunSummary {
    pub(super) fn read(folder: &RunFolder) -> Self {
        let mut summary = Self::of_name(folder);
        match folder.finished {
            true => match Head::read(&folder.path.join(RUN)) {
                Ok(head) => summary.fill(&head.report, head.verdict),
                Err(what) => summary.problem = Some(format!("`{RUN}` {what}")),
            },
            false => summary.follow(&folder.path),
        }
        summary
    }

    pub(super) fn of_name(folder: &RunFolder) -> Self {
        let (method, agent_type) = folder.run().split_once('_').unwrap_or((folder.run(), ""));
        let method = if method == "embedding" { "triplet" } else { method };
        let started = jiff::civil::DateTime::strptime("%Y%m%d_%H%M%S", &folder.started).ok();
        Self {
            name: folder.name.clone(),
            state: folder.state(),
            method: method.to_owned(),
            agent_type: agent_type.to_owned(),
            project: None,
            started: started.map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            base_model: None,
            steps: None,
            total_steps: None,
            last_loss: None,
            n_train: None,
            n_held_out: None,
            verdict: None,
            adapter_beats_base: None,
            base: None,
            adapter: None,
            problem: None,
        }
    }

    /// From the report of a finished run; what it lacks stays as it is.
    pub(super) fn fill(&mut self, report: &Value, verdict: Option<String>) {
        let text = |key: &str| report[key].as_str().map(str::to_owned);
        if let Some(method) = report["decision"]["method"].as_str() {
            method.clone_into(&mut self.method);
        }
        if let Some(agent_type) = text("agent_type") {
            self.agent_type = agent_type;
        }
        let scores = |of: &str| serde_json::from_value(report["held_out"][of].clone()).ok();
        self.project = text("project");
        self.base_model = text("base_model");
        self.steps = report["steps"].as_u64();
        self.last_loss = report["final_train_loss"].as_f64();
        self.n_train = report["n_train"].as_u64();
        self.n_held_out = report["n_held_out"].as_u64();
        self.verdict = verdict;
        self.adapter_beats_base = report["held_out"]["adapter_beats_base"].as_bool();
        (self.base, self.adapter) = (scores("base"), scores("adapter"));
    }

    /// From the last step in a file that grows.
    fn follow(&mut self, path: &Path) {
        if let Some(last) = last_step(&path.join(METRICS)) {
            self.steps = Some(last.step as u64);
            self.total_steps = Some(last.total_steps as u64);
            self.last_loss = Some(last.loss);
        }
    }
}

fn last_step(path: &Path) -> Option<StepMetrics> {
    let mut file = files::open(path).ok()?;
    let start = file.metadata().ok()?.len().saturating_sub(END_OF_METRICS);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.take(END_OF_METRICS).read_to_end(&mut bytes).ok()?;
    bytes.split(|byte| *byte == b'\n').rev().find_map(|line| match serde_json::from_slice(line) {
        Ok(Event::Step(metrics)) => Some(metrics),
        _ => None,
    })
}

/// The beginning of `run.json`. Behind it lies the lineage of every example, which is a thousand times as long.
#[derive(Default)]
struct Head {
    report: Value,
    verdict: Option<String>,
}

impl Head {
    fn read(path: &Path) -> Result<Self, String> {
        let file = files::open(path).map_err(|error| format!("can't be read ({error})"))?;
        let mut head = Self::default();
        let mut json = serde_json::Deserializer::from_reader(BufReader::new(file));
        // What follows the verdict is not looked at, so that the whole is never well-formed.
        let read = json.deserialize_map(HeadVisitor(&mut head));
        match (head.report.is_object(), read) {
            (true, _) => Ok(head),
            (false, Err(error)) => Err(format!("is not whole ({error})")),
            (false, Ok(())) => Err("has no `report`".to_owned()),
        }
    }
}

struct HeadVisitor<'a>(&'a mut Head);

impl<'de> Visitor<'de> for HeadVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the record of a run")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "report" => self.0.report = map.next_value()?,
                "verdict" => {
                    self.0.verdict = map.next_value()?;
                    return Ok(());
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match self.0.report.is_object() {
            true => Ok(()),
            false => Err(de::Error::missing_field("report")),
        }
    }
}
