//! Who computes what of a step.

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

    /// Its examples of a step: the step's examples are dealt out in their order, one to each rank in turn, so that the
    /// shares differ by one at most, whatever the micro-batches. They keep their micro-batch; one that is left empty is
    /// no part.
    pub fn of<E: Copy>(self, micro_batches: &[Vec<E>]) -> Vec<Vec<E>> {
        if self == Self::WHOLE {
            return micro_batches.to_vec();
        }
        let mut dealt = 0;
        let mut own = |batch: &Vec<E>| {
            let first = (self.rank + self.world_size - dealt % self.world_size) % self.world_size;
            dealt += batch.len();
            batch.iter().copied().skip(first).step_by(self.world_size).collect::<Vec<E>>()
        };
        micro_batches.iter().map(&mut own).filter(|batch| !batch.is_empty()).collect()
    }

    /// Its part of a list that is scored: neighbours stay together.
    pub fn slice<E>(self, list: &[E]) -> &[E] {
        let at = |rank: usize| list.len() * rank / self.world_size;
        &list[at(self.rank)..at(self.rank + 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_of_a_step_has_one_rank_and_no_rank_has_two_more_than_another() {
        for sizes in [vec![4, 4], vec![4, 3], vec![1; 8], vec![5], vec![1], vec![3, 3, 2], vec![1, 4, 1]] {
            let mut next = 0..;
            let step: Vec<Vec<i32>> = sizes.iter().map(|&n| next.by_ref().take(n).collect()).collect();
            for world_size in 1..=5 {
                let shares: Vec<_> = (0..world_size).map(|rank| Share::new(rank, world_size).of(&step)).collect();
                let mut all: Vec<i32> = shares.iter().flatten().flatten().copied().collect();
                all.sort_unstable();
                assert_eq!(
                    all,
                    (0..sizes.iter().sum::<usize>() as i32).collect::<Vec<_>>(),
                    "{sizes:?} of {world_size}"
                );
                let lens: Vec<usize> = shares.iter().map(|share| share.iter().map(Vec::len).sum()).collect();
                let (least, most) = (lens.iter().min().expect("ranks"), lens.iter().max().expect("ranks"));
                assert!(most - least <= 1, "{sizes:?} of {world_size}: {lens:?}");
                assert!(shares.iter().flatten().all(|batch| !batch.is_empty()));
            }
        }
    }

    #[test]
    fn one_rank_has_the_step_as_it_is() {
        let step = vec![vec![1, 2], vec![], vec![3]];
        assert_eq!(Share::WHOLE.of(&step), step);
    }

    #[test]
    fn micro_batches_of_one_example_go_to_the_ranks_in_turn() {
        let step: Vec<Vec<i32>> = (0..4).map(|example| vec![example]).collect();
        assert_eq!(Share::new(1, 2).of(&step), [[1], [3]]);
    }

    #[test]
    fn a_scored_list_is_cut_in_order() {
        let list = [0, 1, 2, 3, 4];
        let parts: Vec<&[i32]> = (0..3).map(|rank| Share::new(rank, 3).slice(&list)).collect();
        assert_eq!(parts, [&list[0..1], &list[1..3], &list[3..5]]);
        assert!(Share::new(0, 3).slice(&list[..2]).is_empty());
    }
}
