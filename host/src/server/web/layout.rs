//! What every page has.

use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::assets;
use super::session::SignedIn;
use crate::people::Role;

/// Nothing runs or is loaded but our own two files.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The parts of the site, for the navigation: path, name, and who may see it.
const SECTIONS: [(&str, &str, Role); 4] = [
    ("/review", "Review", Role::Viewer),
    ("/runs", "Runs", Role::Viewer),
    ("/adapters", "Adapters", Role::Viewer),
    ("/people", "People", Role::Admin),
];

/// The keys of the review, and what they do.
const KEYS: [(&str, &str); 9] = [
    ("a", "approve"),
    ("r", "reject: goes to the reason, Enter rejects"),
    ("e", "edit: goes to the first text"),
    ("Ctrl+Enter", "save the edit"),
    ("Esc", "leave a field"),
    ("u", "undo the last decision"),
    ("j", "next item"),
    ("k", "previous item"),
    ("?", "these keys"),
];

/// A page for somebody who is signed in; `section` is the path of its part of the site: `/review`.
pub(super) fn page(signed_in: &SignedIn, section: &str, title: &str, main: Markup) -> Response {
    let header = html! {
        nav aria-label="Parts" {
            ul {
                @for (path, name, needed) in SECTIONS {
                    @if signed_in.person.role() >= needed {
                        li { a href=(path) aria-current=[(path == section).then_some("page")] { (name) } }
                    }
                }
            }
        }
        form.account method="post" action="/logout" {
            (signed_in.csrf.field())
            span { (signed_in.person.name()) " (" (signed_in.person.role().name()) ")" }
            button type="submit" { "Sign out" }
        }
    };
    document(title, header, main).into_response()
}

/// A page for anybody.
pub(super) fn plain(title: &str, main: Markup) -> Response {
    document(title, html! {}, main).into_response()
}

struct Document(String);

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "text/html; charset=utf-8")], self.0).into_response()
    }
}

fn document(title: &str, header: Markup, main: Markup) -> Document {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " - Tunesmith" }
                link rel="stylesheet" href=(assets::css_path());
                link rel="icon" href="data:,";
                script src=(assets::js_path()) defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.site {
                    a.name href="/" { "Tunesmith" }
                    (header)
                }
                main id="main" tabindex="-1" { (main) }
            }
        }
    };
    Document(markup.into_string())
}

/// What the last request did, and the button that takes a decision back.
pub(super) fn notice(signed_in: &SignedIn, query: &str, undo_key: bool) -> Markup {
    html! {
        @if signed_in.flash.is_some() || signed_in.last.is_some() {
            div.notice {
                @if let Some(flash) = &signed_in.flash {
                    p role="status" { (flash) }
                }
                @if let Some(last) = &signed_in.last {
                    form method="post" action={ "/review/items/" (last.seen.item) "/decide" (query) } {
                        (signed_in.csrf.field())
                        input type="hidden" name="version" value=(last.seen.version);
                        input type="hidden" name="content_sha256" value=(last.seen.content_sha256);
                        button type="submit" name="action" value="undo" data-key=[undo_key.then_some("u")] {
                            "Undo: item " (last.seen.item) " " (last.did.name())
                        }
                    }
                }
            }
        }
    }
}

/// The keys, as a list.
fn keys() -> Markup {
    html! {
        dl.keys {
            @for (key, what) in KEYS {
                div { dt { kbd { (key) } } dd { (what) } }
            }
        }
    }
}

/// What `?` opens; without scripts its link leads to a page of the same.
pub(super) fn keys_dialog() -> Markup {
    html! {
        p.hint { a href="/review/keys" data-dialog="keys" data-key="?" { "Keys: ?" } }
        dialog id="keys" aria-labelledby="keys-title" {
            h2 id="keys-title" { "Keys" }
            (keys())
            form method="dialog" { button { "Close" } }
        }
    }
}

pub(super) async fn keys_page(signed_in: SignedIn) -> Response {
    let main = html! {
        h1 { "Keys of the review" }
        (keys())
        p { a href="/review" { "Back to the review" } }
    };
    page(&signed_in, "/review", "Keys", main)
}

/// What browsers are told of every page.
pub(super) async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value| headers.insert(name, HeaderValue::from_static(value));
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    // With `no-referrer` browsers send `Origin: null` with our own forms, and it could not be told from that of other sites.
    set(REFERRER_POLICY, "same-origin");
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
