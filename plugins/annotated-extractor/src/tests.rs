//! A test for every rule, named for it.

mod answers;
mod configuration;
mod coverage;
mod matching;
mod search;
mod verdicts;
