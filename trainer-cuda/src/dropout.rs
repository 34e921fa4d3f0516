//! Which inputs LoRA's dropout drops.
//!
//! A pure function of the run's seed, the optimiser step, the training pass within the step and the module: there is
//! no generator whose state a checkpoint would have to keep, and recomputed activations drop the same inputs.

use sha2::{Digest, Sha256};

/// Chooses the seeds of each training pass's masks.
#[derive(Debug, Clone, Copy)]
pub struct LoraDropout {
    probability: f32,
    seed: u64,
    step: usize,
    passes: usize,
}

impl LoraDropout {
    /// `probability` 0 drops nothing; `seed` is the run's.
    pub fn new(probability: f32, seed: u64) -> Self {
        Self { probability, seed, step: 0, passes: 0 }
    }

    /// False where nothing is dropped.
    pub fn drops(&self) -> bool {
        self.probability > 0.0
    }

    /// Starts optimiser step `step`; its training passes are counted from here.
    pub fn begin_step(&mut self, step: usize) {
        (self.step, self.passes) = (step, 0);
    }

    /// Share of dropped inputs.
    pub fn probability(&self) -> f32 {
        self.probability
    }

    /// The seeds of the next training pass, low and high half for each module of the model.
    pub fn next_pass(&mut self, n_modules: usize) -> Vec<u32> {
        let Self { seed, step, passes, .. } = *self;
        self.passes += 1;
        let of_module = |module: usize| {
            let parts = [seed, step as u64, passes as u64, module as u64].map(u64::to_le_bytes);
            let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(parts.concat()));
            [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
        };
        (0..n_modules).flat_map(of_module).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_run_step_pass_and_module_has_a_mask_of_its_own_and_no_history() {
        let mut seeds = HashSet::new();
        for (run, step) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
            let mut dropout = LoraDropout::new(0.1, run);
            dropout.begin_step(step);
            for _pass in 0..3 {
                seeds.extend(dropout.next_pass(7).chunks_exact(2).map(<[u32]>::to_vec));
            }
        }
        assert_eq!(seeds.len(), 4 * 3 * 7);

        let (mut straight, mut resumed) = (LoraDropout::new(0.1, 1), LoraDropout::new(0.1, 1));
        (1..4).for_each(|step| {
            straight.begin_step(step);
            straight.next_pass(6);
        });
        resumed.begin_step(4);
        straight.begin_step(4);
        assert_eq!(straight.next_pass(6), resumed.next_pass(6));
    }
}
