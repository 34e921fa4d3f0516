//! Scores of a held-out set that the ranks shared out.

use super::Collective;
use crate::Result;
use crate::device::Device;
use crate::method::{Evaluation, MethodMetrics};

/// Puts the ranks' scores of their parts together to those of the whole.
///
/// # Errors
/// Those of [`Collective::sum`].
pub(crate) fn sum_evaluation<D: Device>(collective: &mut dyn Collective<D>, own: Evaluation) -> Result<Evaluation> {
    let mut sums = sums_of(&own);
    collective.sum(&mut sums)?;
    Ok(means_of(&sums, own.metrics))
}

/// Examples, labels, the loss, the method's figures: each mean times what it is a mean over.
fn sums_of(own: &Evaluation) -> [f64; 7] {
    let (n_examples, n_labels) = (own.n_examples as f64, own.n_labels as f64);
    let per_example = |figures: [f64; 4]| figures.map(|figure| figure * n_examples);
    let (loss, [a, b, c, d]) = match own.metrics {
        MethodMetrics::Sft { exact_match } => {
            (own.loss * n_labels, per_example([exact_match.unwrap_or(0.0), 0.0, 0.0, 0.0]))
        }
        MethodMetrics::Dpo { reward_accuracy, reward_margin, chosen_reward, rejected_reward } => {
            (own.loss * n_examples, per_example([reward_accuracy, reward_margin, chosen_reward, rejected_reward]))
        }
        MethodMetrics::Triplet { triplet_accuracy, positive_distance, negative_distance } => {
            (own.loss * n_examples, per_example([triplet_accuracy, positive_distance, negative_distance, 0.0]))
        }
    };
    [n_examples, n_labels, loss, a, b, c, d]
}

/// `like` says whose figures they are.
fn means_of(sums: &[f64; 7], like: MethodMetrics) -> Evaluation {
    let [n_examples, n_labels, loss, figures @ ..] = *sums;
    let [a, b, c, d] = figures.map(|figure| figure / n_examples.max(1.0));
    let (n_losses, metrics) = match like {
        MethodMetrics::Sft { exact_match } => (n_labels, MethodMetrics::Sft { exact_match: exact_match.map(|_| a) }),
        MethodMetrics::Dpo { .. } => {
            let [reward_accuracy, reward_margin, chosen_reward, rejected_reward] = [a, b, c, d];
            (n_examples, MethodMetrics::Dpo { reward_accuracy, reward_margin, chosen_reward, rejected_reward })
        }
        MethodMetrics::Triplet { .. } => {
            let [triplet_accuracy, positive_distance, negative_distance] = [a, b, c];
            (n_examples, MethodMetrics::Triplet { triplet_accuracy, positive_distance, negative_distance })
        }
    };
    let loss = loss / n_losses.max(1.0);
    Evaluation { loss, n_examples: n_examples as usize, n_labels: n_labels as usize, metrics }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn together(parts: [Evaluation; 2]) -> Evaluation {
        let [mut sums, other] = parts.map(|part| sums_of(&part));
        sums.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        means_of(&sums, parts[0].metrics)
    }

    #[test]
    fn a_mean_over_labels_weighs_parts_by_labels_and_one_over_examples_by_examples() {
        let part = |loss, n_examples, n_labels, exact_match| {
            let metrics = MethodMetrics::Sft { exact_match: Some(exact_match) };
            Evaluation { loss, n_examples, n_labels, metrics }
        };
        let whole = together([part(1.0, 3, 10, 1.0), part(2.0, 1, 30, 0.0)]);
        assert_eq!(whole, part(1.75, 4, 40, 0.75));
        // A rank without an example says nothing.
        assert_eq!(together([part(1.0, 3, 10, 1.0), part(0.0, 0, 0, 0.0)]), part(1.0, 3, 10, 1.0));

        let part = |loss, n_examples, chosen_reward, rejected_reward| {
            let reward_margin = chosen_reward - rejected_reward;
            let metrics = MethodMetrics::Dpo { reward_accuracy: 1.0, reward_margin, chosen_reward, rejected_reward };
            Evaluation { loss, n_examples, n_labels: 10, metrics }
        };
        let whole = together([part(1.0, 1, 2.0, -2.0), part(0.5, 3, 6.0, -6.0)]);
        assert_eq!(whole, Evaluation { n_labels: 20, ..part(0.625, 4, 5.0, -5.0) });
    }
}
