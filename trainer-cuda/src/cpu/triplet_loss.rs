//! The loss of triplets: an anchor is to be nearer to its positive than to its negative, by a margin; in f64.

use super::Cpu;
use crate::config::TripletConfig;
use crate::device::TripletBuffers;

/// Adds a batch's shares of the step's loss, accuracy and distances to `sums`; `d_embeddings` is the loss's derivative by
/// each embedding.
pub(super) fn triplet_loss(
    sums: &mut [f64],         // [4]
    d_embeddings: &mut [f32], // [n_segments, hidden]
    embeddings: &[f32],       // [n_segments, hidden]
    triplets: &TripletBuffers<Cpu>,
    config: TripletConfig,
    hidden: usize,
) {
    let (n_triplets, n_step) = (triplets.n_triplets[0] as usize, f64::from(triplets.n_step[0]));
    let mut d_rows = vec![0.0; d_embeddings.len()];
    for texts in triplets.segments[..3 * n_triplets].chunks_exact(3) {
        let [a, p, n] = [texts[0] as usize, texts[1] as usize, texts[2] as usize];
        let row = |segment: usize| &embeddings[segment * hidden..][..hidden];
        let figures = config.figures(row(a), row(p), row(n));
        sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure / n_step);
        if figures[0] > 0.0 {
            for (other, sign) in [(p, 1.0 / n_step), (n, -1.0 / n_step)] {
                // Anchor and other may be one text: its embedding is one point, and the distance's gradient is 0.
                if other != a {
                    let (d_a, d_other) = two_rows(&mut d_rows, a, other, hidden);
                    config.distance.add_gradient(sign, row(a), row(other), d_a, d_other);
                }
            }
        }
    }
    d_embeddings.iter_mut().zip(d_rows).for_each(|(d_embedding, d)| *d_embedding = d as f32);
}

/// Rows `i` and `j` of a matrix; they are two rows.
fn two_rows(matrix: &mut [f64], i: usize, j: usize, width: usize) -> (&mut [f64], &mut [f64]) {
    let (first, second) = matrix.split_at_mut(i.max(j) * width);
    let (low, high) = (&mut first[i.min(j) * width..][..width], &mut second[..width]);
    if i < j { (low, high) } else { (high, low) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Distance;

    fn loss_of(embeddings: &[f32]) -> ([f64; 4], Vec<f32>) {
        let triplets = TripletBuffers::<Cpu> { segments: vec![0, 1, 2], n_triplets: vec![1], n_step: vec![2.0] };
        let (mut sums, mut d_embeddings) = ([0.0; 4], vec![9.0; embeddings.len()]);
        let config = TripletConfig { distance: Distance::Euclidean, margin: 0.5 };
        triplet_loss(&mut sums, &mut d_embeddings, embeddings, &triplets, config, 1);
        (sums, d_embeddings)
    }

    #[test]
    fn a_triplet_beyond_the_margin_has_no_loss_and_no_gradient() {
        assert_eq!(loss_of(&[0.0, 0.25, 1.0]), ([0.0, 0.5, 0.125, 0.5], vec![0.0; 3]));
    }

    #[test]
    fn a_triplet_within_the_margin_pulls_and_pushes() {
        // Distances 0.5 and 0.25: a loss of 0.75, halved over two triplets of the step.
        assert_eq!(loss_of(&[0.0, 0.5, 0.25]), ([0.375, 0.0, 0.25, 0.125], vec![0.0, 0.5, -0.5]));
    }

    #[test]
    fn a_nan_stays_in_the_loss() {
        assert!(loss_of(&[f32::NAN, 0.5, 0.25]).0[0].is_nan());
    }
}
