//! The loss of preference pairs (Rafailov et al. 2023, eq. 7), in f64.

use super::Cpu;
use crate::device::PairBuffers;

/// Adds a batch's shares of the step's loss, accuracy and rewards to `sums`; `d_logprob` is the loss's derivative by the
/// log-probability of each edge.
pub(super) fn dpo_loss(
    sums: &mut [f64],      // [4]
    d_logprob: &mut [f32], // [n_edges]
    logprob: &[f32],       // [n_edges]
    pairs: &mut PairBuffers<Cpu>,
    beta: f64,
) {
    let (n_pairs, n_step) = (pairs.n_pairs[0] as usize, f64::from(pairs.n_step[0]));
    let edges_of = |sequence: usize| {
        let [start, end] = [pairs.example_start[sequence], pairs.example_start[sequence + 1]];
        &pairs.example_edges[start as usize..end as usize]
    };
    let reward = |sequence: usize| {
        let policy: f64 = edges_of(sequence).iter().map(|&edge| f64::from(logprob[edge as usize])).sum();
        beta * (policy - pairs.reference[sequence])
    };
    let mut d_edge = vec![0.0; d_logprob.len()];
    for pair in 0..n_pairs {
        let (chosen, rejected) = (reward(2 * pair), reward(2 * pair + 1));
        let margin = chosen - rejected;
        // -log sigmoid(m) = log(1 + e^-m), which stays finite for any m.
        let loss = (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
        let figures = [loss, f64::from(u8::from(margin > 0.0)), chosen, rejected];
        sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure / n_step);
        let d_chosen = -beta / (1.0 + margin.exp()) / n_step;
        for (sequence, d) in [(2 * pair, d_chosen), (2 * pair + 1, -d_chosen)] {
            edges_of(sequence).iter().for_each(|&edge| d_edge[edge as usize] += d);
        }
    }
    d_logprob.iter_mut().zip(d_edge).for_each(|(d_logprob, d)| *d_logprob = d as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_by_hand() {
        // Edge 0 is shared by both sides: what it gains on one it loses on the other.
        let mut pairs = PairBuffers::<Cpu> {
            example_start: vec![0, 2, 4],
            example_edges: vec![0, 1, 0, 2],
            reference: vec![-3.0, -4.0],
            n_pairs: vec![1],
            n_step: vec![2.0],
        };
        let (mut sums, mut d_logprob) = ([0.0; 4], [9.0; 3]);
        dpo_loss(&mut sums, &mut d_logprob, &[-1.0, -1.5, -2.0], &mut pairs, 0.5);
        // Rewards 0.5 * (-2.5 + 3) = 0.25 and 0.5 * (-3 + 4) = 0.5: a margin of -0.25.
        let loss = (0.25f64.exp() + 1.0).ln();
        let want = [loss / 2.0, 0.0, 0.125, 0.25];
        assert!(sums.iter().zip(want).all(|(sum, want)| (sum - want).abs() < 1e-15), "{sums:?}");
        let d = (-0.5 / (1.0 + (-0.25f64).exp()) / 2.0) as f32;
        assert_eq!(d_logprob, [0.0, d, -d]);
    }

    #[test]
    fn margins_of_any_size_have_a_finite_loss() {
        for (logprob, want) in [(1e6f32, 0.0), (-1e6, 1e6)] {
            let mut pairs = PairBuffers::<Cpu> {
                example_start: vec![0, 1, 1],
                example_edges: vec![0],
                reference: vec![0.0; 2],
                n_pairs: vec![1],
                n_step: vec![1.0],
            };
            let mut sums = [0.0; 4];
            dpo_loss(&mut sums, &mut [0.0], &[logprob], &mut pairs, 1.0);
            assert_eq!(sums[0], want);
        }
    }
}
