//! `tunesmith review list`

use serde::Serialize;

use super::describe::row;
use super::{Named, named};
use crate::approval::{ApprovalStore, Counts, Cursor, Filter};
use crate::cli::ListArgs;
use crate::commands::Answer;
use crate::error::HostError;
use crate::report;
use crate::review::Handle;

#[derive(Serialize)]
struct Listed<'a> {
    items: Vec<Named<'a>>,
    /// For `--after`; none where these are all.
    next: Option<Cursor>,
    /// Of all items, whatever their state, that the other flags let through.
    counts: Counts,
}

pub(super) fn run(store: &ApprovalStore, args: &ListArgs) -> Result<Answer, HostError> {
    let filter = Filter {
        state: args.state,
        batch: args.batch,
        agent_type: args.agent_type.clone(),
        kind: args.kind.map(Into::into),
        text: args.text.clone(),
        ..Filter::default()
    };
    let page = store.items(&filter, args.after.map(Cursor), args.limit as usize)?;
    let counts = store.counts(&filter)?;
    let mut table = report::table();
    table.set_header(["handle", "state", "agent", "batch", "input", "by"]);
    for item in &page.items {
        table.add_row([
            Handle::of(item).to_string(),
            item.state.name().to_owned(),
            row(&item.agent_type),
            item.batch.to_string(),
            row(item.content.input()),
            item.decided_by.as_deref().map(row).unwrap_or_default(),
        ]);
    }
    let Counts { pending, approved, edited, rejected, expired } = counts;
    let mut text = match page.items.is_empty() {
        true => "no such item".to_owned(),
        false => table.to_string(),
    };
    text +=
        &format!("\n\n{pending} pending, {approved} approved, {edited} edited, {rejected} rejected, {expired} expired");
    if let Some(Cursor(next)) = page.next {
        text += &format!("; there are more: `--after {next}`");
    }
    Ok(Answer::new(text, &Listed { items: page.items.iter().map(named).collect(), next: page.next, counts }))
}
