//! Which inputs LoRA's dropout drops.
//!
//! A pure function of the run's seed, the optimiser step, the training pass within the step and the module: there is
//! no generator whose state a checkpoint would have to keep, and recomputed activations drop the same inputs.

use crate::ranks::Share;
use sha2::{Digest, Sha256};

/// Chooses the seeds of each training pass's masks.
#[derive(Debug, Clone, Copy)]
pub struct LoraDropout {
    probability: f32,
    seed: u64,
    step: usize,
    passes: usize,
    share: Share,
}

impl LoraDropout {
    /// `probability` 0 drops nothing; `seed` is the run's.
    pub fn new(probability: f32, seed: u64) -> Self {
        Self { probability, seed, step: 0, passes: 0, share: Share::WHOLE }
    }

    /// False where nothing is dropped.
    pub fn drops(&self) -> bool {
        self.probability > 0.0
    }

    /// Starts optimiser step `step`; its training passes are counted from here. Passes of several ranks are counted in
    /// turns: where each is one example, every example has the pass, and the masks, that it has on one rank.
    pub fn begin_step(&mut self, step: usize, share: Share) {
        *self = Self { step, passes: 0, share, ..*self };
    }

    /// Share of dropped inputs.
    pub fn probability(&self) -> f32 {
        self.probability
    }

    /// The seeds of the next training pass, low and high half for each module of the model.
    pub fn next_pass(&mut self, n_modules: usize) -> Vec<u32> {
        let Self { seed, step, passes, share, .. } = *self;
        self.passes += 1;
        let pass = passes * share.world_size() + share.rank();
        let of_module = |module: usize| {
            let parts = [seed, step as u64, pass as u64, module as u64].map(u64::to_le_bytes);
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
            dropout.begin_step(step, Share::WHOLE);
            for _pass in 0..3 {
                seeds.extend(dropout.next_pass(7).chunks_exact(2).map(<[u32]>::to_vec));
            }
        }
        assert_eq!(seeds.len(), 4 * 3 * 7);

        let (mut straight, mut resumed) = (LoraDropout::new(0.1, 1), LoraDropout::new(0.1, 1));
        (1..4).for_each(|step| {
            straight.begin_step(step, Share::WHOLE);
            straight.next_pass(6);
        });
        resumed.begin_step(4, Share::WHOLE);
        straight.begin_step(4, Share::WHOLE);
        assert_eq!(straight.next_pass(6), resumed.next_pass(6));
    }

    #[test]
    fn the_passes_of_two_ranks_are_those_of_one_in_turns() {
        let passes = |share: Share, n: usize| {
            let mut dropout = LoraDropout::new(0.1, 7);
            dropout.begin_step(3, share);
            (0..n).map(|_| dropout.next_pass(2)).collect::<Vec<_>>()
        };
        let [a, b] = [0, 1].map(|rank| passes(Share::new(rank, 2), 2));
        assert_eq!(passes(Share::WHOLE, 4), [a[0].clone(), b[0].clone(), a[1].clone(), b[1].clone()]);
    }
}
