//! E0451 E0624 E0277
// The approval store alone makes what is approved.

use tunesmith::approval::{Approval, Approved};
use tunesmith::plugins::bindings::types::Example;

pub fn forge(value: Example, approval: Approval) -> Approved<Example> {
    Approved { value, approval }
}

pub fn forge_by_constructor(example: Example, approval: Approval) -> Approved<Example> {
    Approved::new(example, approval)
}

pub fn take_it_for_approved(example: Example) -> Approved<Example> {
    example.into()
}
