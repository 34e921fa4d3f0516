//! `GET /review`: what waits, by batch.

use std::sync::Arc;

use axum::extract::State as Shares;
use axum::response::Response;
use maud::{Markup, html};

use super::failure::Failure;
use super::layout;
use super::query::ItemsQuery;
use super::session::SignedIn;
use super::text;
use crate::approval::{BatchSummary, Counts, Filter, State};
use crate::server::Shared;

pub(super) async fn show(Shares(_): Shares<Arc<Shared>>, signed_in: SignedIn) -> Result<Response, Failure> {
    let batches = signed_in.tenant.approvals.read(|store| store.batches()).await?;
    let mut total = Counts::default();
    for BatchSummary { counts, .. } in &batches {
        total.pending += counts.pending;
        total.approved += counts.approved;
        total.edited += counts.edited;
        total.rejected += counts.rejected;
        total.expired += counts.expired;
    }
    let pending = ItemsQuery::default().in_state(Some(State::Pending)).text();
    let main = html! {
        h1 { "Review" }
        (layout::notice(&signed_in, "", true))
        @if batches.is_empty() {
            p { "Nothing was generated for review yet: a run with a generator puts what it makes here." }
        } @else {
            p {
                strong { (total.pending) } " of " (total.total()) " items wait for a decision. "
                @if total.pending > 0 {
                    a.primary href={ "/review/items" (pending) } data-key="j" { "See them" }
                }
            }
            (progress("All items", &total))
            h2 { "Batches" }
            ul.cards {
                @for batch in &batches { li { (card(batch)) } }
            }
        }
        (layout::keys_dialog())
    };
    Ok(layout::page(&signed_in, "/review", "Review", main))
}

fn card(BatchSummary { batch, counts }: &BatchSummary) -> Markup {
    let filter = Filter { batch: Some(batch.id), ..Filter::default() };
    let query = ItemsQuery { filter, ..ItemsQuery::default() };
    let model = batch.model.as_deref().map(|model| format!(", {model}")).unwrap_or_default();
    html! {
        h3 {
            a href={ "/review/items" (query.in_state(Some(State::Pending)).text()) } {
                "Batch " (batch.id) ": " (batch.agent_type)
            }
        }
        p {
            "by " (batch.generator) (model) ", project " (batch.project) ", " (text::time(batch.created_at_ms))
            @if let Some(expires) = batch.expires_at_ms { ", expires " (text::time(expires)) }
        }
        (progress(&format!("Batch {}", batch.id), counts))
        ul.counts {
            @for state in State::ALL {
                li { a href={ "/review/items" (query.in_state(Some(state)).text()) } { (count(counts, state)) " " (state.name()) } }
            }
        }
    }
}

/// How many are decided, as a bar with a text.
pub(super) fn progress(of: &str, counts: &Counts) -> Markup {
    let (total, decided) = (counts.total(), counts.total() - counts.pending);
    html! {
        p.progress {
            progress aria-label={ (of) " decided" } max=(total.max(1)) value=(decided) {}
            " " (decided) " of " (total) " decided"
        }
    }
}

pub(super) fn count(counts: &Counts, state: State) -> u64 {
    match state {
        State::Pending => counts.pending,
        State::Approved => counts.approved,
        State::Edited => counts.edited,
        State::Rejected => counts.rejected,
        State::Expired => counts.expired,
    }
}
