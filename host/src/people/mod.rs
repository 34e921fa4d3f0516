//! The people who review: by name, each with a role and a token, or by the account that a terminal belongs to.

mod file;
mod person;

pub use file::{People, PeopleError};
pub use person::{Forbidden, Person, Reviewer, Role};
