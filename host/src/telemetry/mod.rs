//! Sources of annotated spans.
//!
//! A source hands the pipeline whole [`Span`](crate::plugins::bindings::types::Span)s, their annotations joined,
//! in batches in which all answers to one input sit together. The embedded store is the default source: a SQLite
//! file that [`import()`] fills from exports, and that can be imported into again at any time without changing
//! what is already there.

mod attributes;
mod documents;
mod error;
mod feedback;
mod flatten;
mod import;
mod inputs;
mod jsonl;
mod names;
mod otlp;
mod otlp_json;
mod otlp_proto;
mod prune;
mod read;
mod sources;
mod store;
mod time;
mod write;

pub use error::TelemetryError;
pub use feedback::{Annotated, Feedback, VERDICT_NAME, span_id as feedback_span_id};
pub use import::{ImportReport, Progress, Rejected, Upserts, import};
pub(crate) use jsonl::{Record, records};
pub use otlp::Encoding;
pub(crate) use otlp::received;
pub use prune::Pruned;
pub use read::{BatchLimits, Batches};
pub use sources::SourceState;
pub use store::{ProjectSummary, TelemetryStore};
pub use write::{SpanRow, Upsert, Writer};
