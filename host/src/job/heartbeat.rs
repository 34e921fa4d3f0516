use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Which attempt this is of.
    pub attempt: u32,
    /// When it was written, by the job's machine's clock.
    pub at: Timestamp,
    /// What it does: `loading`, `training`, `writing`.
    pub stage: String,
    /// Optimiser steps done.
    pub step: usize,
    /// Optimiser steps of the run, 0 where that is not known yet.
    pub total_steps: usize,
    /// The loss of that step.
    pub loss: Option<f64>,
}
