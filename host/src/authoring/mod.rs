//! For authors of plugins: what a component is, fixtures to run it over, the contract of its kind as checks, and
//! folders to start from.

mod compare;
mod conformance;
mod error;
mod fixture;
mod inspect;
mod samples;
mod scaffold;
mod subject;

pub use compare::{first_difference, read_expectations, write_expectations};
pub use conformance::{Outcome, conform};
pub use error::AuthoringError;
pub use fixture::{Call, Fixture, read as read_fixtures};
pub use inspect::{Finding, InspectError, Inspection, inspect};
pub use samples::fixtures as built_in_fixtures;
pub use scaffold::{Language, scaffold};
pub use subject::Subject;
