//! E0308 E0451 E0624
// A decision has a person: no name that somebody made up, and no role that nobody gave.

use tunesmith::approval::{ApprovalStore, Channel, Verdict};
use tunesmith::people::{Person, Reviewer, Role};

pub fn decide_as_nobody(store: &mut ApprovalStore, verdict: &Verdict) {
    let _ = store.decide("an automaton", Channel::Api, verdict);
}

pub fn make_up_a_reviewer(name: String) -> Reviewer {
    Reviewer { name }
}

pub fn make_up_a_person(name: String) -> Person {
    Person::new(name, Role::Admin)
}
