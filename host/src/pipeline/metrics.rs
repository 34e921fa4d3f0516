//! `metrics.jsonl`: a line for each event of the training, without a gap or a repetition where it was resumed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trainer_cuda::trainer::{Event, StepMetrics};

use crate::error::HostError;
use crate::run_dir;

/// The file, and sums over the steps in it.
pub(super) struct MetricsFile {
    file: File,
    path: PathBuf,
    /// Wall time of the steps.
    pub(super) took: Duration,
    /// Tokens of the steps, as separate sequences would have them.
    pub(super) n_tokens: usize,
    /// Loss of the last step.
    pub(super) final_loss: f64,
}

impl MetricsFile {
    /// Goes on with the file at `path`, or starts it.
    pub(super) fn open(path: &Path) -> Result<Self, HostError> {
        let file = append(path)?;
        Ok(Self { file, path: path.to_owned(), took: Duration::ZERO, n_tokens: 0, final_loss: 0.0 })
    }

    /// Writes the event; where the run was resumed, after the lines of no later step.
    pub(super) fn note(&mut self, event: &Event) -> Result<(), HostError> {
        match event {
            Event::Resumed { step } => self.cut_after(*step)?,
            Event::Step(metrics) => self.add(metrics),
            Event::Evaluation { .. } | Event::EarlyStop { .. } => {}
        }
        // One write for each line, so that a killed run leaves every line before its last checkpoint.
        let line = serde_json::to_string(event).map(|line| line + "\n").map_err(std::io::Error::from);
        line.and_then(|line| self.file.write_all(line.as_bytes())).map_err(HostError::io("write", &self.path))
    }

    /// Keeps the lines up to a step.
    fn cut_after(&mut self, last: usize) -> Result<(), HostError> {
        let text = fs::read_to_string(&self.path).map_err(HostError::io("read", &self.path))?;
        let events = text.lines().map_while(|line| Some((line, serde_json::from_str::<Event>(line).ok()?)));
        let mut kept = String::new();
        for (line, event) in events.take_while(|(_, event)| step_of(event) <= last) {
            if let Event::Step(metrics) = &event {
                self.add(metrics);
            }
            kept.push_str(line);
            kept.push('\n');
        }
        run_dir::write_whole(&self.path, |file| file.write_all(kept.as_bytes()))?;
        self.file = append(&self.path)?;
        Ok(())
    }

    fn add(&mut self, step: &StepMetrics) {
        self.took += Duration::from_secs_f64(step.step_ms / 1e3);
        self.n_tokens += step.n_tokens_flat;
        self.final_loss = step.loss;
    }
}

fn append(path: &Path) -> Result<File, HostError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(HostError::io("write", path))
}

fn step_of(event: &Event) -> usize {
    match event {
        Event::Step(metrics) => metrics.step,
        Event::Resumed { step } | Event::Evaluation { step, .. } | Event::EarlyStop { step, .. } => *step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainer_cuda::method::{Evaluation, MethodMetrics};

    fn step(step: usize) -> Event {
        let metrics =
            MethodMetrics::Dpo { reward_accuracy: 0.5, reward_margin: 0.25, chosen_reward: 0.25, rejected_reward: 0.0 };
        Event::Step(StepMetrics {
            step,
            total_steps: 9,
            epoch: 0.0,
            loss: step as f64,
            grad_norm: 1.0,
            learning_rate: 1e-3,
            n_tokens: 5,
            n_tokens_flat: 10,
            n_labels: 1,
            step_ms: 500.0,
            metrics,
        })
    }

    fn evaluation(step: usize) -> Event {
        let metrics = MethodMetrics::Sft { exact_match: Some(0.5) };
        Event::Evaluation {
            step,
            epoch: 1.0,
            best: true,
            evaluation: Evaluation { loss: 1.0, n_examples: 2, n_labels: 4, metrics },
        }
    }

    #[test]
    fn a_resumed_run_has_every_step_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("metrics.jsonl");
        let mut first = MetricsFile::open(&path).unwrap();
        for event in [step(1), step(2), evaluation(2), step(3), evaluation(3)] {
            first.note(&event).unwrap();
        }
        first.file.write_all(b"{\"event\":\"ste").unwrap(); // killed in the middle of a line
        drop(first);

        let mut resumed = MetricsFile::open(&path).unwrap();
        resumed.note(&Event::Resumed { step: 2 }).unwrap();
        resumed.note(&step(3)).unwrap();
        let lines: Vec<Event> = fs::read_to_string(&resumed.path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines, [step(1), step(2), evaluation(2), Event::Resumed { step: 2 }, step(3)]);
        assert_eq!((resumed.took, resumed.n_tokens, resumed.final_loss), (Duration::from_millis(1500), 30, 3.0));
    }
}
