//! Forests to attend over, as `subtree_end`.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{Device, Visibility};

use crate::support::Random;

/// The forest rule, of a query and a key.
pub(crate) fn rule(subtree_end: &[u32]) -> impl Fn(usize, usize) -> bool {
    |query, key| key <= query && query < subtree_end[key] as usize
}

/// The same for the device, over what a longer batch left there.
pub(crate) fn mask(cpu: &Cpu, subtree_end: &[u32]) -> <Cpu as Device>::Mask {
    let longer = chain(subtree_end.len() + 5);
    let mut mask = cpu.alloc_mask(longer.len());
    cpu.write_mask(&mut mask, Visibility::Forest { subtree_end: &longer });
    cpu.write_mask(&mut mask, Visibility::Forest { subtree_end });
    mask
}

/// One path.
pub(crate) fn chain(n: usize) -> Vec<u32> {
    vec![n as u32; n]
}

/// Several trees with branches at random depths, then `padding` tokens.
pub(crate) fn random(seed: u64, n: usize, padding: usize) -> Vec<u32> {
    let mut random = Random(seed);
    let mut ends: Vec<u32> = (0..n).map(|t| t as u32 + 1).collect();
    let mut path: Vec<usize> = Vec::new();
    for token in 0..n - padding {
        match random.below(20) {
            0 => path.clear(),
            1..=3 => path.truncate(random.below(path.len() + 1)),
            _ => {}
        }
        path.push(token);
        for &ancestor in &path {
            ends[ancestor] = token as u32 + 1;
        }
    }
    ends
}

/// A prefix of `prefix` tokens under which `branches` branches of `length` hang.
pub(crate) fn comb(prefix: usize, branches: usize, length: usize) -> Vec<u32> {
    let n = prefix + branches * length;
    let branch = |t: usize| prefix + ((t - prefix) / length + 1) * length;
    (0..n).map(|t| if t < prefix { n } else { branch(t) } as u32).collect()
}
