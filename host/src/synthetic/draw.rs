//! Draws that follow from a seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A source of draws.
pub(super) struct Draw(ChaCha8Rng);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Below `n`, which is not 0. The remainder's bias is below n / 2^64.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    /// One of them, where there is one.
    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        (!items.is_empty()).then(|| &items[self.below(items.len())])
    }

    /// Up to `n` of them, each once, in a random order.
    pub(super) fn some<T: Copy>(&mut self, items: &[T], n: usize) -> Vec<T> {
        let mut items = items.to_vec();
        let n = n.min(items.len());
        for i in 0..n {
            let other = i + self.below(items.len() - i);
            items.swap(i, other);
        }
        items.truncate(n);
        items
    }
}

/// The seed of part `part` of what has seed `seed`. Of 31 bits: what servers and databases take, and JSON keeps.
pub(super) fn mixed(seed: u64, part: u64) -> u64 {
    // SplitMix64's finaliser (Steele, Lea & Flood 2014): neighbours get seeds that have nothing in common.
    let mut z = seed.wrapping_add(part.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_again_and_each_item_once() {
        let draws = |seed| Draw::new(seed).some(&[1, 2, 3, 4, 5, 6], 4);
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
        let mut all = Draw::new(7).some(&[1, 2, 3], 9);
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3]);
        assert_eq!(Draw::new(7).pick::<u8>(&[]), None);
    }

    #[test]
    fn parts_of_a_seed_differ_and_fit_31_bits() {
        let seeds: std::collections::HashSet<_> = (0..10_000).map(|part| mixed(42, part)).collect();
        assert_eq!(seeds.len(), 10_000);
        assert!(seeds.iter().all(|&seed| seed < 1 << 31));
    }
}
