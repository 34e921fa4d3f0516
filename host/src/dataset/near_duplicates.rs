//! Inputs that are nearly the same: how near they have to be, how they are found, and what becomes of them.
//!
//! Two texts are as near as their sets of shingles overlap (Jaccard): of three words, or of five characters where a
//! text has fewer than [`MIN_WORDS`] words. Candidates come from MinHash signatures in bands (Broder 1997; Leskovec et
//! al., Mining of Massive Datasets, 3.4), and every one of them is compared for itself: what is found is exact, and
//! what lies at the threshold is missed once in 20,000 times at 0.85, and once in 600 at 0.8.
//!
//! Telemetry is made of templates: "play a jazz song" and "play a rock song" share most of what they say and are two
//! questions. So the threshold is high, and the default is to count: of the 403 inputs of the quick start 6 pairs are
//! at 0.85 or above, all the same question with a word of politeness; at 0.7 are 21 and some of them differ in what
//! is asked.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;

use minhash_rs::prelude::{MinHash, MinHasher};
use serde::{Deserialize, Serialize};

use super::split::root;
use super::{SkipTable, dedupe, input, normalised};
use crate::plugins::bindings::types::Example;

/// Reason of an example that says almost what another one says.
pub const NEAR_DUPLICATE: &str = "near-duplicate of another example";

/// What becomes of inputs that are nearly the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NearDuplicates {
    /// They are examples like others; those held out whose like is in training are counted.
    Keep,
    /// They are on one side of the split.
    Group,
    /// That, and of those with equal answers one stays.
    Drop,
}

/// `[dataset]`, checked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NearDuplicateConfig {
    /// What becomes of them.
    pub near_duplicates: NearDuplicates,
    /// From which overlap on two inputs are nearly the same; 0.8 to 1.
    pub near_duplicate_threshold: f64,
}

impl NearDuplicateConfig {
    /// The threshold, where near-duplicates have to be on one side.
    pub fn ties(&self) -> Option<f64> {
        (self.near_duplicates != NearDuplicates::Keep).then_some(self.near_duplicate_threshold)
    }
}

/// From so many words on, shingles are of words.
const MIN_WORDS: usize = 16;

/// 21 bands of 6 values.
const VALUES: usize = 126;
const BANDS: usize = 21;

/// Of examples that say the same but for nearly the same input, the first stays, and its lineage gains those of the
/// others, which are counted in `skipped`.
pub fn drop_near_duplicates(examples: Vec<Example>, threshold: f64, skipped: &mut SkipTable) -> Vec<Example> {
    let mut index = Index::new(examples.iter(), threshold);
    // Near to one that stays: else a chain of small steps would leave one example of many.
    let mut stands_for: Vec<Option<usize>> = Vec::with_capacity(examples.len());
    for later in 0..examples.len() {
        let stands = |earlier: usize| stands_for.get(earlier).is_some_and(Option::is_none);
        let same = |earlier| same_answer(&examples[earlier], &examples[later]);
        stands_for.push(index.near_to(later, |earlier| stands(earlier) && same(earlier)));
    }
    let mut kept: Vec<Option<Example>> = examples.into_iter().map(Some).collect();
    for (i, stands_for) in stands_for.into_iter().enumerate() {
        if let Some(first) = stands_for
            && let Some(duplicate) = kept[i].take()
            && let Some(first) = kept[first].as_mut()
        {
            dedupe::merge(first, &duplicate);
            skipped.add(NEAR_DUPLICATE);
        }
    }
    kept.into_iter().flatten().collect()
}

/// How many held-out examples have an input that is nearly one of training.
pub fn near_training<E: Borrow<Example>>(train: &[E], held_out: &[E], threshold: f64) -> usize {
    held_out_near(train, held_out, threshold).count()
}

/// The held-out examples, by index, whose input is nearly one of training.
pub(super) fn held_out_near<E: Borrow<Example>>(
    train: &[E],
    held_out: &[E],
    threshold: f64,
) -> impl Iterator<Item = usize> + use<E> {
    let (n_train, n_held_out) = (train.len(), held_out.len());
    let mut index = Index::new(train.iter().chain(held_out).map(Borrow::borrow), threshold);
    (0..n_held_out).filter(move |i| index.near_to(n_train + i, |other| other < n_train).is_some())
}

/// Of each example, the first of those that hang together with it by steps from one near-duplicate to the next; itself
/// where nothing is near.
pub(super) fn components(examples: &[Example], threshold: f64) -> Vec<usize> {
    let mut index = Index::new(examples.iter(), threshold);
    let mut parent: Vec<usize> = (0..examples.len()).collect();
    for later in 0..examples.len() {
        // What hangs together already is not compared again: boilerplate can make all inputs near to all.
        let apart = |parent: &mut Vec<usize>, a, b| root(parent, a) != root(parent, b);
        while let Some(earlier) = index.near_to(later, |earlier| earlier < later && apart(&mut parent, earlier, later))
        {
            let (a, b) = (root(&mut parent, earlier), root(&mut parent, later));
            parent[a.max(b)] = a.min(b);
        }
    }
    (0..examples.len()).map(|i| root(&mut parent, i)).collect()
}

/// Finds inputs that are near to one. Of examples of one kind and instruction.
struct Index {
    threshold: f64,
    kinds: Vec<u64>,
    shingles: Vec<Vec<u64>>,
    bands: Vec<[u64; BANDS]>,
    /// By number and value of a band, who has it, in order.
    buckets: HashMap<(usize, u64), Vec<usize>>,
    /// Of each, for whom it was looked at last.
    seen: Vec<usize>,
}

impl Index {
    fn new<'a>(examples: impl Iterator<Item = &'a Example>, threshold: f64) -> Self {
        let (mut kinds, mut shingles, mut bands) = (Vec::new(), Vec::new(), Vec::new());
        let mut buckets: HashMap<(usize, u64), Vec<usize>> = HashMap::new();
        for (i, example) in examples.enumerate() {
            let of_text = self::shingles(&normalised(input(example)).to_lowercase());
            let signature: MinHash<u64, VALUES> = of_text.iter().copied().collect();
            let of_signature = signature.band_hashes::<BANDS>();
            for band in of_signature.into_iter().enumerate() {
                buckets.entry(band).or_default().push(i);
            }
            kinds.push(kind(example));
            shingles.push(of_text);
            bands.push(of_signature);
        }
        let seen = vec![usize::MAX; kinds.len()];
        Self { threshold, kinds, shingles, bands, buckets, seen }
    }

    /// The first that is near to `i` and wanted, of those that were not looked at for `i` before.
    fn near_to(&mut self, i: usize, mut wanted: impl FnMut(usize) -> bool) -> Option<usize> {
        for band in self.bands[i].into_iter().enumerate() {
            for &other in &self.buckets[&band] {
                if other == i || self.seen[other] == i {
                    continue;
                }
                self.seen[other] = i;
                if self.kinds[other] == self.kinds[i]
                    && wanted(other)
                    && jaccard(&self.shingles[other], &self.shingles[i]) >= self.threshold
                {
                    return Some(other);
                }
            }
        }
        None
    }
}

/// A text's shingles: what two texts are compared by.
#[derive(Debug, Clone, PartialEq)]
pub struct Shingles(Vec<u64>);

impl Shingles {
    /// Of a text, without regard to case and white space.
    pub fn of(text: &str) -> Self {
        Self(shingles(&normalised(text).to_lowercase()))
    }

    /// Shared shingles by all of both, from 0 to 1 (Jaccard).
    pub fn overlap(&self, other: &Self) -> f64 {
        jaccard(&self.0, &other.0)
    }

    /// Whether [`overlap`](Self::overlap) comes to `threshold`: sets of too different sizes are not compared at all.
    pub fn overlaps(&self, other: &Self, threshold: f64) -> bool {
        let (fewer, more) = (self.0.len().min(other.0.len()), self.0.len().max(other.0.len()));
        fewer as f64 >= threshold * more as f64 && self.overlap(other) >= threshold
    }
}

/// Hashes of a text's shingles, sorted; the text itself where it is shorter than one.
fn shingles(text: &str) -> Vec<u64> {
    let words: Vec<&str> = text.split(' ').collect();
    let mut hashes: Vec<u64> = match words.len() < MIN_WORDS {
        false => words.windows(3).map(hash).collect(),
        true => {
            let characters: Vec<char> = text.chars().collect();
            match characters.len() < 5 {
                true => vec![hash(text)],
                false => characters.windows(5).map(hash).collect(),
            }
        }
    };
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// The same in every process.
fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Of two sorted lists without repetitions.
fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                shared += 1;
                i += 1;
                j += 1;
            }
        }
    }
    f64::from(shared) / ((a.len() + b.len()) as f64 - f64::from(shared))
}

fn kind(example: &Example) -> u64 {
    let instruction = match example {
        Example::Instruction(example) => &example.instruction,
        Example::Preference(pair) => &pair.instruction,
        Example::Triplet(_) => "",
    };
    hash((discriminant(example), instruction))
}

fn same_answer(a: &Example, b: &Example) -> bool {
    let same = |a: &str, b: &str| normalised(a) == normalised(b);
    match (a, b) {
        (Example::Instruction(a), Example::Instruction(b)) => same(&a.output, &b.output),
        (Example::Preference(a), Example::Preference(b)) => {
            same(&a.chosen, &b.chosen) && same(&a.rejected, &b.rejected)
        }
        (Example::Triplet(a), Example::Triplet(b)) => same(&a.positive, &b.positive) && same(&a.negative, &b.negative),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::dataset::testing::{instruction, pair, triplet};
    use crate::dataset::{Origins, check_leaks, lineage, split};

    fn inputs(texts: &[&str]) -> Vec<Example> {
        texts.iter().enumerate().map(|(i, text)| instruction(&format!("s{i}"), text, "a")).collect()
    }

    fn words(n: usize, changed: Option<usize>) -> String {
        let word = |i| if Some(i) == changed { "other".to_owned() } else { format!("word{i}") };
        (0..n).map(word).collect::<Vec<_>>().join(" ")
    }

    /// By index, the smaller first, in order.
    fn pairs(texts: &[&str], threshold: f64) -> Vec<(usize, usize)> {
        let examples = inputs(texts);
        let mut index = Index::new(examples.iter(), threshold);
        let mut pairs = Vec::new();
        for later in 0..texts.len() {
            while let Some(earlier) = index.near_to(later, |earlier| earlier < later) {
                pairs.push((earlier, later));
            }
        }
        pairs.sort_unstable();
        pairs
    }

    #[test]
    fn a_word_of_politeness_is_near_and_another_question_is_not() {
        let texts = [
            "how windy will the roof terrace be at nine thirty",
            "How windy  will the roof terrace be at nine thirty please",
            "play a jazz song",
            "play a rock song",
            "how windy will the front desk be at nine thirty",
            "abc",
            "abd",
        ];
        assert_eq!(pairs(&texts, 0.85), [(0, 1)]);
    }

    #[test]
    fn long_texts_are_compared_by_their_words() {
        // One word of n is in 3 of n - 2 shingles: 55 of 61 are shared of 60 words, and 35 of 41 of 40.
        let [whole, changed] = [words(60, None), words(60, Some(30))];
        assert_eq!(pairs(&[&whole, &changed], 0.9), [(0, 1)]);
        let [whole, changed] = [words(40, None), words(40, Some(20))];
        assert_eq!(pairs(&[&whole, &changed], 0.85), [(0, 1)]);
        assert_eq!(pairs(&[&whole, &changed], 0.86), []);
    }

    /// Against a comparison of every pair.
    #[test]
    fn what_is_found_is_what_comparing_all_finds() {
        let texts: BTreeSet<String> = (0..60)
            .flat_map(|i| {
                let text = words(50 + i % 7, None).replace("word", &format!("w{}x", i / 3));
                [format!("{text} {i}"), text.replacen("x1 ", "y1 ", i % 2), text]
            })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let sets: Vec<_> = texts.iter().map(|text| shingles(text)).collect();
        let mut expected = Vec::new();
        for b in 0..texts.len() {
            expected.extend((0..b).filter(|&a| jaccard(&sets[a], &sets[b]) >= 0.85).map(|a| (a, b)));
        }
        expected.sort_unstable();
        assert!(expected.len() > 50, "{}", expected.len());
        assert_eq!(pairs(&texts, 0.85), expected);
    }

    #[test]
    fn of_near_duplicates_with_one_answer_the_first_stays_with_the_lineage_of_all() {
        let [base, polite] =
            ["tell me the weather in the harbour tomorrow", "tell me the weather in the harbour tomorrow pls"];
        let examples = vec![
            instruction("s1", base, "weather"),
            instruction("s2", polite, "weather"),
            instruction("s3", polite, "calendar"),
            pair("s4", polite, "a", "b"),
            pair("s5", base, "a", "b"),
            pair("s6", base, "a", "c"),
            triplet("s7", base, "a", "b"),
        ];
        let mut skipped = SkipTable::default();
        let kept = drop_near_duplicates(examples, 0.85, &mut skipped);
        let leads: Vec<_> = kept.iter().map(|example| lineage(example).span_ids.join("+")).collect();
        assert_eq!(leads, ["s1+s2", "s3", "s4+s5", "s6", "s7"]);
        assert_eq!(skipped.rows(), [(NEAR_DUPLICATE, 2)]);
    }

    #[test]
    fn a_chain_of_small_steps_is_not_one_example() {
        // Texts of 60 words that begin one word later each: 3 steps are 55 of 61 shingles, and 4 are 54 of 62.
        let long = words(67, None);
        let long: Vec<&str> = long.split(' ').collect();
        let chain: Vec<String> = long.windows(60).map(|window| window.join(" ")).collect();
        let chain: Vec<&str> = chain.iter().map(String::as_str).collect();
        let mut skipped = SkipTable::default();
        let kept = drop_near_duplicates(inputs(&chain), 0.9, &mut skipped);
        let leads: Vec<_> = kept.iter().map(|example| lineage(example).span_ids.join("+")).collect();
        assert_eq!(leads, ["s0+s1+s2+s3", "s4+s5+s6+s7"]);
    }

    #[test]
    fn near_duplicates_are_on_one_side_where_that_is_asked_for_and_counted_otherwise() {
        let mut examples: Vec<Example> = (0..60)
            .map(|i| instruction(&format!("s{i}"), &words(40, None).replace("word", &format!("w{i}x")), "a"))
            .collect();
        let near: Vec<Example> = (0..60)
            .map(|i| instruction(&format!("t{i}"), &words(40, Some(3)).replace("word", &format!("w{i}x")), "a"))
            .collect();
        examples.extend(near);
        let origins = Origins::default();
        for seed in 0..10 {
            let apart = split::<Example>(examples.clone(), &origins, seed, Some(0.85), &[]).unwrap();
            assert_eq!(near_training(&apart.train, &apart.held_out, 0.85), 0);
            assert_eq!(check_leaks(&apart.train, &apart.held_out, &origins, Some(0.85)), Ok(()));
            let mixed = split::<Example>(examples.clone(), &origins, seed, None, &[]).unwrap();
            assert!(near_training(&mixed.train, &mixed.held_out, 0.85) > 0);
            let leak = check_leaks(&mixed.train, &mixed.held_out, &origins, Some(0.85)).unwrap_err();
            assert!(leak.to_string().starts_with("the near-duplicate of the input `w"), "{leak}");
        }
    }

    /// `cargo test --release -p tunesmith timing_of_near_duplicates -- --ignored --nocapture`
    #[test]
    #[ignore = "prints times"]
    fn timing_of_near_duplicates() {
        // The last are all near to all: a question behind boilerplate.
        for n_words in [12, 200, 1000] {
            let input = |i: usize| match n_words {
                1000 => format!("{} {i}", words(n_words, None)),
                _ => words(n_words, None).replace("word", &format!("w{}x", i % 5000)),
            };
            let examples: Vec<_> = (0..10_000).map(|i| instruction("s", &input(i), "a")).collect();
            let start = std::time::Instant::now();
            let found = near_training(&examples[..9000], &examples[9000..], 0.85);
            eprintln!("10,000 inputs of {n_words} words: {:.2} s, {found} near", start.elapsed().as_secs_f64());
            let start = std::time::Instant::now();
            let apart = components(&examples, 0.85).into_iter().enumerate().filter(|(i, first)| i == first).count();
            eprintln!("their components: {:.2} s, {apart}", start.elapsed().as_secs_f64());
        }
    }
}
