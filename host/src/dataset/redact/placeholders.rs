//! What stands for a value: its kind in brackets, and a number where values are told apart.

use std::collections::HashMap;

use super::RedactionCounts;

/// Numbers by first appearance, and counts by kind.
#[derive(Debug, Default)]
pub(super) struct Placeholders {
    numbers: HashMap<String, HashMap<String, usize>>,
    counts: RedactionCounts,
}

impl Placeholders {
    /// `[NAME]`, or `[NAME_7]` where `numbered`; counted.
    pub(super) fn stand_in(&mut self, name: &str, value: &str, numbered: bool) -> String {
        self.count(&name.to_lowercase());
        if !numbered {
            return format!("[{name}]");
        }
        let known = self.numbers.entry(name.to_owned()).or_default();
        let next = known.len() + 1;
        let number = known.entry(canonical(name, value)).or_insert(next);
        format!("[{name}_{number}]")
    }

    pub(super) fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    pub(super) fn counts(&self) -> &RedactionCounts {
        &self.counts
    }
}

/// Spellings of one value are one: `Bob@X.com` and `bob@x.com`, `4111 1111 ...` and `41111111...`.
fn canonical(name: &str, value: &str) -> String {
    match name {
        "PHONE" | "CARD" => value.chars().filter(char::is_ascii_digit).collect(),
        "IBAN" => value.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_uppercase).collect(),
        "EMAIL" | "IP" => value.to_lowercase(),
        _ => value.to_owned(),
    }
}
