//! Finding and replacing in one text.

use std::ops::Range;

use regex::{Regex, RegexSet};

use super::RedactionConfig;
use super::json::{self, Token};
use super::rules::{self, Rule};

/// How deep JSON in JSON strings is read; what lies deeper is read as plain text.
const MAX_DEPTH: usize = 4;

/// Every pattern of a run.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The operator's, then ours: of overlapping findings the earlier gives its name.
    rules: Vec<Rule>,
    /// The rules' patterns: one pass tells which of them find anything at all.
    any: RegexSet,
    placeholder: Regex,
}

/// A name in capitals and what it stands for, to what stands for it.
pub(super) type StandIn<'a> = dyn FnMut(&str, &str) -> String + 'a;

impl Scanner {
    pub(super) fn new(config: &RedactionConfig) -> Self {
        let own = config.patterns.iter().map(|pattern| Rule::own(&pattern.name, &pattern.regex));
        let rules: Vec<Rule> = own.chain(rules::built_in(&config.detectors)).collect();
        let names: Vec<_> = config.patterns.iter().map(|pattern| pattern.name.as_str()).collect();
        let names = [rules::NAMES.as_slice(), &names].concat().join("|");
        let built = "patterns of ours, and ones that were compiled before";
        Self {
            any: RegexSet::new(rules.iter().map(|rule| rule.regex.as_str())).expect(built),
            placeholder: Regex::new(&format!(r"\[(?:{names})(?:_[0-9]+)?\]")).expect(built),
            rules,
        }
    }

    /// Whether nothing is looked for.
    pub(super) fn is_idle(&self) -> bool {
        self.rules.is_empty()
    }

    /// The text without what was found in it; `None` where that is nothing. `key` is the attribute's.
    pub(super) fn redact(&self, key: &str, text: &str, stand_in: &mut StandIn<'_>) -> Option<String> {
        self.value(key, text, stand_in, 0)
    }

    fn value(&self, key: &str, text: &str, stand_in: &mut StandIn<'_>, depth: usize) -> Option<String> {
        if depth < MAX_DEPTH && json::is_json(text) {
            return json::rewrite(text, &mut |token, inner| {
                // A list's items lie under the list's key, and those of the outermost under the attribute's.
                let inner = inner.unwrap_or(key);
                match token {
                    Token::String(said) => self.value(inner, said, stand_in, depth + 1),
                    Token::Number(written) => self.value(inner, written, stand_in, MAX_DEPTH),
                }
            });
        }
        if self.rules.iter().any(|rule| rule.name == "KEY") && rules::is_secret(key, text) && !self.is_redacted(text) {
            return Some(stand_in("KEY", text));
        }
        // What stands for a finding may make its neighbours one: done when there is nothing left to find, so that
        // redacting again changes nothing. It ends: a round leaves fewer characters that stand for nothing, or as many of
        // them and fewer placeholders.
        let mut redacted: Option<String> = None;
        while let Some(next) = self.once(redacted.as_deref().unwrap_or(text), stand_in) {
            redacted = Some(next);
        }
        redacted
    }

    fn once(&self, text: &str, stand_in: &mut StandIn<'_>) -> Option<String> {
        let found = self.find(text);
        if found.is_empty() {
            return None;
        }
        let (mut redacted, mut copied) = (String::with_capacity(text.len()), 0);
        for Found { range, rule } in found {
            redacted.push_str(&text[copied..range.start]);
            redacted.push_str(&stand_in(&self.rules[rule].name, &text[range.clone()]));
            copied = range.end;
        }
        Some(redacted + &text[copied..])
    }

    /// In order, and none overlapping: findings that overlap are one, with the name of the earlier rule.
    fn find(&self, text: &str) -> Vec<Found> {
        let mut found = Vec::new();
        for rule in self.any.matches(text) {
            self.rules[rule].find(text, |range| found.push(Found { range, rule }));
        }
        if found.is_empty() {
            return found;
        }
        // A placeholder is left alone, or taken whole into what is found around it.
        let standing: Vec<_> = self.placeholder.find_iter(text).map(|it| it.range()).collect();
        found.retain(|Found { range, .. }| !standing.iter().any(|it| it.start <= range.start && range.end <= it.end));
        found.extend(standing.into_iter().map(|range| Found { range, rule: STANDING }));
        found.sort_by_key(|Found { range, rule }| (range.start, *rule));
        let mut merged: Vec<Found> = Vec::new();
        for each in found {
            match merged.last_mut() {
                Some(last) if each.range.start < last.range.end => {
                    last.range.end = last.range.end.max(each.range.end);
                    last.rule = last.rule.min(each.rule);
                }
                _ => merged.push(each),
            }
        }
        merged.retain(|found| found.rule != STANDING);
        merged
    }

    fn is_redacted(&self, text: &str) -> bool {
        self.placeholder.find(text).is_some_and(|it| it.len() == text.len())
    }
}

/// In the place of a rule's index, where a placeholder is.
const STANDING: usize = usize::MAX;

/// A place in a text, and the rule that found it.
struct Found {
    range: Range<usize>,
    rule: usize,
}
