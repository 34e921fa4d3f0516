use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::mem::{Discriminant, discriminant};

use super::{Origins, SkipTable, lineage, lineage_mut, normalised};
use crate::plugins::bindings::types::Example;

/// Reason of an example that says what another one says.
pub const DUPLICATE: &str = "duplicate of another example";
/// Reason of an example that a newer one contradicts.
pub const CONTRADICTION: &str = "contradicted by a newer example of the same input";
/// Reason of an approved example that real ones contradict.
const CONTRADICTED: &str = "approved, but contradicted by an example of the same input";

/// Leaves out duplicates and contradictions, counts them in `skipped`, and keeps the order of the rest.
///
/// - Texts are compared with every run of white space as one blank; what is kept keeps its own white space.
/// - Of exact duplicates the first stays, and its lineage gains the spans and annotations of the others.
/// - Two approved outputs for one input, or a pair (or triplet) and its reverse, pull against each other: the one
///   with the newest span stays, as agents, prompts and catalogues change and people judge by the present ones.
pub fn dedupe(examples: Vec<Example>, origins: &Origins, skipped: &mut SkipTable) -> Vec<Example> {
    let distinct = without_duplicates(examples, skipped);

    // By question, the newest answer; of equally new ones the last.
    let mut newest: HashMap<Key, (u64, usize)> = HashMap::new();
    for (i, example) in distinct.iter().enumerate() {
        let candidate = (origins.newest_start_ns(example), i);
        let best = newest.entry(question(example)).or_insert(candidate);
        *best = candidate.max(*best);
    }
    let kept: HashSet<usize> = newest.into_values().map(|(_, i)| i).collect();
    skipped.add_many(CONTRADICTION, (distinct.len() - kept.len()) as u64);
    distinct.into_iter().enumerate().filter(|(i, _)| kept.contains(i)).map(|(_, example)| example).collect()
}

/// Of `more` those that say what neither `known` nor one before them says, and do not contradict it: what is known stays. The others
/// are counted in `skipped`.
pub fn new_to<E: Borrow<Example>>(known: &[Example], more: Vec<E>, skipped: &mut SkipTable) -> Vec<E> {
    let mut said: HashSet<Key> = known.iter().map(content).collect();
    let mut asked: HashSet<Key> = known.iter().map(question).collect();
    let mut is_new = |example: &E| {
        let example = example.borrow();
        if !said.insert(content(example)) {
            skipped.add(DUPLICATE);
            return false;
        }
        let new = asked.insert(question(example));
        if !new {
            skipped.add(CONTRADICTED);
        }
        new
    };
    more.into_iter().filter(|example| is_new(example)).collect()
}

/// The kind of example, and texts.
type Key = (Discriminant<Example>, [String; 4]);

fn without_duplicates(examples: Vec<Example>, skipped: &mut SkipTable) -> Vec<Example> {
    let mut place: HashMap<Key, usize> = HashMap::new();
    let mut distinct: Vec<Example> = Vec::new();
    for example in examples {
        match place.get(&content(&example)) {
            Some(&first) => {
                merge(&mut distinct[first], &example);
                skipped.add(DUPLICATE);
            }
            None => {
                place.insert(content(&example), distinct.len());
                distinct.push(example);
            }
        }
    }
    distinct
}

/// Everything that an example says.
fn content(example: &Example) -> Key {
    let texts: [&str; 4] = match example {
        Example::Instruction(e) => [&e.instruction, &e.input, &e.output, ""],
        Example::Preference(p) => [&p.instruction, &p.input, &p.chosen, &p.rejected],
        Example::Triplet(t) => ["", &t.anchor, &t.positive, &t.negative],
    };
    (discriminant(example), texts.map(normalised))
}

/// What only one example can answer: the input, or which of two texts is better for it.
fn question(example: &Example) -> Key {
    let (kind, [instruction, input, first, second]) = content(example);
    let answers = match example {
        Example::Instruction(_) => [String::new(), String::new()],
        _ if first <= second => [first, second],
        _ => [second, first],
    };
    let [first, second] = answers;
    (kind, [instruction, input, first, second])
}

pub(super) fn merge(kept: &mut Example, duplicate: &Example) {
    if let (Example::Instruction(kept), Example::Instruction(duplicate)) = (&mut *kept, duplicate) {
        kept.corrected |= duplicate.corrected;
    }
    let (into, from) = (lineage_mut(kept), lineage(duplicate));
    for (into, from) in [(&mut into.span_ids, &from.span_ids), (&mut into.annotation_names, &from.annotation_names)] {
        for each in from {
            if !into.contains(each) {
                into.push(each.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::origins::tests::span;
    use crate::dataset::testing::{instruction, pair, triplet};

    /// Deduplicates examples whose spans started in the order of their ids' numbers.
    fn run(examples: Vec<Example>) -> (Vec<Example>, SkipTable) {
        let mut origins = Origins::default();
        for id in examples.iter().flat_map(|e| lineage(e).span_ids.clone()) {
            let number = id.trim_start_matches('s').parse().unwrap();
            origins.note(&[span(&id, "t", None, number)], &examples);
        }
        let mut skipped = SkipTable::default();
        (dedupe(examples, &origins, &mut skipped), skipped)
    }

    #[test]
    fn of_duplicates_the_first_stays_with_the_lineage_of_all() {
        let (kept, skipped) = run(vec![
            instruction("s1", "will it  rain", "weather"),
            instruction("s2", "hello", "chat"),
            instruction("s3", " will it rain\n", "weather"),
        ]);
        assert_eq!(kept.iter().map(super::super::input).collect::<Vec<_>>(), ["will it  rain", "hello"]);
        assert_eq!(lineage(&kept[0]).span_ids, ["s1", "s3"]);
        assert_eq!(lineage(&kept[0]).annotation_names, ["human_approval"]);
        assert_eq!(skipped.rows(), [(DUPLICATE, 1)]);
    }

    #[test]
    fn of_contradictory_outputs_the_newest_stays() {
        let (kept, skipped) = run(vec![
            instruction("s5", "rain?", "weather"),
            instruction("s1", "rain?", "chat"),
            instruction("s3", "rain?", "search"),
        ]);
        assert_eq!(kept, [instruction("s5", "rain?", "weather")]);
        assert_eq!(skipped.rows(), [(CONTRADICTION, 2)]);
    }

    #[test]
    fn a_repeated_answer_is_as_new_as_its_last_repetition() {
        let (kept, _) = run(vec![
            instruction("s1", "rain?", "weather"),
            instruction("s2", "rain?", "chat"),
            instruction("s3", "rain?", "weather"),
        ]);
        assert_eq!(kept.len(), 1);
        assert_eq!(lineage(&kept[0]).span_ids, ["s1", "s3"]);
    }

    #[test]
    fn a_pair_and_its_reverse_contradict_and_two_rejections_do_not() {
        let (kept, skipped) =
            run(vec![pair("s1", "q", "a", "b"), pair("s2", "q", "a", "c"), pair("s3", "q", "b", "a")]);
        assert_eq!(kept, [pair("s2", "q", "a", "c"), pair("s3", "q", "b", "a")]);
        assert_eq!(skipped.rows(), [(CONTRADICTION, 1)]);
    }

    #[test]
    fn kinds_are_apart_and_triplets_with_other_negatives_are_no_duplicates() {
        let examples = vec![
            instruction("s1", "q", "a"),
            pair("s2", "q", "a", "b"),
            triplet("s3", "q", "a", "b"),
            triplet("s4", "q", "a", "c"),
        ];
        let (kept, skipped) = run(examples.clone());
        assert_eq!((kept, skipped.total()), (examples, 0));
    }
}
