//! Where an item came from, what it resembles, and what happened to it.

use maud::{Markup, html};

use super::item::{View, kind};
use super::text;
use crate::approval::NearTo;

pub(super) fn shown(view: &View) -> Markup {
    let item = &view.item;
    html! {
        @if !item.near.is_empty() {
            section aria-labelledby="near" {
                h2 id="near" { "Resembles" }
                ul {
                    @for near in &item.near {
                        li {
                            (format!("{:.0} % ", near.similarity * 100.0))
                            @match near.to {
                                NearTo::Training => "a training example: ",
                                NearTo::Batch => "an item of its batch: ",
                            }
                            q dir="auto" { (text::shown(&near.text)) }
                        }
                    }
                }
            }
        }
        @if !view.parents.is_empty() {
            section aria-labelledby="parents" {
                h2 id="parents" { "Real examples that the generator was shown" }
                @for (index, parent) in view.parents.iter().enumerate() {
                    details {
                        summary { (index + 1) ": " (text::shown(&text::start_of(parent.content.input(), 100))) }
                        p.hint { "trace " code { (parent.trace_id) } ", spans " code { (parent.span_ids.join(", ")) } }
                        @for (name, text) in parent.content.fields() {
                            h3 { (name) }
                            div.text dir="auto" { (text::shown(text)) }
                        }
                    }
                }
            }
        }
        section aria-labelledby="origin" {
            h2 id="origin" { "Origin" }
            dl {
                (row("Kind", html! { (kind(item)) }))
                (row("Batch", html! { (item.batch) " for " (item.agent_type) ", project " (item.project) }))
                @if let Some(batch) = &view.batch {
                    (row("Generator", html! { (batch.generator) }))
                    @if let Some(model) = &batch.model { (row("Model", html! { (model) })) }
                    @if let Some(run) = &batch.run { (row("Run", html! { (run) })) }
                    (row("Generated", text::time(batch.created_at_ms)))
                    @if let Some(expires) = batch.expires_at_ms { (row("Expires", text::time(expires))) }
                }
                (row("Seed", html! { (item.seed) }))
                (row("Prompt", html! { "SHA-256 " code { (item.prompt_sha256) } }))
                (row("Content", html! { "version " (item.version) ", SHA-256 " code { (item.content_sha256) } }))
            }
        }
        section aria-labelledby="history" {
            h2 id="history" { "History" }
            ol {
                @for event in &view.events {
                    li {
                        (text::time(event.at_ms)) " " strong { (event.action.name()) } " by " (event.who)
                        " (" (event.channel.name()) ")"
                        @if let Some(reason) = &event.reason { ": " q dir="auto" { (text::shown(reason)) } }
                    }
                }
            }
        }
    }
}

fn row(name: &str, value: Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}
