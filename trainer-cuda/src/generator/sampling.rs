//! Which token comes next: the likeliest, or one drawn from the model's distribution.

use crate::{Result, TrainerError};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Draws from the fewest likeliest tokens that have this probability together (Holtzman et al. 2020); 1 for all.
    pub top_p: f32,
    /// Seeds the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, seed: 42 }
    }
}

impl Sampling {
    /// Refuses what is no distribution.
    ///
    /// # Errors
    /// [`TrainerError::Config`], naming the key.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(TrainerError::Config(format!("`temperature` must be 0 or more, not {}", self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(TrainerError::Config(format!("`top_p` must be above 0 and at most 1, not {}", self.top_p)));
        }
        Ok(())
    }
}

/// Chooses the tokens of one answer.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// Starts at the seed.
    ///
    /// # Errors
    /// Those of [`Sampling::validate`].
    pub fn new(sampling: Sampling) -> Result<Self> {
        sampling.validate()?;
        Ok(Self { sampling, rng: ChaCha8Rng::seed_from_u64(sampling.seed) })
    }

    /// The next token by the scores of all.
    ///
    /// # Errors
    /// [`TrainerError::Logits`] where one is not a number.
    pub fn pick(&mut self, logits: &[f32]) -> Result<u32> {
        let best = first_largest(logits);
        let largest = logits[best];
        if !largest.is_finite() || logits.iter().any(|logit| logit.is_nan()) {
            return Err(TrainerError::Logits);
        }
        let Sampling { temperature, top_p, .. } = self.sampling;
        if temperature == 0.0 {
            return Ok(best as u32);
        }
        let weight = |logit: f32| (f64::from(logit - largest) / f64::from(temperature)).exp();
        let mut candidates: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&logit| weight(logit))).collect();
        if top_p < 1.0 {
            candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            candidates.truncate(nucleus(&candidates, f64::from(top_p)));
        }
        let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        // 53 bits: every multiple of 2^-53 in [0, 1) is an f64, so nothing is rounded up to 1.
        let mut left = total * (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        for &(id, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return Ok(id);
            }
        }
        Ok(best as u32) // the sum was rounded: what is left is below its last bit
    }
}

/// The index that `Device::linear_cross_entropy` gives as the likeliest.
fn first_largest(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, index| if logits[index] > logits[best] { index } else { best })
}

/// How many of the heaviest have `top_p` of the weight together.
fn nucleus(heaviest_first: &[(u32, f64)], top_p: f64) -> usize {
    let total: f64 = heaviest_first.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    let reaches = |(_, weight): &(u32, f64)| {
        sum += weight;
        sum >= top_p * total
    };
    heaviest_first.iter().position(reaches).map_or(heaviest_first.len(), |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(Sampling { temperature, top_p, seed }).expect("a valid distribution")
    }

    /// How often each of three tokens is drawn of 10,000.
    fn counts(mut sampler: Sampler, logits: [f32; 3]) -> [usize; 3] {
        let mut counts = [0; 3];
        (0..10_000).for_each(|_| counts[sampler.pick(&logits).expect("numbers") as usize] += 1);
        counts
    }

    #[test]
    fn temperature_0_takes_the_first_of_the_likeliest() {
        assert_eq!(sampler(0.0, 1.0, 1).pick(&[0.5, 2.0, -1.0, 2.0]).expect("numbers"), 1);
    }

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        // Five standard deviations of a binomial count: 5 * sqrt(10,000 * 0.25) = 250.
        for (count, expected) in counts(sampler(1.0, 1.0, 7), logits).into_iter().zip([5000, 3000, 2000]) {
            assert!(count.abs_diff(expected) < 250, "{count} of {expected}");
        }
        // A temperature of 1/2 squares the odds: 25 to 9 to 4.
        for (count, expected) in counts(sampler(0.5, 1.0, 7), logits).into_iter().zip([6579, 2368, 1053]) {
            assert!(count.abs_diff(expected) < 250, "{count} of {expected}");
        }
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it() {
        let logits = [0.2f32.ln(), 0.5f32.ln(), 0.3f32.ln()];
        assert_eq!(counts(sampler(1.0, 0.4, 7), logits), [0, 10_000, 0]);
        let [unlikely, likely, middle] = counts(sampler(1.0, 0.7, 7), logits);
        assert_eq!(unlikely, 0);
        // 5 to 3 of what is kept; five standard deviations are 242.
        assert!(likely.abs_diff(6250) < 242 && likely + middle == 10_000, "{likely}");
    }

    #[test]
    fn a_seed_gives_the_same_draws_again() {
        let draws = |seed| {
            let mut sampler = sampler(1.0, 1.0, seed);
            (0..50).map(|_| sampler.pick(&[0.0; 100]).expect("numbers")).collect::<Vec<_>>()
        };
        assert_eq!(draws(3), draws(3));
        assert_ne!(draws(3), draws(4));
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        let refused = |temperature, top_p| {
            let sampling = Sampling { temperature, top_p, seed: 0 };
            sampling.validate().expect_err("no distribution").to_string()
        };
        assert_eq!(refused(-0.5, 1.0), "`temperature` must be 0 or more, not -0.5");
        assert_eq!(refused(f32::NAN, 1.0), "`temperature` must be 0 or more, not NaN");
        assert_eq!(refused(1.0, 0.0), "`top_p` must be above 0 and at most 1, not 0");
        assert_eq!(refused(1.0, 1.5), "`top_p` must be above 0 and at most 1, not 1.5");
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        for logits in [[0.0, f32::NAN], [f32::NAN, 0.0], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            let error = sampler(0.0, 1.0, 0).pick(&logits).expect_err("not numbers").to_string();
            assert_eq!(error, "the model's logits are not numbers: its weights, or the adapter's, are damaged");
        }
    }
}
