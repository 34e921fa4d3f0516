//! Real examples recombined: no model, and every label as people approved it.
//!
//! - Inputs of one answer are spliced where they share a word, or joined: `find clips of X` and `show me clips about Y`
//!   give `find clips about Y`.
//! - What an input and its answer both name is swapped for what another example names in the same place.
//! - The worse answer of a pair is one that the agent gave to something else.
//! - A hard negative is the document of another anchor that resembles the positive one most.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::answers::folded;
use super::draw::{Draw, mixed};
use super::proposal::{Proposal, serving, sha256};
use super::sieve::Sieve;
use super::{SyntheticError, Wanted};
use crate::approval::Content;
use crate::dataset::{self, Shingles};
use crate::plugins::bindings::types::{Example, ExampleKind};
use crate::progress::Progress;

/// Tries for each example that is wanted, and so many besides.
const TRIES: usize = 20;
const TRIES_BESIDES: usize = 200;
/// Tries without an example after which there is none left.
const FRUITLESS: usize = 200;
/// Draws for a text that is another one.
const DRAWS: usize = 20;
/// Of so many most similar documents one is the negative.
const HARD: usize = 5;

/// Fills the sieve as far as recombination goes.
pub(super) fn fill(
    sieve: &mut Sieve<'_>,
    wanted: &Wanted<'_>,
    seed: u64,
    progress: &Progress,
) -> Result<(), SyntheticError> {
    let templates = Templates::new(wanted);
    let stage = progress.stage("generate", wanted.count as u64);
    let mut fruitless = 0;
    for attempt in 0..wanted.count * TRIES + TRIES_BESIDES {
        if sieve.is_full() || fruitless == FRUITLESS {
            break;
        }
        progress.check_stop().map_err(|_| SyntheticError::Interrupted)?;
        let seed = mixed(seed, attempt as u64);
        fruitless += 1;
        if let Some(made) = templates.make(wanted.kind, &mut Draw::new(seed))
            && sieve.offer(made.proposal(wanted, seed))
        {
            fruitless = 0;
        }
        stage.at(sieve.len() as u64, "recombined");
    }
    stage.finish(&format!("{} examples recombined", sieve.len()));
    Ok(())
}

/// An example, and what it was made of and how.
struct Made {
    how: &'static str,
    content: Content,
    parents: Vec<usize>,
}

impl Made {
    fn proposal(self, wanted: &Wanted<'_>, seed: u64) -> Proposal {
        let texts = self.parents.iter().map(|&parent| Content::of(&wanted.parents[parent]).sha256());
        let recipe = std::iter::once(self.how.to_owned()).chain(texts).collect::<Vec<_>>().join("\n");
        Proposal { content: self.content, parents: self.parents, prompt_sha256: sha256(&recipe), seed }
    }
}

struct Templates<'a> {
    parents: &'a [Example],
    /// Those that serve.
    serving: Vec<usize>,
    /// By answer, those that have it.
    alike: HashMap<String, Vec<usize>>,
    /// By index of a parent, what its input and its answer both name.
    slots: Vec<Vec<Slot>>,
    /// What the examples name, by its place.
    by_place: HashMap<String, Vec<Named>>,
    /// The answers that the agent gave, each once.
    given: Vec<Named>,
    /// The positive documents of triplets, each once.
    documents: Vec<Document>,
    /// By anchor, its positive documents.
    positives: HashMap<String, HashSet<String>>,
}

/// A text of a parent.
struct Named {
    parent: usize,
    text: String,
}

/// A document that answers an anchor.
struct Document {
    /// The first that has it.
    parent: usize,
    folded: String,
    shingles: Shingles,
}

/// A text that is in an input and in its answer.
#[derive(Debug, Clone, PartialEq)]
struct Slot {
    /// Where in the answer: keys, and what lies beside.
    place: String,
    text: String,
}

impl<'a> Templates<'a> {
    fn new(wanted: &Wanted<'a>) -> Self {
        let parents = wanted.parents;
        let serving = serving(parents, wanted.kind);
        let mut templates = Self {
            parents,
            alike: HashMap::new(),
            slots: vec![Vec::new(); parents.len()],
            by_place: HashMap::new(),
            given: Vec::new(),
            documents: Vec::new(),
            positives: HashMap::new(),
            serving,
        };
        match wanted.kind {
            ExampleKind::ApprovedExample | ExampleKind::PreferencePair => templates.note_answers(),
            ExampleKind::Triplet => templates.note_documents(),
        }
        templates
    }

    fn note_answers(&mut self) {
        let mut seen = HashSet::new();
        for &parent in &self.serving {
            let (input, output) = (self.input(parent), self.output(parent));
            self.alike.entry(folded(output)).or_default().push(parent);
            for slot in slots(input, output) {
                let named = Named { parent, text: slot.text.clone() };
                self.by_place.entry(slot.place.clone()).or_default().push(named);
                self.slots[parent].push(slot);
            }
            let rejected = match &self.parents[parent] {
                Example::Preference(pair) => Some(pair.rejected.as_str()),
                Example::Instruction(_) | Example::Triplet(_) => None,
            };
            for text in std::iter::once(output).chain(rejected) {
                if seen.insert(folded(text)) {
                    self.given.push(Named { parent, text: text.to_owned() });
                }
            }
        }
    }

    fn note_documents(&mut self) {
        let mut seen = HashSet::new();
        for &parent in &self.serving {
            let (anchor, document) = (folded(self.input(parent)), folded(self.output(parent)));
            if seen.insert(document.clone()) {
                let shingles = Shingles::of(self.output(parent));
                self.documents.push(Document { parent, folded: document.clone(), shingles });
            }
            self.positives.entry(anchor).or_default().insert(document);
        }
    }

    fn make(&self, kind: ExampleKind, draw: &mut Draw) -> Option<Made> {
        match kind {
            ExampleKind::ApprovedExample => {
                let Answered { how, input, output, parents } = self.answered(draw)?;
                let content = Content::Instruction { instruction: String::new(), input, output };
                Some(Made { how, content, parents })
            }
            ExampleKind::PreferencePair => self.pair(draw),
            ExampleKind::Triplet => self.triplet(draw),
        }
    }

    /// A new input and its answer.
    fn answered(&self, draw: &mut Draw) -> Option<Answered> {
        let first = *draw.pick(&self.serving)?;
        match draw.below(2) {
            0 => self.swapped(first, draw).or_else(|| self.spliced(first, draw)),
            _ => self.spliced(first, draw).or_else(|| self.swapped(first, draw)),
        }
    }

    fn spliced(&self, first: usize, draw: &mut Draw) -> Option<Answered> {
        let alike = &self.alike[&folded(self.output(first))];
        let second = *(0..DRAWS).find_map(|_| draw.pick(alike).filter(|other| **other != first))?;
        let input = splice(self.input(first), self.input(second), draw)?;
        Some(Answered { how: "splice", input, output: self.output(first).to_owned(), parents: vec![first, second] })
    }

    fn swapped(&self, first: usize, draw: &mut Draw) -> Option<Answered> {
        let slot = draw.pick(&self.slots[first])?;
        let others = &self.by_place[&slot.place];
        let other = |new: &&Named| new.parent != first && folded(&new.text) != folded(&slot.text);
        let Named { parent: second, text: new } = (0..DRAWS).find_map(|_| draw.pick(others).filter(other))?;
        let input = replace_words(self.input(first), &slot.text, new)?;
        let output = replace_answer(self.output(first), &slot.text, new)?;
        Some(Answered { how: "swap", input, output, parents: vec![first, *second] })
    }

    /// A worse answer to a real input or, every other time, to a new one.
    fn pair(&self, draw: &mut Draw) -> Option<Made> {
        let real = |draw: &mut Draw| {
            let parent = *draw.pick(&self.serving)?;
            let (input, output) = (self.input(parent).to_owned(), self.output(parent).to_owned());
            Some(Answered { how: "real", input, output, parents: vec![parent] })
        };
        let answered = match draw.below(2) {
            0 => real(draw),
            _ => self.answered(draw).or_else(|| real(draw)),
        };
        let Answered { input, output: chosen, mut parents, .. } = answered?;
        let other = |worse: &&Named| folded(&worse.text) != folded(&chosen);
        let Named { parent: of, text: rejected } = (0..DRAWS).find_map(|_| draw.pick(&self.given).filter(other))?;
        if !parents.contains(of) {
            parents.push(*of);
        }
        let content = Content::Preference { instruction: String::new(), input, chosen, rejected: rejected.clone() };
        Some(Made { how: "answer of another", content, parents })
    }

    fn triplet(&self, draw: &mut Draw) -> Option<Made> {
        let first = *draw.pick(&self.serving)?;
        let Example::Triplet(own) = &self.parents[first] else { return None };
        let positive = Shingles::of(&own.positive);
        // A document that also answers this anchor is no negative.
        let answers = &self.positives[&folded(&own.anchor)];
        let others = self.documents.iter().filter(|document| !answers.contains(&document.folded));
        let mut near: Vec<(f64, usize)> =
            others.map(|document| (document.shingles.overlap(&positive), document.parent)).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        near.truncate(HARD);
        let (_, second) = draw.pick(&near)?;
        let content = Content::Triplet {
            anchor: own.anchor.clone(),
            positive: own.positive.clone(),
            negative: self.output(*second).to_owned(),
        };
        Some(Made { how: "hard negative", content, parents: vec![first, *second] })
    }

    fn input(&self, parent: usize) -> &'a str {
        dataset::input(&self.parents[parent])
    }

    fn output(&self, parent: usize) -> &'a str {
        dataset::output(&self.parents[parent])
    }
}

struct Answered {
    how: &'static str,
    input: String,
    output: String,
    parents: Vec<usize>,
}

/// The start of `a` and the end of `b` around a word that both have, or else both as one request.
fn splice(a: &str, b: &str, draw: &mut Draw) -> Option<String> {
    let (first, second): (Vec<&str>, Vec<&str>) = (a.split_whitespace().collect(), b.split_whitespace().collect());
    let shared = |i: usize, j: usize| first[i].to_lowercase() == second[j].to_lowercase();
    // With a word of each on either side: else it is one of the two.
    let inner = |words: &[&str]| 1..words.len().saturating_sub(1);
    let pivots: Vec<(usize, usize)> =
        inner(&first).flat_map(|i| inner(&second).filter(move |&j| shared(i, j)).map(move |j| (i, j))).collect();
    let (own, other) = (folded(a), folded(b));
    let spliced: Vec<String> = pivots
        .into_iter()
        .map(|(i, j)| [&first[..i], &second[j..]].concat().join(" "))
        .filter(|text| ![&own, &other].contains(&&folded(text)))
        .collect();
    if let Some(text) = draw.pick(&spliced) {
        return Some(text.clone());
    }
    if own == other || first.is_empty() || second.is_empty() {
        return None;
    }
    let end: &[char] = &['.', '!', '?', ',', ';', ' '];
    Some(format!("{} and {}", a.trim().trim_end_matches(end), b.trim()))
}

/// What an answer takes from its input: texts of JSON, or the parts of a list.
fn slots(input: &str, output: &str) -> Vec<Slot> {
    let mut found = Vec::new();
    match serde_json::from_str::<Value>(output) {
        Ok(value @ (Value::Object(_) | Value::Array(_))) => walk(&value, "", &mut found),
        _ => {
            let parts = output.split([',', ';', '\n']).map(str::trim);
            found.extend(parts.map(|text| Slot { place: String::new(), text: text.to_owned() }));
        }
    }
    found.retain(|slot| slot.text.chars().count() > 1 && replace_words(input, &slot.text, "").is_some());
    found
}

fn walk(value: &Value, place: &str, found: &mut Vec<Slot>) {
    match value {
        Value::String(text) => found.push(Slot { place: place.to_owned(), text: text.clone() }),
        Value::Array(items) => items.iter().for_each(|item| walk(item, &format!("{place}[]"), found)),
        // Numbers beside a text may count its characters: what takes its place would make them wrong.
        Value::Object(fields) if fields.values().any(Value::is_number) => {}
        Value::Object(fields) => {
            let kind = ["type", "label", "category", "kind"].iter().find_map(|key| fields.get(*key)?.as_str());
            for (key, inner) in fields {
                walk(inner, &format!("{place}.{key}:{}", kind.unwrap_or_default()), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces `old` wherever it stands by itself; `None` where it does not.
fn replace_words(text: &str, old: &str, new: &str) -> Option<String> {
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (mut replaced, mut copied) = (String::with_capacity(text.len()), 0);
    for (start, _) in text.match_indices(old) {
        let end = start + old.len();
        if is_word(text[..start].chars().next_back()) || is_word(text[end..].chars().next()) {
            continue;
        }
        replaced.push_str(&text[copied..start]);
        replaced.push_str(new);
        copied = end;
    }
    (copied > 0).then(|| replaced + &text[copied..])
}

/// In JSON as a whole text, elsewhere as words.
fn replace_answer(output: &str, old: &str, new: &str) -> Option<String> {
    if !matches!(serde_json::from_str(output), Ok(Value::Object(_) | Value::Array(_))) {
        return replace_words(output, old, new);
    }
    let quoted = |text: &str| Value::String(text.to_owned()).to_string();
    let replaced = output.replace(&quoted(old), &quoted(new));
    (replaced != output).then_some(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_inputs_are_spliced_at_a_word_that_both_have_and_else_joined() {
        let mut draw = Draw::new(1);
        let spliced =
            |draw: &mut Draw| splice("find clips about robots", "show me everything about the old harbour", draw);
        assert_eq!(spliced(&mut draw).as_deref(), Some("find clips about the old harbour"));
        assert_eq!(
            splice("will it rain?", "how warm is today", &mut draw).as_deref(),
            Some("will it rain and how warm is today")
        );
        assert_eq!(splice("will it rain", "Will it  rain", &mut draw), None);
    }

    #[test]
    fn a_slot_is_what_input_and_answer_both_name_in_the_same_place() {
        let json = r#"{"entities": [{"text": "Oslo", "type": "city"}, {"text": "in May", "type": "date"}]}"#;
        let found = slots("flights to Oslo in May", json);
        let texts: Vec<_> = found.iter().map(|slot| (slot.place.as_str(), slot.text.as_str())).collect();
        assert_eq!(texts, [(".entities:[].text:city", "Oslo"), (".entities:[].text:date", "in May")]);
        assert_eq!(
            replace_answer(json, "Oslo", "New \"York\"").as_deref(),
            Some(r#"{"entities": [{"text": "New \"York\"", "type": "city"}, {"text": "in May", "type": "date"}]}"#)
        );
        assert_eq!(
            replace_words("Oslo, then Oslofjord to Oslo", "Oslo", "Rome").as_deref(),
            Some("Rome, then Oslofjord to Rome")
        );
        assert_eq!(slots("the wooden shelves", "shelves; doors").len(), 1);
        let counted = r#"[{"text": "Oslo", "start": 11}]"#;
        assert_eq!(slots("flights to Oslo", counted), []);
    }
}
