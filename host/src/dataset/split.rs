use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{DatasetError, Origins, input, near_duplicates, normalised};
use crate::plugins::bindings::types::Example;

/// What trains, and what judges.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// In the order of the input.
    pub train: Vec<Example>,
    /// In the order of the input. Empty only where there are fewer than 5 examples: then nothing can be judged.
    pub held_out: Vec<Example>,
}

/// The fewest held-out examples that are asked for, from 25 examples on.
pub(super) const MIN_HELD_OUT: usize = 5;

/// How many of so many examples are held out: a tenth (rounded up, as 90/10 always was), and at least 5 from 25 on.
/// Below 25 that would be more than a fifth: there it is a fifth, and below 5 none.
pub fn held_out_target(examples: usize) -> usize {
    let tenth = examples - examples * 9 / 10;
    tenth.max(MIN_HELD_OUT).min(examples / 5)
}

/// Splits examples of one kind into training and held-out ones.
///
/// Examples that share an input, a trace or a session, also through others, stay on one side; so do those whose inputs
/// overlap by `near_duplicates`, where it is given. The groups are shuffled by `seed` and held out while they fit [`held_out_target`]; larger ones train. Where fewer than 5 fit, the smallest
/// group left is held out as well, if a fifth (or 5, up to half) of the examples allows it.
///
/// `trained` trains besides, and is tied to examples as they are to each other: those it is tied to train with it. So a real example
/// that a generator was shown never judges what came of it.
///
/// # Errors
/// [`DatasetError::OneGroup`] where the groups are too large to hold enough out, [`DatasetError::Shown`] where `trained` is tied to
/// too many.
pub fn split<E: Borrow<Example>>(
    examples: Vec<Example>,
    origins: &Origins,
    seed: u64,
    near_duplicates: Option<f64>,
    trained: &[E],
) -> Result<Split, DatasetError> {
    let n = examples.len();
    let target = held_out_target(n);
    let mut ties: Vec<Vec<Tie>> = examples.iter().map(|example| ties(example, origins)).collect();
    if let Some(threshold) = near_duplicates {
        for (ties, first) in ties.iter_mut().zip(near_duplicates::components(&examples, threshold)) {
            ties.push((NEAR_DUPLICATE, normalised(input(&examples[first]))));
        }
    }
    let mut groups = groups(&ties);
    shuffle(&mut groups, &mut ChaCha8Rng::seed_from_u64(seed));

    let trained: HashSet<Tie> = trained.iter().flat_map(|example| self::ties(example.borrow(), origins)).collect();
    let n_groups = groups.len();
    groups.retain(|group| !group.iter().any(|&i| ties[i].iter().any(|tie| trained.contains(tie))));
    let shown = groups.len() < n_groups;

    let mut held_out: Vec<usize> = Vec::new();
    groups.retain(|group| {
        let fits = held_out.len() + group.len() <= target;
        if fits {
            held_out.extend(group);
        }
        !fits
    });
    let needed = target.min(MIN_HELD_OUT);
    let at_most = (n / 5).max(MIN_HELD_OUT).min(n / 2);
    if held_out.len() < needed
        && let Some(smallest) = groups.iter().min_by_key(|group| group.len())
        && held_out.len() + smallest.len() <= at_most
    {
        held_out.extend(smallest);
    }
    if held_out.len() < needed && shown {
        return Err(DatasetError::Shown { examples: n, possible: held_out.len(), needed });
    }
    if held_out.len() < needed {
        return Err(one_group(&groups, &ties, held_out.len(), needed));
    }

    let held_out: HashSet<usize> = held_out.into_iter().collect();
    let mut split = Split { train: Vec::new(), held_out: Vec::new() };
    for (i, example) in examples.into_iter().enumerate() {
        if held_out.contains(&i) { split.held_out.push(example) } else { split.train.push(example) }
    }
    Ok(split)
}

/// The examples that nothing ties to one of `held_out`.
pub fn apart_from(examples: &[Example], held_out: &[Example], origins: &Origins) -> Vec<Example> {
    let held_out: HashSet<Tie> = held_out.iter().flat_map(|example| ties(example, origins)).collect();
    let apart = |example: &&Example| !ties(example, origins).iter().any(|tie| held_out.contains(tie));
    examples.iter().filter(apart).cloned().collect()
}

/// The name of a tie between two that are nearly the same; its value is the input of one.
pub(super) const NEAR_DUPLICATE: &str = "near-duplicate of the input";

/// What keeps two examples on one side: its name, and its value.
pub(super) type Tie = (&'static str, String);

/// Everything that ties an example to others.
pub(super) fn ties(example: &Example, origins: &Origins) -> Vec<Tie> {
    let mut ties = vec![("input", normalised(input(example)))];
    ties.extend(origins.traces(example).map(|trace| ("trace", trace.to_owned())));
    ties.extend(origins.sessions(example).map(|session| ("session", session.to_owned())));
    ties.sort_unstable();
    ties.dedup();
    ties
}

/// Examples by index, grouped by their ties, in order of each group's first.
fn groups(ties: &[Vec<Tie>]) -> Vec<Vec<usize>> {
    let mut parent: Vec<usize> = (0..ties.len()).collect();
    let mut first_with: HashMap<&Tie, usize> = HashMap::new();
    for (i, tie) in ties.iter().enumerate().flat_map(|(i, ties)| ties.iter().map(move |tie| (i, tie))) {
        let other = *first_with.entry(tie).or_insert(i);
        let (a, b) = (root(&mut parent, i), root(&mut parent, other));
        // The smaller index is the root, so that the order of groups is the order of the examples.
        parent[a.max(b)] = a.min(b);
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut place: HashMap<usize, usize> = HashMap::new();
    for i in 0..ties.len() {
        let group = *place.entry(root(&mut parent, i)).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    groups
}

pub(super) fn root(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

/// Fisher-Yates. The remainder's bias is below n / 2^64.
fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, (rng.next_u64() % (i as u64 + 1)) as usize);
    }
}

fn one_group(groups: &[Vec<usize>], ties: &[Vec<Tie>], possible: usize, needed: usize) -> DatasetError {
    let largest = groups.iter().max_by_key(|group| group.len()).map_or(&[][..], Vec::as_slice);
    let mut shares: HashMap<&Tie, usize> = HashMap::new();
    largest.iter().flat_map(|&i| &ties[i]).for_each(|tie| *shares.entry(tie).or_default() += 1);
    let tie = shares.into_iter().max_by_key(|&(tie, count)| (count, std::cmp::Reverse(tie)));
    DatasetError::OneGroup {
        examples: ties.len(),
        largest: largest.len(),
        possible,
        needed,
        tie: tie.map_or_else(String::new, |((what, value), count)| format!("{count} share the {what} `{value}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [Example; 0] = [];
    use crate::dataset::check_leaks;
    use crate::dataset::origins::tests::span;
    use crate::dataset::testing::{instruction, lineage, pair};

    fn independent(n: usize) -> Vec<Example> {
        (0..n).map(|i| instruction(&format!("s{i}"), &format!("query {i}"), "a")).collect()
    }

    /// `n` examples, each `size` of them in one session.
    fn in_sessions(n: usize, size: usize) -> (Vec<Example>, Origins) {
        let examples = independent(n);
        let mut origins = Origins::default();
        for i in 0..n {
            let id = format!("s{i}");
            let session = format!("session {}", i / size);
            origins.note(&[span(&id, &format!("trace-{id}"), Some(&session), i as u64)], &examples);
        }
        (examples, origins)
    }

    #[test]
    fn held_out_is_a_tenth_from_a_hundred_on_and_at_least_five_and_at_most_a_fifth_below() {
        for (n, expected) in [
            (0, 0),
            (1, 0),
            (4, 0),
            (5, 1),
            (9, 1),
            (10, 2),
            (24, 4),
            (25, 5),
            (50, 5),
            (60, 6),
            (99, 10),
            (100, 10),
            (101, 11),
            (1000, 100),
        ] {
            assert_eq!(held_out_target(n), expected, "{n}");
            let split = split(independent(n), &Origins::default(), 1, None, &NONE).unwrap();
            assert_eq!((split.held_out.len(), split.train.len()), (expected, n - expected), "{n}");
        }
    }

    #[test]
    fn the_seed_alone_decides_and_the_order_stays() {
        let origins = Origins::default();
        let once = split(independent(200), &origins, 7, None, &NONE).unwrap();
        assert_eq!(once, split(independent(200), &origins, 7, None, &NONE).unwrap());
        assert_ne!(once, split(independent(200), &origins, 8, None, &NONE).unwrap());
        let number = |e: &Example| input(e)[6..].parse::<usize>().unwrap();
        assert!(once.held_out.is_sorted_by_key(number) && once.train.is_sorted_by_key(number));
        // Shuffled: the held-out examples are not the last tenth, as the Python system took them.
        assert!(once.held_out.iter().any(|e| number(e) < 180));
    }

    #[test]
    fn no_session_is_on_both_sides() {
        let (examples, origins) = in_sessions(300, 4);
        for seed in 0..20 {
            let split = split(examples.clone(), &origins, seed, None, &NONE).unwrap();
            assert_eq!(check_leaks(&split.train, &split.held_out, &origins, None), Ok(()));
            assert_eq!(split.held_out.len(), 28, "the most that whole sessions of 4 fit into 30");
        }
    }

    #[test]
    fn one_input_in_two_traces_is_on_one_side() {
        let mut examples = independent(60);
        examples.push(instruction("s60", " query   3 ", "a"));
        let place = |side: &[Example]| side.iter().filter(|e| normalised(input(e)) == "query 3").count();
        for seed in 0..50 {
            let split = split(examples.clone(), &Origins::default(), seed, None, &NONE).unwrap();
            assert!(matches!((place(&split.train), place(&split.held_out)), (2, 0) | (0, 2)));
        }
    }

    #[test]
    fn ties_hold_through_other_examples_and_through_every_span_of_a_pair() {
        // s0 and s1 share a trace only through the second span of the pair s0.
        let mut first = pair("s0", "a", "x", "y");
        super::super::lineage_mut(&mut first).span_ids.push("other".to_owned());
        let mut examples = vec![first, pair("s1", "b", "x", "y"), pair("s2", "b", "y", "z")];
        examples.extend((3..60).map(|i| pair(&format!("s{i}"), &format!("q{i}"), "x", "y")));
        let mut origins = Origins::default();
        origins.note(&[span("other", &lineage("s1").trace_id, None, 0)], &examples);
        for seed in 0..50 {
            let split = split(examples.clone(), &origins, seed, None, &NONE).unwrap();
            let held = split.held_out.iter().filter(|e| ["a", "b"].contains(&input(e))).count();
            assert!(held == 0 || held == 3, "{held} of 3 tied examples held out");
        }
    }

    #[test]
    fn groups_larger_than_the_target_are_held_out_where_nothing_else_is_left() {
        let (examples, origins) = in_sessions(50, 8);
        let split = split(examples, &origins, 3, None, &NONE).unwrap();
        assert!(matches!(split.held_out.len(), 8 | 10), "one session of 8, or the last of 2 and one of 8");
    }

    #[test]
    fn one_giant_group_is_an_error_that_says_what_ties_it() {
        let (examples, origins) = in_sessions(50, 48);
        assert_eq!(
            split(examples, &origins, 1, None, &NONE).unwrap_err().to_string(),
            "cannot hold out examples: 48 of 50 hang together (48 share the session `session 0`), and without parting \
             them only 2 can be held out, where 5 are needed: give independent requests their own trace and session ids"
        );
    }
}
