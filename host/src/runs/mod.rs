//! Runs that wait for people, and what became of them: a file for each beside the approval store, written whole, so that a run goes
//! on after whatever ended its process.

mod error;
mod record;
mod store;

pub use error::RunsError;
pub use record::{RunRecord, RunState, WaitsFor};
pub use store::{HeldRun, RunStore, runs_beside};
