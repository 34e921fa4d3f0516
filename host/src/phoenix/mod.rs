//! Arize Phoenix as a source of telemetry, over its REST API.
//!
//! [`sync()`] reads what is new of a project into the embedded store, from where runs read it: a run never waits for a
//! server between batches, and one that breaks off needs none to go on. [`mark_used()`] tells the server what was trained on.

mod api;
mod client;
mod error;
mod mark;
mod review;
mod sync;

pub use api::Phoenix;
pub use client::Server;
pub use error::PhoenixError;
pub use mark::{MarkReport, USED_IN_TRAINING, Used, mark_used};
pub use review::{HumanVerdict, PushReport, ReviewSpan, poll, push};
pub use sync::{Range, SyncProgress, SyncReport, sync};
