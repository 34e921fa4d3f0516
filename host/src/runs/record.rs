use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::{Options, PluginSources};

/// A run that people are asked something for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Its name.
    pub id: String,
    /// Where it stands.
    pub state: RunState,
    /// When it began.
    pub created_at: Timestamp,
    /// When this was written.
    pub updated_at: Timestamp,
    /// Whose data it is.
    pub tenant_id: String,
    /// The agent to train.
    pub agent_type: String,
    /// What it waits for, or did.
    pub waits_for: Option<WaitsFor>,
    /// Its settings as they were given, every path from the root.
    pub options: Options,
    /// Where its plugins were named.
    pub plugin_sources: PluginSources,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum RunState {
    /// For people to decide.
    Waiting,
    /// It extracts, generates or trains; without a process that does so, it was killed at that.
    Running,
    /// It is done.
    Finished {
        /// The adapter's folder.
        adapter: PathBuf,
    },
    /// It ended with an error, and may be resumed.
    Failed {
        /// The error.
        error: String,
    },
}

impl RunState {
    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Finished { .. } => "finished",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What a run lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitsFor {
    /// The telemetry project.
    pub project: String,
    /// `instruction`, `preference` or `triplet`.
    pub kind: String,
    /// The policy's words.
    pub reason: String,
    /// Examples that would train now.
    pub have: u32,
    /// Examples that it takes.
    pub need: u32,
    /// Generated ones that nobody has decided on.
    pub pending: u64,
}

impl WaitsFor {
    /// How many approvals are missing.
    pub fn missing(&self) -> u32 {
        self.need.saturating_sub(self.have)
    }
}
