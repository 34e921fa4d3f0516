//! `tunesmith review show`

use serde::Serialize;

use super::{Named, describe, named};
use crate::approval::{ApprovalError, ApprovalStore, Batch, Event, Parent, Refused};
use crate::commands::Answer;
use crate::error::HostError;
use crate::review::Handle;

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    item: Named<'a>,
    from: Option<Batch>,
    parents: Vec<Parent>,
    events: Vec<Event>,
}

pub(super) fn run(store: &ApprovalStore, handle: &str) -> Result<Answer, HostError> {
    let handle: Handle = handle.parse()?;
    let no_such_item = || ApprovalError::from(Refused::NoSuchItem { item: handle.item });
    let item = store.item(handle.item)?.ok_or_else(no_such_item)?;
    let shown = Shown {
        item: named(&item),
        from: store.batch(item.batch)?,
        parents: store.parents(item.id)?,
        events: store.events(item.id)?,
    };
    Ok(Answer::new(describe::item(store, &item)?, &shown))
}
