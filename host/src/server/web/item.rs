//! `GET /review/items/{id}`: one item, all that is known of it, and what can be decided.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::failure::Failure;
use super::query::{ItemsQuery, kind_of};
use super::session::SignedIn;
use super::{diff, layout, provenance, text};
use crate::approval::{ApprovalError, ApprovalStore, Batch, Content, Counts, Event, Item, Parent, State};
use crate::people::Role;

/// What is said of a decision that was not taken, and what its person had written.
pub(super) struct NotTaken {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// The edited texts, where there are any.
    pub(super) written: Option<Content>,
    pub(super) reason: String,
}

/// All that a page of an item shows, read at once.
pub(super) struct View {
    pub(super) item: Item,
    pub(super) batch: Option<Batch>,
    pub(super) parents: Vec<Parent>,
    pub(super) events: Vec<Event>,
    next: Option<i64>,
    previous: Option<i64>,
    counts: Counts,
    place: u64,
    of: u64,
}

impl View {
    fn read(store: &ApprovalStore, id: i64, query: &ItemsQuery) -> Result<Option<Self>, ApprovalError> {
        let Some(item) = store.item(id)? else { return Ok(None) };
        let (next, previous) = store.neighbours(&query.filter, id)?;
        let counts = store.counts(&query.filter)?;
        let of = match query.filter.state {
            Some(state) => super::queue::count(&counts, state),
            None => counts.total(),
        };
        Ok(Some(Self {
            batch: store.batch(item.batch)?,
            parents: store.parents(id)?,
            events: store.events(id)?,
            place: store.place(&query.filter, id)?,
            item,
            next,
            previous,
            counts,
            of,
        }))
    }
}

pub(super) async fn show(signed_in: SignedIn, Path(id): Path<String>, query: ItemsQuery) -> Result<Response, Failure> {
    let number = id.parse().map_err(|_| Failure::no_such_item(&id))?;
    page(&signed_in, number, &query, None).await
}

pub(super) async fn page(
    signed_in: &SignedIn,
    id: i64,
    query: &ItemsQuery,
    not_taken: Option<NotTaken>,
) -> Result<Response, Failure> {
    let wanted = query.clone();
    let view = signed_in.tenant.approvals.read(move |store| View::read(store, id, &wanted)).await?;
    let view = view.ok_or_else(|| Failure::no_such_item(&id.to_string()))?;
    let status = not_taken.as_ref().map_or(StatusCode::OK, |not_taken| not_taken.status);
    let main = main(signed_in, &view, query, not_taken.as_ref());
    Ok((status, layout::page(signed_in, "/review", &format!("Item {id}"), main)).into_response())
}

fn main(signed_in: &SignedIn, view: &View, query: &ItemsQuery, not_taken: Option<&NotTaken>) -> Markup {
    let item = &view.item;
    let own = query.from_start().text();
    let may_decide = signed_in.person.role() >= Role::Reviewer;
    html! {
        (moves(view, query, &own))
        h1 {
            "Item " (item.id) " "
            span class={ "state " (item.state.name()) } { (item.state.name()) }
        }
        @if let Some(not_taken) = not_taken {
            p.alert role="alert" id="not-taken" { (not_taken.message) }
        } @else {
            (layout::notice(signed_in, &own, item.state == State::Pending))
        }
        (content(item))
        @match (may_decide, item.state) {
            (false, _) => p.hint { "You are a viewer: a reviewer decides." },
            (true, State::Pending) => (decide(signed_in, view, &own, not_taken)),
            (true, _) => (decided(signed_in, view, &own, not_taken)),
        }
        (provenance::shown(view))
        (layout::keys_dialog())
    }
}

/// Where the item is among those of the query, and the way to the others.
fn moves(view: &View, query: &ItemsQuery, own: &str) -> Markup {
    let of = query.filter.state.map_or("", State::name);
    if query.sample {
        return html! {
            nav.moves aria-label="Items" { a href="/review/bulk" data-key="k" { "← This item is of a sample" } }
        };
    }
    // The item itself may have left them.
    let among = query.filter.state.is_none_or(|state| state == view.item.state);
    let decided = view.counts.total() - view.counts.pending;
    html! {
        nav.moves aria-label="Items" {
            @match view.previous {
                Some(id) => a href={ "/review/items/" (id) (own) } rel="prev" data-key="k" { "← Previous" },
                None => span.off { "← Previous" },
            }
            a href={ "/review/items" (own) } {
                @if among { (view.place) " of " (view.of) " " (of) } @else { (view.of) " " (of) }
            }
            @match view.next {
                Some(id) => a href={ "/review/items/" (id) (own) } rel="next" data-key="j" { "Next →" },
                None => span.off { "Next →" },
            }
        }
        p.progress {
            progress aria-label="Decided of these items" max=(view.counts.total().max(1)) value=(decided) {}
            " " (decided) " of " (view.counts.total()) " decided"
        }
    }
}

fn content(item: &Item) -> Markup {
    let original = item.original.as_ref().map(Content::fields);
    html! {
        section.content aria-label="Content" {
            @for (index, (name, now)) in item.content.fields().into_iter().enumerate() {
                h2 id={ "field-" (name) } { (name) }
                @match original.as_ref().and_then(|fields| fields.get(index)).map(|(_, before)| *before) {
                    Some(before) if before != now => {
                        div.text dir="auto" { (text::shown(now)) }
                        details.changed open {
                            summary { "What was changed in `" (name) "`" }
                            div.text.diff dir="auto" { (diff::shown(before, now)) }
                        }
                    }
                    _ => div.text dir="auto" { (text::shown(now)) },
                }
            }
        }
    }
}

/// What every form on the item sends: who, where, and what they saw.
fn seen(signed_in: &SignedIn, item: &Item) -> Markup {
    html! {
        (signed_in.csrf.field())
        input type="hidden" name="version" value=(item.version);
        input type="hidden" name="content_sha256" value=(item.content_sha256);
    }
}

fn decide(signed_in: &SignedIn, view: &View, own: &str, not_taken: Option<&NotTaken>) -> Markup {
    let item = &view.item;
    let action = format!("/review/items/{}/decide{own}", item.id);
    let reason = not_taken.map_or("", |not_taken| not_taken.reason.as_str());
    let written = not_taken.and_then(|not_taken| not_taken.written.as_ref());
    let texts = written.unwrap_or(&item.content);
    html! {
        section.decide aria-label="Decision" {
            form method="post" action=(action) {
                (seen(signed_in, item))
                button.primary type="submit" name="action" value="approve" data-key="a" { "Approve " kbd { "a" } }
            }
            form.reject method="post" action=(action) {
                (seen(signed_in, item))
                label for="reason" { "Reason, if you reject " kbd { "r" } }
                input id="reason" name="reason" data-key="r" value=[written.is_none().then_some(reason)]
                    autocomplete="off" maxlength="2000";
                button.danger type="submit" name="action" value="reject" { "Reject" }
            }
        }
        details.edit open[written.is_some()] {
            summary { "Edit " kbd { "e" } }
            form id="edit" method="post" action=(action) {
                (seen(signed_in, item))
                @for (index, (name, text)) in texts.fields().into_iter().enumerate() {
                    label for={ "edit-" (name) } { (name) }
                    // A browser drops the first line end of an area.
                    textarea id={ "edit-" (name) } name=(name) dir="auto" data-key=[(index == 0).then_some("e")]
                        aria-describedby=[written.map(|_| "not-taken")] rows=(rows(text)) { "\n" (text) }
                }
                label for="edit-reason" { "Why (may be empty)" }
                input id="edit-reason" name="reason" autocomplete="off" maxlength="2000"
                    value=[written.is_some().then_some(reason)];
                button.primary type="submit" name="action" value="edit" { "Save and approve " kbd { "Ctrl+Enter" } }
            }
        }
    }
}

/// Lines of an area: enough for most texts, and no more than a screen.
fn rows(text: &str) -> usize {
    text.lines().map(|line| line.len() / 60 + 1).sum::<usize>().clamp(2, 16)
}

fn decided(signed_in: &SignedIn, view: &View, own: &str, not_taken: Option<&NotTaken>) -> Markup {
    let item = &view.item;
    html! {
        section.decide aria-label="Decision" {
            p {
                (item.state.name()) " by " (item.decided_by.as_deref().unwrap_or("nobody"))
                @if let Some(at) = item.decided_at_ms { ", " (text::time(at)) }
            }
            form method="post" action={ "/review/items/" (item.id) "/decide" (own) } {
                (seen(signed_in, item))
                button type="submit" name="action" value="undo" data-key="u" { "Undo " kbd { "u" } }
            }
        }
        @if let Some(written) = not_taken.and_then(|not_taken| not_taken.written.as_ref()) {
            section aria-label="What you wrote" {
                h2 { "What you wrote, which is not stored" }
                @for (name, text) in written.fields() {
                    h3 { (name) }
                    div.text dir="auto" { (text::shown(text)) }
                }
            }
        }
    }
}

/// The kind of an item, for its page.
pub(super) fn kind(item: &Item) -> &'static str {
    kind_of(&item.content)
}
