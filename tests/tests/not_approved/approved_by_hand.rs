//! The approval store alone makes what is approved.

use tunesmith::approval::{Approval, Approved};
use tunesmith::plugins::bindings::types::Example;

fn forge(example: Example, approval: Approval) -> Approved<Example> {
    Approved { value: example, approval }
}

fn forge_by_constructor(example: Example, approval: Approval) -> Approved<Example> {
    Approved::new(example, approval)
}

fn read_from_a_file(text: &str) -> Approved<Example> {
    serde_json::from_str(text).unwrap()
}

fn main() {}
