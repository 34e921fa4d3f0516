//! What an answer may be, as far as the real ones tell: one of few, or JSON of a shape.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::plugins::bindings::types::Example;

/// Reason of an answer that the agent never gave where it gives one of few.
pub(super) const UNKNOWN: &str = "unknown answer";
/// Reason of an answer that is text where all real ones are JSON.
pub(super) const NOT_JSON: &str = "not valid JSON";
/// Reason of JSON that lacks what all real ones have.
pub(super) const OTHER_SHAPE: &str = "does not follow the schema";

/// More different answers than this are no choice.
const MOST_CHOICES: usize = 32;

/// Agents whose answer is a choice by what they are.
const CHOOSING: [&str; 2] = ["routing", "profile_selection"];
/// Agents whose answer is made of the query.
const OPEN: [&str; 2] = ["entity_extraction", "search"];

/// What an answer may be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answers {
    /// Any text.
    Open,
    /// One of these; sorted, as the agent writes them.
    Choice(Vec<String>),
    /// JSON.
    Json(Shape),
}

/// What all real answers have.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// An object with at least these keys.
    Object(BTreeSet<String>),
    /// A list.
    List,
}

impl Answers {
    /// As the answers that people approved are.
    pub(super) fn of(agent_type: &str, examples: &[Example]) -> Self {
        Self::of_texts(agent_type, examples, better)
    }

    /// As all answers of the agent are, those that people turned down too: what a worse one may be.
    pub(super) fn of_all(agent_type: &str, examples: &[Example]) -> Self {
        Self::of_texts(agent_type, examples, both)
    }

    fn of_texts(agent_type: &str, examples: &[Example], texts: fn(&Example) -> Vec<&str>) -> Self {
        let all: Vec<&str> = examples.iter().flat_map(texts).filter(|text| !text.trim().is_empty()).collect();
        let distinct: BTreeMap<String, &str> = all.iter().map(|text| (folded(text), *text)).collect();
        // Of another agent a choice shows in its repetitions.
        let few = distinct.len() <= MOST_CHOICES && !OPEN.contains(&agent_type);
        if few && !all.is_empty() && (CHOOSING.contains(&agent_type) || distinct.len() * 3 <= all.len()) {
            let mut choices: Vec<String> = distinct.into_values().map(|text| text.trim().to_owned()).collect();
            choices.sort();
            return Self::Choice(choices);
        }
        match Shape::of(&all) {
            Some(shape) => Self::Json(shape),
            None => Self::Open,
        }
    }

    /// The answer as the agent would write it.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn accept(&self, answer: &str) -> Result<String, &'static str> {
        match self {
            Self::Open => Ok(answer.to_owned()),
            Self::Choice(choices) => {
                let json = |text: &str| serde_json::from_str::<Value>(text).ok().filter(|value| !value.is_number());
                let (wanted, as_json) = (folded(answer), json(answer));
                let same = |choice: &&String| folded(choice) == wanted || as_json.is_some() && json(choice) == as_json;
                choices.iter().find(same).cloned().ok_or(UNKNOWN)
            }
            Self::Json(shape) => {
                let value: Value = serde_json::from_str(answer).map_err(|_| NOT_JSON)?;
                let fits = match (shape, &value) {
                    (Shape::Object(keys), Value::Object(found)) => keys.iter().all(|key| found.contains_key(key)),
                    (Shape::List, Value::Array(_)) => true,
                    _ => false,
                };
                fits.then(|| answer.to_owned()).ok_or(OTHER_SHAPE)
            }
        }
    }

    /// The answers of a choice.
    pub(super) fn choices(&self) -> Option<&[String]> {
        match self {
            Self::Choice(choices) => Some(choices),
            Self::Open | Self::Json(_) => None,
        }
    }
}

impl Shape {
    fn of(texts: &[&str]) -> Option<Self> {
        let values: Vec<Value> = texts.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>().ok()?;
        let keys = |value: &Value| Some(value.as_object()?.keys().cloned().collect::<BTreeSet<_>>());
        let (first, rest) = values.split_first()?;
        if values.iter().all(Value::is_array) {
            return Some(Self::List);
        }
        rest.iter().try_fold(keys(first)?, |shared, value| Some(&shared & &keys(value)?)).map(Self::Object)
    }
}

fn better(example: &Example) -> Vec<&str> {
    match example {
        Example::Instruction(example) => vec![&example.output],
        Example::Preference(pair) => vec![&pair.chosen],
        Example::Triplet(_) => Vec::new(),
    }
}

fn both(example: &Example) -> Vec<&str> {
    match example {
        Example::Preference(pair) => vec![&pair.chosen, &pair.rejected],
        Example::Instruction(_) | Example::Triplet(_) => better(example),
    }
}

/// White space and case tell no two answers apart.
pub(super) fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}
