//! Which inputs LoRA's dropout drops.
//!
//! A pure function of the run's seed, the optimiser step, the training pass within the step and the module: there is
//! no generator whose state a checkpoint would have to keep, and recomputed activations drop the same inputs.

use crate::device::Dropout;
use sha2::{Digest, Sha256};

/// Chooses the masks of each training pass.
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

    /// False where every mask is `None`.
    pub fn drops(&self) -> bool {
        self.probability > 0.0
    }

    /// Starts optimiser step `step`; its training passes are counted from here.
    pub fn begin_step(&mut self, step: usize) {
        (self.step, self.passes) = (step, 0);
    }

    /// The masks of the next training pass, by the number of the module in the model.
    pub fn next_pass(&mut self) -> impl Fn(usize) -> Option<Dropout> + use<> {
        let (Self { probability, seed, step, passes }, drops) = (*self, self.drops());
        self.passes += 1;
        move |module| {
            let mask_seed = || {
                let parts = [seed, step as u64, passes as u64, module as u64].map(u64::to_le_bytes);
                let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(parts.concat()));
                u64::from_le_bytes([a, b, c, d, e, f, g, h])
            };
            drops.then(|| Dropout { probability, seed: mask_seed() })
        }
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
                let masks = dropout.next_pass();
                seeds.extend((0..7).map(|module| masks(module).expect("it drops").seed));
            }
        }
        assert_eq!(seeds.len(), 4 * 3 * 7);

        let (mut straight, mut resumed) = (LoraDropout::new(0.1, 1), LoraDropout::new(0.1, 1));
        (1..4).for_each(|step| {
            straight.begin_step(step);
            drop(straight.next_pass());
        });
        resumed.begin_step(4);
        straight.begin_step(4);
        let seed = |dropout: &mut LoraDropout| dropout.next_pass()(5).expect("it drops").seed;
        assert_eq!(seed(&mut straight), seed(&mut resumed));
    }

    #[test]
    fn probability_0_drops_nothing() {
        assert!(LoraDropout::new(0.0, 1).next_pass()(0).is_none());
    }
}
