//! `tunesmith review edit`

use std::path::PathBuf;

use super::decide::taken;
use crate::approval::{ApprovalError, ApprovalStore, Channel, Decision, Item, Refused, Seen, Verdict};
use crate::cli::EditArgs;
use crate::commands::Answer;
use crate::error::HostError;
use crate::people::Person;
use crate::review::{self, Handle, ReviewError};

pub(super) fn run(store: &mut ApprovalStore, args: EditArgs) -> Result<Answer, HostError> {
    let handle: Handle = args.item.parse()?;
    let item = store.item(handle.item)?;
    let seen = handle.seen(item.as_ref())?;
    let item = item.ok_or(Refused::NoSuchItem { item: handle.item }).map_err(ApprovalError::from)?;
    let edited = match args.from {
        None => in_editor(store, &item, seen, args.reason)?,
        Some(path) => {
            let text =
                std::fs::read_to_string(&path).map_err(|source| ReviewError::Read { path: path.clone(), source })?;
            let content = review::parse(&text).map_err(|what| ReviewError::Form { path, what })?;
            let content = content.ok_or(ReviewError::NothingWritten { item: item.id })?;
            let verdict = Verdict { seen, decision: Decision::Edit(content), reason: args.reason };
            store.decide(&Person::of_terminal().reviewer()?, Channel::Terminal, &verdict)?
        }
    };
    Ok(taken(&edited))
}

/// What the user's editor makes of an item, decided. What was written is not lost where it is refused.
pub(super) fn in_editor(
    store: &mut ApprovalStore,
    item: &Item,
    seen: Seen,
    reason: Option<String>,
) -> Result<Item, HostError> {
    let reviewer = Person::of_terminal().reviewer()?;
    let handle = Handle::of(item).to_string();
    let file = review::edit(&review::write(&handle, &item.content), &format!("tunesmith-{handle}-"))?;
    let path = file.path().to_owned();
    let text = std::fs::read_to_string(&path).map_err(|source| ReviewError::Read { path: path.clone(), source })?;
    let kept = || -> PathBuf {
        let _ = file.keep(); // it fails on no system that we have
        path
    };
    let content = match review::parse(&text) {
        Ok(Some(content)) => content,
        Ok(None) => return Err(ReviewError::NothingWritten { item: item.id }.into()),
        Err(what) => return Err(ReviewError::Form { path: kept(), what }.into()),
    };
    let unchanged = content == item.content;
    let verdict = Verdict { seen, decision: Decision::Edit(content), reason };
    store.decide(&reviewer, Channel::Terminal, &verdict).map_err(|error| match error {
        ApprovalError::Refused(refused) if !unchanged => ReviewError::RefusedEdit { refused, path: kept() }.into(),
        error => {
            if !unchanged {
                tracing::warn!("what you wrote is in `{}`", kept().display());
            }
            error.into()
        }
    })
}
