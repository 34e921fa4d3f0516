use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Content, State};

/// What one run of a generator gave, to be submitted for review.
#[derive(Debug, Clone, PartialEq)]
pub struct NewBatch {
    /// The telemetry project that it was made from.
    pub project: String,
    /// The agent that it is for.
    pub agent_type: String,
    /// The run that waits for it.
    pub run: Option<String>,
    /// `endpoint`, `base_model` or `templates`.
    pub generator: String,
    /// The model that answered, where one did.
    pub model: Option<String>,
    /// The examples that were shown to the generator; all of training.
    pub parents: Vec<Parent>,
    /// Inputs that are held out: no item may be edited to one of them.
    pub held_out: Vec<Content>,
    /// What was generated.
    pub candidates: Vec<Candidate>,
    /// From then on what is still pending is expired; unix milliseconds.
    pub expires_at_ms: Option<i64>,
}

/// A real example that the generator was shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Parent {
    /// The spans that gave it.
    pub span_ids: Vec<String>,
    /// Their trace.
    pub trace_id: String,
    /// What it says.
    pub content: Content,
}

/// A generated example that nobody has looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// What it says.
    pub content: Content,
    /// Those of [`NewBatch::parents`] that its prompt had, by index.
    pub parents: Vec<usize>,
    /// SHA-256 of the prompt, in hexadecimal.
    pub prompt_sha256: String,
    /// Of the generator's draw.
    pub seed: u64,
    /// What it resembles most, the nearest first.
    pub near: Vec<Near>,
}

/// A text that an item's input resembles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Near {
    /// What it is.
    pub to: NearTo,
    /// Its input.
    pub text: String,
    /// Overlap of both, from 0 to 1.
    pub similarity: f64,
}

/// What an item resembles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NearTo {
    /// A real example that trains.
    Training,
    /// Another item of its batch.
    Batch,
}

/// A batch, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Batch {
    /// Its number.
    pub id: i64,
    /// The telemetry project that it was made from.
    pub project: String,
    /// The agent that it is for.
    pub agent_type: String,
    /// The run that waits for it.
    pub run: Option<String>,
    /// `endpoint`, `base_model` or `templates`.
    pub generator: String,
    /// The model that answered, where one did.
    pub model: Option<String>,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// From then on what is still pending is expired; unix milliseconds.
    pub expires_at_ms: Option<i64>,
}

/// A batch, and where its items stand.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct BatchSummary {
    /// The batch.
    #[serde(flatten)]
    pub batch: Batch,
    /// Its items.
    pub counts: Counts,
}

/// Items by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Counts {
    /// Nobody has decided.
    pub pending: u64,
    /// A person approved them as they came.
    pub approved: u64,
    /// A person changed and so approved them.
    pub edited: u64,
    /// A person rejected them.
    pub rejected: u64,
    /// Nobody decided in time.
    pub expired: u64,
}

impl Counts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.pending + self.approved + self.edited + self.rejected + self.expired
    }

    /// Those that train.
    pub fn trains(&self) -> u64 {
        self.approved + self.edited
    }
}

/// An item as it stands now.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Item {
    /// Its number.
    pub id: i64,
    /// Its batch.
    pub batch: i64,
    /// Its batch's project.
    pub project: String,
    /// Its batch's agent.
    pub agent_type: String,
    /// Where it stands.
    pub state: State,
    /// How many events it has: what a decision must name.
    pub version: u32,
    /// What it says now.
    pub content: Content,
    /// Of that.
    pub content_sha256: String,
    /// What the generator made, where that is something else.
    pub original: Option<Content>,
    /// Who decided last, where it is decided.
    pub decided_by: Option<String>,
    /// When; unix milliseconds.
    pub decided_at_ms: Option<i64>,
    /// SHA-256 of the prompt, in hexadecimal.
    pub prompt_sha256: String,
    /// Of the generator's draw.
    pub seed: u64,
    /// What its input resembles, the nearest first.
    pub near: Vec<Near>,
}
