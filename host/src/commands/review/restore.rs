//! `tunesmith review restore`

use std::path::Path;

use serde::Serialize;

use crate::approval::{ApprovalStore, Restored};
use crate::commands::Answer;
use crate::error::HostError;

#[derive(Serialize)]
struct Made<'a> {
    approvals: &'a Path,
    #[serde(flatten)]
    restored: Restored,
}

pub(super) fn run(path: &Path, journal: &Path) -> Result<Answer, HostError> {
    let (_, restored) = ApprovalStore::restore(path, journal)?;
    let Restored { batches, items, events, unfinished } = restored;
    let mut text = format!("{batches} batches, {items} items, {events} events");
    if unfinished > 0 {
        text += &format!("; {unfinished} lines of the journal were unfinished, and are left out");
    }
    text += &format!("\n\napproval store: {}", path.display());
    Ok(Answer::new(text, &Made { approvals: path, restored }))
}
