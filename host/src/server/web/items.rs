//! `GET /review/items`: a page of items.

use axum::response::Response;
use maud::{Markup, html};

use super::bulk;
use super::failure::Failure;
use super::layout;
use super::query::{ItemsQuery, KINDS, kind_of};
use super::queue::{count, progress};
use super::session::SignedIn;
use super::text;
use crate::approval::{Counts, Filter, Item, Page, State};

const PER_PAGE: usize = 50;
/// Of a text in the list.
const MOST_CHARS: usize = 160;

pub(super) async fn show(signed_in: SignedIn, query: ItemsQuery) -> Result<Response, Failure> {
    let wanted = query.clone();
    let (page, counts, agent_types) = signed_in
        .tenant
        .approvals
        .read(move |store| {
            let page = store.items(&wanted.filter, wanted.after, PER_PAGE)?;
            Ok((page, store.counts(&wanted.filter)?, store.agent_types()?))
        })
        .await?;
    let title = match query.filter.batch {
        Some(batch) => format!("Items of batch {batch}"),
        None => "Items".to_owned(),
    };
    let main = html! {
        h1 { (title) }
        (layout::notice(&signed_in, &query.text(), true))
        (filters(&query, &agent_types))
        (tabs(&query, &counts))
        (progress(&title, &counts))
        (list(&query, &page))
        (bulk::start_form(&signed_in, &query, counts.pending))
        (layout::keys_dialog())
    };
    Ok(layout::page(&signed_in, "/review", &title, main))
}

fn filters(query: &ItemsQuery, agent_types: &[String]) -> Markup {
    let Filter { state, batch, agent_type, kind, text, .. } = &query.filter;
    html! {
        form.filters method="get" action="/review/items" role="search" aria-label="Items" {
            @if let Some(state) = state { input type="hidden" name="state" value=(state.name()); }
            div {
                label for="agent_type" { "Agent" }
                select id="agent_type" name="agent_type" {
                    option value="" { "any" }
                    @for each in agent_types {
                        option value=(each) selected[agent_type.as_ref() == Some(each)] { (each) }
                    }
                }
            }
            div {
                label for="kind" { "Kind" }
                select id="kind" name="kind" {
                    option value="" { "any" }
                    @for (name, each) in KINDS {
                        option value=(name) selected[*kind == Some(each)] { (name) }
                    }
                }
            }
            div {
                label for="batch" { "Batch" }
                input id="batch" name="batch" type="number" min="1" inputmode="numeric" value=[batch];
            }
            div {
                label for="q" { "With the text" }
                input id="q" name="q" type="search" value=[text.as_ref()];
            }
            button type="submit" { "Show" }
        }
    }
}

fn tabs(query: &ItemsQuery, counts: &Counts) -> Markup {
    let tab = |state: Option<State>, name: &str, count: u64| {
        let here = query.filter.state == state;
        html! {
            li {
                a href={ "/review/items" (query.in_state(state).text()) } aria-current=[here.then_some("page")] {
                    (name) " " span.count { (count) }
                }
            }
        }
    };
    html! {
        nav.tabs aria-label="States" {
            ul {
                @for state in State::ALL { (tab(Some(state), state.name(), count(counts, state))) }
                (tab(None, "all", counts.total()))
            }
        }
    }
}

fn list(query: &ItemsQuery, page: &Page<Item>) -> Markup {
    let own = query.from_start().text();
    html! {
        @if page.items.is_empty() {
            p { "There are no such items." }
        } @else {
            ol.items {
                @for (index, item) in page.items.iter().enumerate() {
                    li { (row(item, &own, index == 0)) }
                }
            }
        }
        nav.pages aria-label="Pages" {
            @if query.after.is_some() { a href={ "/review/items" (own) } { "First page" } }
            @if page.next.is_some() {
                a href={ "/review/items" (ItemsQuery { after: page.next, ..query.clone() }.text()) } rel="next" { "Next page" }
            }
        }
    }
}

fn row(item: &Item, query: &str, first: bool) -> Markup {
    let answer = item.content.fields().last().map_or("", |(_, text)| *text);
    html! {
        a href={ "/review/items/" (item.id) (query) } data-key=[first.then_some("j")] {
            span.number { "Item " (item.id) }
            " " span class={ "state " (item.state.name()) } { (item.state.name()) }
            " " span.kind { (kind_of(&item.content)) }
            span.start dir="auto" { (text::shown(&text::start_of(item.content.input(), MOST_CHARS))) }
            span.start.answer dir="auto" { (text::shown(&text::start_of(answer, MOST_CHARS))) }
        }
    }
}
