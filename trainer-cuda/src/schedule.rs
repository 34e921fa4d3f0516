//! The learning rate of each step.

use crate::{Result, TrainerError};
use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// To zero along a line (transformers `get_linear_schedule_with_warmup`).
    Linear,
    /// To zero along half a cosine (transformers `get_cosine_schedule_with_warmup`).
    Cosine,
    /// Not at all.
    Constant,
}

/// A schedule over a run of known length.
#[derive(Debug, Clone, Copy)]
pub struct LearningRate {
    peak: f64,
    warmup_steps: usize,
    total_steps: usize,
    schedule: Schedule,
}

impl LearningRate {
    /// `warmup_ratio` is a share of `total_steps`, rounded up as transformers does.
    ///
    /// # Errors
    /// [`TrainerError::Config`] where the warmup is as long as the run: the peak would never be reached.
    pub fn new(peak: f64, schedule: Schedule, warmup_ratio: f64, total_steps: usize) -> Result<Self> {
        let warmup_steps = (warmup_ratio * total_steps as f64).ceil() as usize;
        if warmup_steps > 0 && warmup_steps >= total_steps {
            return Err(TrainerError::Config(format!(
                "a warmup of {warmup_steps} steps is as long as the run of {total_steps} steps; lower `warmup_ratio` or train longer"
            )));
        }
        Ok(Self { peak, warmup_steps, total_steps, schedule })
    }

    /// The rate of step `t`, from 0. The first step of a warmup is 0, as in transformers.
    pub fn at(&self, t: usize) -> f32 {
        let factor = if t < self.warmup_steps {
            t as f64 / self.warmup_steps as f64
        } else {
            let progress = (t - self.warmup_steps) as f64 / (self.total_steps - self.warmup_steps).max(1) as f64;
            match self.schedule {
                Schedule::Linear => (1.0 - progress).max(0.0),
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
                Schedule::Constant => 1.0,
            }
        };
        (self.peak * factor) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, warmup_ratio: f64) -> Vec<f32> {
        let rate = LearningRate::new(1.0, schedule, warmup_ratio, 5).expect("a valid schedule");
        (0..5).map(|t| rate.at(t)).collect()
    }

    #[test]
    fn linear_with_two_warmup_steps_is_transformers() {
        // get_linear_schedule_with_warmup(warmup 2, total 5): 0, 1/2, 3/3, 2/3, 1/3.
        assert_eq!(rates(Schedule::Linear, 0.4), [0.0, 0.5, 1.0, 2.0 / 3.0, 1.0 / 3.0]);
    }

    #[test]
    fn cosine_starts_at_the_peak_and_constant_stays() {
        let cosine = rates(Schedule::Cosine, 0.0);
        assert_eq!(cosine[0], 1.0);
        assert!((cosine[4] - 0.5 * (1.0 + (0.8 * std::f32::consts::PI).cos())).abs() < 1e-6); // one f32 cosine
        assert_eq!(rates(Schedule::Constant, 0.0), [1.0; 5]);
    }

    #[test]
    fn a_warmup_longer_than_the_run_is_an_error() {
        let error = LearningRate::new(1.0, Schedule::Linear, 1.0, 5).expect_err("no peak");
        assert_eq!(
            error.to_string(),
            "a warmup of 5 steps is as long as the run of 5 steps; lower `warmup_ratio` or train longer"
        );
    }
}
