//! What was generated, and what people said of it.
//!
//! - Nothing synthetic trains unless a named person approved that very text: [`Approved`] is made by [`ApprovalStore::approved`]
//!   alone, from the log of decisions, and the training set takes nothing else that was generated.
//! - A decision is an event: who, when, by what way, what, why, and the digests of the text before and after. Events are never
//!   changed and never removed; to take one back is another event.
//! - A decision names the version that its person saw. Where somebody was faster, it is refused and says who.
//! - What is acknowledged is on the disk.

mod approved;
mod content;
mod decision;
mod error;
mod item;
mod store;

pub use approved::{Approval, Approved};
pub use content::{Content, kind_name};
pub use decision::{Action, Channel, Decision, Event, Refused, Seen, State, Verdict};
pub use error::ApprovalError;
pub use item::{Batch, BatchSummary, Candidate, Counts, Item, Near, NearTo, NewBatch, Parent};
pub use store::{ApprovalStore, Cursor, Exported, Filter, Page, Restored, store_beside};
