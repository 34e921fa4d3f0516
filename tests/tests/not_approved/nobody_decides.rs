//! A decision has a person: no name that somebody made up, and no role that nobody gave.

use tunesmith::approval::{ApprovalStore, Channel, Verdict};
use tunesmith::people::{Person, Reviewer, Role};

fn decide_as_nobody(store: &mut ApprovalStore, verdict: &Verdict) {
    store.decide("an automaton", Channel::Api, verdict).unwrap();
}

fn make_up_a_reviewer() -> Reviewer {
    Reviewer { name: "an automaton".to_owned() }
}

fn make_up_a_person() -> Person {
    Person::new("an automaton".to_owned(), Role::Admin)
}

fn main() {}
