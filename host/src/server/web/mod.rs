//! The pages of `tunesmith serve`: people look at what was generated, and decide.
//!
//! - HTML is made here and escaped by `maud`; scripts and styles are two files of ours and nothing else runs, which the
//!   `Content-Security-Policy` says to the browser, too. Without scripts every page works as plain forms.
//! - Who is signed in is looked up in the file of people for each request, by the token that they signed in with: who is removed
//!   is out at once.
//! - A form that changes something has the token of its session, comes from a page of this server, and names the version of the
//!   item that its person saw.
//! - A page that says no says that nothing was stored.

mod assets;
mod bulk;
mod csrf;
mod decide;
mod diff;
mod failure;
mod fields;
mod item;
mod items;
mod layout;
mod login;
mod people;
mod provenance;
mod query;
mod queue;
mod runs;
mod session;
mod text;
mod throttle;

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use failure::Failure;
use session::Sessions;
use throttle::Throttle;

use super::{Shared, refusal};

/// What pages keep in memory.
#[derive(Default)]
pub(super) struct Web {
    sessions: Sessions,
    throttle: Throttle,
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(|| async { Redirect::to("/review") }))
        .route("/login", get(login::form).post(login::sign_in))
        .route("/logout", post(login::sign_out))
        .route("/review", get(queue::show))
        .route("/review/items", get(items::show))
        .route("/review/items/{id}", get(item::show))
        .route("/review/items/{id}/decide", post(decide::decide))
        .route("/review/bulk", get(bulk::show).post(bulk::start))
        .route("/review/bulk/finish", post(bulk::finish))
        .route("/review/bulk/cancel", post(bulk::cancel))
        .route("/review/keys", get(layout::keys_page))
        .route("/people", get(people::show))
        .merge(runs::routes())
        .route("/assets/app.css", get(assets::css))
        .route("/assets/app.js", get(assets::js))
        .method_not_allowed_fallback(|| async { Failure::method_not_allowed() })
        .layer(map_response(layout::with_headers))
}

/// For browsers a page, for others a line of text.
pub(super) async fn no_such_path(headers: HeaderMap) -> Response {
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match accepts.contains("text/html") {
        true => layout::with_headers(Failure::no_such_page().into_response()).await,
        false => refusal::no_such_path(),
    }
}
