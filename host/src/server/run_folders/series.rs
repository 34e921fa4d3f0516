//! `metrics.jsonl` as figures, whole or as it grows.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;
use trainer_cuda::trainer::Event;
use utoipa::ToSchema;

use super::files;

/// Read at once of a file that grows.
const CHUNK: u64 = 1 << 20;

/// The file of events.
pub(super) const METRICS: &str = "metrics.jsonl";

/// What a run measured so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Series {
    /// Its optimiser steps.
    pub steps: Vec<StepPoint>,
    /// Its held-out scores.
    pub evaluations: Vec<EvaluationPoint>,
    /// Steps that it will have, if it is not stopped early.
    pub total_steps: Option<usize>,
    /// Lines that are no events.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreadable_lines: usize,
}

/// An optimiser step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct StepPoint {
    /// Its number, from 1.
    pub step: usize,
    /// Passes over the data so far, in fractions.
    pub epoch: f64,
    /// Of its batch.
    pub loss: f64,
    /// What the optimiser used.
    pub learning_rate: f64,
    /// Before it was clipped.
    pub grad_norm: f64,
    /// Wall time.
    pub step_ms: f64,
}

/// The held-out set, scored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct EvaluationPoint {
    /// Optimiser steps done.
    pub step: usize,
    /// Of all held-out examples.
    pub loss: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// True where none before had a lower loss.
    pub best: bool,
}

/// A series that grows with its file, wherever that is moved.
#[derive(Debug)]
pub struct Tail {
    series: Series,
    file: Option<File>,
    inode: u64,
    /// The beginning of a line.
    rest: Vec<u8>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Series {
    /// Takes in a line of the file.
    fn note(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(Event::Step(metrics)) => {
                self.total_steps = Some(metrics.total_steps);
                self.steps.push(StepPoint {
                    step: metrics.step,
                    epoch: metrics.epoch,
                    loss: metrics.loss,
                    learning_rate: f64::from(metrics.learning_rate),
                    grad_norm: f64::from(metrics.grad_norm),
                    step_ms: metrics.step_ms,
                });
            }
            Ok(Event::Evaluation { step, best, evaluation, .. }) => {
                let (loss, accuracy) = (evaluation.loss, evaluation.accuracy());
                self.evaluations.push(EvaluationPoint { step, loss, accuracy, best });
            }
            Ok(Event::Resumed { step }) => {
                self.steps.retain(|point| point.step <= step);
                self.evaluations.retain(|point| point.step <= step);
            }
            Ok(Event::EarlyStop { .. }) => {}
            Err(_) if line.iter().all(u8::is_ascii_whitespace) => {}
            Err(_) => self.unreadable_lines += 1,
        }
    }
}

impl Tail {
    /// Of a file that need not be there yet.
    pub fn new() -> Self {
        Self { series: Series::default(), file: None, inode: 0, rest: Vec::new() }
    }

    /// What was read so far.
    pub fn series(&self) -> &Series {
        &self.series
    }

    /// Reads what is new of the run in `folder`, or of the file that was open where the folder has been renamed; whether
    /// there was something. The last line is taken when it is whole.
    ///
    /// # Errors
    /// The system's, when the file can't be opened or read.
    pub fn read(&mut self, folder: &Path) -> io::Result<bool> {
        let path = folder.join(METRICS);
        match files::open(&path) {
            // A run that goes on from a checkpoint writes the lines up to it anew.
            Ok(file) => {
                let inode = file.metadata()?.ino();
                if self.file.is_none() || self.inode != inode {
                    *self = Self { file: Some(file), inode, ..Self::new() };
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        let mut changed = false;
        loop {
            let before = self.rest.len();
            let n = file.take(CHUNK).read_to_end(&mut self.rest)?;
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
                if n == 0 || self.rest.len() == before {
                    return Ok(changed);
                }
                continue;
            };
            for line in self.rest[..end].split(|byte| *byte == b'\n') {
                self.series.note(line);
            }
            changed = true;
            self.rest.drain(..=end);
        }
    }
}

impl Default for Tail {
    fn default() -> Self {
        Self::new()
    }
}
