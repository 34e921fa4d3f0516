//! What stands between a generator and the people who review.

use std::collections::{HashMap, HashSet};

use super::Wanted;
use super::answers::{Answers, folded};
use super::proposal::Proposal;
use crate::approval::{Candidate, Content, Near, NearTo};
use crate::config::RunConfig;
use crate::dataset::{self, Redactor, Shingles, SkipTable};
use crate::plugins::bindings::types::Example;

/// Reason of an example of which a text is empty.
pub(super) const EMPTY: &str = "empty text";
/// Reason of an example that is far longer than the real ones.
pub(super) const TOO_LONG: &str = "far longer than the real examples";
/// Reason of an example in which a model declines.
pub(super) const REFUSAL: &str = "refusal";
/// Reason of a text that goes round in a circle.
pub(super) const LOOP: &str = "repeats itself";
/// Reason of a pair, or of documents, that are one.
pub(super) const SAME: &str = "both answers are the same";
/// Reason of an example that is there already.
pub(super) const DUPLICATE: &str = "duplicate of an example";
/// Reason of an example that is nearly there already.
pub(super) const NEAR_DUPLICATE: &str = "near-duplicate of an example";
/// Reason of an example that its own batch has, or nearly.
pub(super) const OF_BATCH: &str = "repeats another of its batch";
/// Reason of an example whose input is, or is nearly, a held-out one.
pub(super) const HELD_OUT: &str = "near-duplicate of a held-out example";
/// Reason of an example that takes an approved answer for a wrong one, or another for the better one.
pub(super) const CONTRADICTION: &str = "contradicts an example";

/// Characters of a text, whatever the real ones have.
const MOST_CHARS: usize = 32_768;
/// Characters that a text may always have.
const ALWAYS_CHARS: usize = 400;
/// Texts that a candidate is said to resemble.
const MOST_NEAR: usize = 3;

/// Takes proposals in and lets candidates out.
pub(super) struct Sieve<'a> {
    wanted: &'a Wanted<'a>,
    threshold: f64,
    redactor: Redactor<'a>,
    answers: Answers,
    worse: Answers,
    most_chars: usize,
    known: Vec<Known>,
    batch: Vec<Known>,
    held_out: Vec<Shingles>,
    /// By input, the answers that people approved.
    approved: HashMap<String, HashSet<String>>,
    candidates: Vec<Candidate>,
    left_out: SkipTable,
}

/// An example to compare with.
struct Known {
    content: Content,
    /// Folded texts, without the instruction.
    texts: Vec<String>,
    /// Of the texts in which nearness is sameness: the input, or of pairs and triplets all.
    shingles: Vec<Shingles>,
}

impl<'a> Sieve<'a> {
    pub(super) fn new(config: &'a RunConfig, wanted: &'a Wanted<'a>) -> Self {
        let real = || wanted.parents.iter().chain(wanted.existing);
        let mut approved: HashMap<String, HashSet<String>> = HashMap::new();
        for example in real().filter(|example| !matches!(example, Example::Triplet(_))) {
            let answers = approved.entry(folded(dataset::input(example))).or_default();
            answers.insert(folded(dataset::output(example)));
        }
        let longest = real().flat_map(|example| lengths(&Content::of(example))).max().unwrap_or(0);
        // What trains is shown and compared with: it is there twice.
        let mut seen = HashSet::new();
        let contents = real().map(Content::of).filter(|content| seen.insert(content.sha256()));
        let known = contents.map(Known::new).collect();
        Self {
            wanted,
            threshold: config.dataset.near_duplicate_threshold,
            redactor: Redactor::of_texts(&config.redaction),
            answers: Answers::of(wanted.agent_type, wanted.parents),
            worse: Answers::of_all(wanted.agent_type, wanted.parents),
            most_chars: (4 * longest).clamp(ALWAYS_CHARS, MOST_CHARS),
            known,
            batch: Vec::new(),
            held_out: wanted.held_out.iter().map(|example| Shingles::of(dataset::input(example))).collect(),
            approved,
            candidates: Vec::new(),
            left_out: SkipTable::default(),
        }
    }

    /// What answers may be, and what the worse of two.
    pub(super) fn answers(&self) -> [Answers; 2] {
        [self.answers.clone(), self.worse.clone()]
    }

    /// How many came through.
    pub(super) fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Whether nothing more is wanted.
    pub(super) fn is_full(&self) -> bool {
        self.candidates.len() >= self.wanted.count
    }

    /// Counts what was not even a proposal.
    pub(super) fn leave_out(&mut self, reason: &str) {
        self.left_out.add(reason);
    }

    /// Lets a proposal through, or counts why not; true where it came through.
    pub(super) fn offer(&mut self, proposal: Proposal) -> bool {
        if self.is_full() {
            return false;
        }
        let Proposal { mut content, parents, prompt_sha256, seed } = proposal;
        match self.check(&mut content) {
            Ok(known) => {
                self.batch.push(known);
                self.candidates.push(Candidate { content, parents, prompt_sha256, seed, near: Vec::new() });
                true
            }
            Err(reason) => {
                self.left_out.add(reason);
                false
            }
        }
    }

    /// Cleans a content and finds what is wrong with it.
    fn check(&mut self, content: &mut Content) -> Result<Known, &'static str> {
        for (name, text) in content.fields_mut() {
            if name == "instruction" {
                self.wanted.instruction.clone_into(text);
                continue;
            }
            self.redactor.redact_text(name, text);
            *text = text.trim().to_owned();
            // Small models copy the dots of `{"input": ...}`.
            let says_nothing = ["input", "anchor"].contains(&name) && !text.contains(char::is_alphanumeric);
            if text.is_empty() || says_nothing {
                return Err(EMPTY);
            }
            if text.chars().count() > self.most_chars {
                return Err(TOO_LONG);
            }
            if is_refusal(text) {
                return Err(REFUSAL);
            }
            if is_loop(text) {
                return Err(LOOP);
            }
        }
        match content {
            Content::Instruction { output, .. } => *output = self.answers.accept(output)?,
            Content::Preference { chosen, rejected, .. } => {
                *chosen = self.answers.accept(chosen)?;
                *rejected = self.worse.accept(rejected)?;
                if folded(chosen) == folded(rejected) {
                    return Err(SAME);
                }
            }
            Content::Triplet { positive, negative, .. } if folded(positive) == folded(negative) => return Err(SAME),
            Content::Triplet { .. } => {}
        }
        let known = Known::new(content.clone());
        let input = Shingles::of(content.input());
        if self.held_out.iter().any(|held_out| held_out.overlaps(&input, self.threshold)) {
            return Err(HELD_OUT);
        }
        if self.known.iter().any(|other| other.is_same(&known)) {
            return Err(DUPLICATE);
        }
        if self.contradicts(content) || self.known.iter().any(|other| other.is_reverse(&known)) {
            return Err(CONTRADICTION);
        }
        if self.known.iter().any(|other| other.is_near(&known, self.threshold)) {
            return Err(NEAR_DUPLICATE);
        }
        if self.batch.iter().any(|other| other.is_near(&known, self.threshold) || other.is_reverse(&known)) {
            return Err(OF_BATCH);
        }
        Ok(known)
    }

    /// Whether people decided otherwise about this very input.
    fn contradicts(&self, content: &Content) -> bool {
        let Content::Preference { input, chosen, rejected, .. } = content else { return false };
        let Some(approved) = self.approved.get(&folded(input)) else { return false };
        !approved.contains(&folded(chosen)) || approved.contains(&folded(rejected))
    }

    /// What came through, each with what it resembles, and what did not.
    pub(super) fn finish(mut self) -> (Vec<Candidate>, SkipTable) {
        let mut seen = HashSet::new();
        let others: Vec<&Known> = self.known.iter().filter(|known| seen.insert(known.texts[0].as_str())).collect();
        for (i, candidate) in self.candidates.iter_mut().enumerate() {
            let own = self.batch[i].input();
            let of_training = others.iter().map(|other| (NearTo::Training, *other));
            let of_batch =
                self.batch.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, other)| (NearTo::Batch, other));
            let near = of_training.chain(of_batch).map(|(to, other)| {
                let similarity = other.input().overlap(own);
                Near { to, text: other.content.input().to_owned(), similarity }
            });
            let mut near: Vec<Near> = near.filter(|near| near.similarity > 0.0).collect();
            near.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
            near.truncate(MOST_NEAR);
            candidate.near = near;
        }
        (self.candidates, self.left_out)
    }
}

impl Known {
    fn new(content: Content) -> Self {
        let fields = content.fields();
        let fields: Vec<&str> =
            fields.iter().filter(|(name, _)| *name != "instruction").map(|(_, text)| *text).collect();
        // An input has one answer, so that nothing but the input tells two examples for SFT apart.
        let compared = if matches!(content, Content::Instruction { .. }) { &fields[..1] } else { &fields };
        let shingles = compared.iter().map(|text| Shingles::of(text)).collect();
        Self { texts: fields.iter().map(|text| folded(text)).collect(), shingles, content }
    }

    fn input(&self) -> &Shingles {
        &self.shingles[0]
    }

    fn is_same(&self, other: &Self) -> bool {
        self.content.kind() == other.content.kind() && self.texts == other.texts
    }

    fn is_near(&self, other: &Self, threshold: f64) -> bool {
        self.content.kind() == other.content.kind()
            && self.shingles.iter().zip(&other.shingles).all(|(a, b)| a.overlaps(b, threshold))
    }

    /// Whether of one input the better is the worse.
    fn is_reverse(&self, other: &Self) -> bool {
        match (self.texts.as_slice(), other.texts.as_slice()) {
            ([input, better, worse], [other_input, other_better, other_worse]) => {
                self.content.kind() == other.content.kind()
                    && (input, better, worse) == (other_input, other_worse, other_better)
            }
            _ => false,
        }
    }
}

/// How models decline: at the start, and whatever they were asked.
pub(super) fn is_refusal(text: &str) -> bool {
    const DECLINES: [&str; 12] = [
        "i'm sorry, but",
        "i am sorry, but",
        "i'm sorry, i",
        "sorry, but i",
        "i cannot assist",
        "i can't assist",
        "i can't help with",
        "i cannot help with",
        "i'm unable to",
        "i am unable to",
        "as an ai ",
        "as a language model",
    ];
    let text = text.trim_start().replace('\u{2019}', "'").to_lowercase();
    DECLINES.iter().any(|start| text.starts_with(start))
}

/// Whether a text of some length says little more than the same few words again and again.
fn is_loop(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() >= 12 {
        let distinct: HashSet<&[&str]> = words.windows(2).collect();
        // Below half, every pair of words is there twice on average: prose of 400 words has 9 of 10 once.
        return distinct.len() * 2 < words.len() - 1;
    }
    // One character, or two in turn: `aaaaaaaa`, `- - - -`.
    let characters: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let distinct: HashSet<&char> = characters.iter().collect();
    characters.len() >= 24 && distinct.len() <= 2
}

/// Characters of its texts.
fn lengths(content: &Content) -> Vec<usize> {
    content.fields().into_iter().filter(|(name, _)| *name != "instruction").map(|(_, t)| t.chars().count()).collect()
}
