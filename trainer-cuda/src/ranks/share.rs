//! Who computes what of a step.

use std::cmp::Ordering;

/// One rank's share of every optimiser step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    rank: usize,
    world_size: usize,
}

impl Share {
    /// All of it: one rank.
    pub const WHOLE: Share = Share { rank: 0, world_size: 1 };

    /// That of rank `rank` of `world_size`.
    ///
    /// # Panics
    /// Where there is no such rank.
    pub fn new(rank: usize, world_size: usize) -> Self {
        assert!(rank < world_size, "rank {rank} of {world_size}");
        Self { rank, world_size }
    }

    /// From 0.
    pub fn rank(self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn world_size(self) -> usize {
        self.world_size
    }

    /// Its examples of a step: each micro-batch is [`cut`] between the ranks, which take the pieces in turn, on from one
    /// micro-batch to the next.
    pub fn of<E: Copy>(
        self,
        micro_batches: &[Vec<E>],
        order: impl Fn(&E, &E) -> Ordering,
        cost: impl Fn(&[E]) -> usize,
    ) -> Vec<Vec<E>> {
        let mut next_rank = 0;
        let mut own = Vec::new();
        for batch in micro_batches {
            let mut pieces = cut(batch.clone(), self.world_size, &order, &cost);
            let turn = (self.rank + self.world_size - next_rank) % self.world_size;
            next_rank = (next_rank + pieces.len()) % self.world_size;
            if turn < pieces.len() {
                own.push(pieces.swap_remove(turn));
            }
        }
        own
    }

    /// Its part of a list that is scored: neighbours stay together.
    pub fn slice<E>(self, list: &[E]) -> &[E] {
        let at = |rank: usize| list.len() * rank / self.world_size;
        &list[at(self.rank)..at(self.rank + 1)]
    }
}

/// A micro-batch in as many pieces as there are ranks, or fewer, none of them empty. It is put in `order`, in which
/// neighbours share most, and cut so that the costliest piece costs as little as it can; `cost` is asked for one example
/// and for two neighbours. One rank has it as it is.
pub(crate) fn cut<E: Copy>(
    mut batch: Vec<E>,
    world_size: usize,
    order: impl Fn(&E, &E) -> Ordering,
    cost: impl Fn(&[E]) -> usize,
) -> Vec<Vec<E>> {
    if world_size == 1 || batch.is_empty() {
        return if batch.is_empty() { Vec::new() } else { vec![batch] };
    }
    batch.sort_by(order);
    pieces(&batch, world_size, cost).into_iter().map(<[E]>::to_vec).collect()
}

/// Cuts `list` into at most `n` pieces, none empty, of which the costliest costs the least that it can. A piece costs what
/// its first element does, and what each further one adds to the one before it.
fn pieces<E>(list: &[E], n: usize, cost: impl Fn(&[E]) -> usize) -> Vec<&[E]> {
    let alone: Vec<usize> = list.chunks(1).map(&cost).collect();
    let added = |i: usize| cost(&list[i - 1..=i]).saturating_sub(alone[i - 1]);
    let added: Vec<usize> = (0..list.len()).map(|i| if i == 0 { alone[0] } else { added(i) }).collect();
    // Pieces as long as they can be: no other cut to `limit` needs fewer.
    let cut = |limit: usize| {
        let (mut pieces, mut start, mut costs) = (Vec::new(), 0, 0);
        for i in 0..list.len() {
            costs += added[i];
            if i > start && costs > limit {
                pieces.push(&list[start..i]);
                (start, costs) = (i, alone[i]);
            }
        }
        pieces.extend(Some(&list[start..]).filter(|last| !last.is_empty()));
        pieces
    };
    // The costliest element stands in some piece; one piece is always enough.
    let (mut least, mut enough) = (alone.iter().copied().max().unwrap_or(0), added.iter().sum());
    while least < enough {
        let middle = least + (enough - least) / 2;
        if cut(middle).len() <= n {
            enough = middle;
        } else {
            least = middle + 1;
        }
    }
    cut(enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where an example costs what it is: no two share anything.
    fn dealt(share: Share, step: &[Vec<usize>]) -> Vec<Vec<usize>> {
        share.of(step, usize::cmp, |piece| piece.iter().sum())
    }

    #[test]
    fn every_example_of_a_step_has_one_rank() {
        for sizes in [vec![4, 4], vec![4, 3], vec![1; 8], vec![5], vec![1], vec![3, 3, 2], vec![1, 4, 1], vec![0, 2]] {
            let mut next = 1..;
            let step: Vec<Vec<usize>> = sizes.iter().map(|&n| next.by_ref().take(n).collect()).collect();
            for world_size in 1..=5 {
                let shares: Vec<_> = (0..world_size).map(|rank| dealt(Share::new(rank, world_size), &step)).collect();
                let mut all: Vec<usize> = shares.iter().flatten().flatten().copied().collect();
                all.sort_unstable();
                assert_eq!(all, (1..=sizes.iter().sum()).collect::<Vec<_>>(), "{sizes:?} of {world_size}");
                assert!(shares.iter().flatten().all(|piece| !piece.is_empty()));
            }
        }
    }

    #[test]
    fn pieces_cost_alike_and_not_count_alike() {
        let step = [vec![10, 1, 2, 3, 4]];
        assert_eq!(dealt(Share::new(0, 2), &step), [[1, 2, 3, 4]]);
        assert_eq!(dealt(Share::new(1, 2), &step), [[10]]);
        // No more can be had than the costliest example: it is cut off, and the rest is not.
        assert_eq!(pieces(&[1, 9, 1, 1], 3, |piece| piece.iter().sum()), [&[1][..], &[9], &[1, 1]]);
    }

    #[test]
    fn what_examples_share_stays_with_one_rank() {
        // A prefix of 100 and an end of its own each; `7` and `8` are the prefixes.
        let cost = |piece: &[(u32, u32)]| {
            piece.len() + 100 * piece.iter().map(|example| example.0).collect::<std::collections::HashSet<_>>().len()
        };
        let step = [vec![(7, 0), (8, 1), (7, 2), (8, 3), (7, 4), (8, 5)]];
        let of = |rank| Share::new(rank, 2).of(&step, Ord::cmp, cost);
        assert_eq!(of(0), [[(7, 0), (7, 2), (7, 4)]]);
        assert_eq!(of(1), [[(8, 1), (8, 3), (8, 5)]]);
    }

    #[test]
    fn one_rank_has_the_step_as_it_is() {
        let step = vec![vec![2, 1], vec![], vec![3]];
        assert_eq!(dealt(Share::WHOLE, &step), [vec![2, 1], vec![3]]);
    }

    #[test]
    fn micro_batches_of_one_example_go_to_the_ranks_in_turn() {
        let step: Vec<Vec<usize>> = (1..=4).map(|example| vec![example]).collect();
        assert_eq!(dealt(Share::new(1, 2), &step), [[2], [4]]);
    }

    #[test]
    fn a_scored_list_is_cut_in_order() {
        let list = [0, 1, 2, 3, 4];
        let parts: Vec<&[i32]> = (0..3).map(|rank| Share::new(rank, 3).slice(&list)).collect();
        assert_eq!(parts, [&list[0..1], &list[1..3], &list[3..5]]);
        assert!(Share::new(0, 3).slice(&list[..2]).is_empty());
    }
}
