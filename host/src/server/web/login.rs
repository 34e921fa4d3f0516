//! Signing in with a token, and out.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use maud::html;
use serde::Deserialize;

use super::failure::Failure;
use super::fields::{Posted, PostedByAnybody};
use super::layout;
use super::session::{COOKIE_NAME, LIFETIME, key_of};
use crate::server::Shared;
use crate::server::connections::Peer;

/// Where somebody wanted to go before they were asked who they are.
#[derive(Deserialize)]
pub(super) struct Next {
    next: Option<String>,
}

/// To [`form`], and from there to `uri`.
pub(super) fn redirect(uri: &Uri) -> Response {
    let wanted = uri.path_and_query().map_or("/", |wanted| wanted.as_str());
    let next: String = form_urlencoded::byte_serialize(wanted.as_bytes()).collect();
    see_other(&format!("/login?next={next}"))
}

/// Goes on with a GET at `path`.
pub(super) fn see_other(path: &str) -> Response {
    let location = HeaderValue::try_from(path).unwrap_or(HeaderValue::from_static("/review"));
    (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
}

/// `next` where it is a path of this server, else the review.
fn local_path(next: Option<&str>) -> &str {
    let local = |next: &&str| {
        // Browsers read `//host` and `/\host` as another server, and drop tabs and line ends.
        let mut bytes = next.bytes();
        bytes.next() == Some(b'/')
            && !matches!(bytes.next(), Some(b'/' | b'\\'))
            && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
            && !["/login", "/logout"].contains(&next.split('?').next().unwrap_or_default())
    };
    next.filter(local).unwrap_or("/review")
}

pub(super) async fn form(Query(Next { next }): Query<Next>) -> Response {
    page(StatusCode::OK, local_path(next.as_deref()), None)
}

fn page(status: StatusCode, next: &str, wrong: Option<&str>) -> Response {
    let main = html! {
        h1 { "Sign in" }
        @if let Some(wrong) = wrong {
            p.alert role="alert" id="wrong" { (wrong) }
        }
        form.sign-in method="post" action="/login" {
            input type="hidden" name="next" value=(next);
            label for="token" { "Your token" }
            input id="token" name="token" type="password" required autocomplete="current-password" autofocus
                aria-describedby=(if wrong.is_some() { "wrong token-hint" } else { "token-hint" });
            p.hint id="token-hint" {
                "The one that " code { "tunesmith people add" } " printed for you, or of the file that "
                code { "tunesmith serve" } " named when it started."
            }
            button.primary type="submit" { "Sign in" }
        }
    };
    (status, layout::plain("Sign in", main)).into_response()
}

pub(super) async fn sign_in(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    PostedByAnybody(fields): PostedByAnybody,
) -> Result<Response, Failure> {
    let next = local_path(fields.get("next"));
    let throttle = &shared.web.throttle;
    if let Some(wait_s) = throttle.wait_s(peer.address, Instant::now()) {
        return Err(Failure::throttled(wait_s));
    }
    let token = fields.filled("token").unwrap_or_default();
    let Some((tenant, person)) = shared.tenants.person_of_token(token) else {
        throttle.failed(peer.address, Instant::now());
        tracing::warn!("a token from {} was nobody's", peer.address);
        let wrong = "Nobody has this token: check that all of it was copied, or ask an admin for a new one.";
        return Ok(page(StatusCode::UNAUTHORIZED, next, Some(wrong)));
    };
    let cookie =
        shared.web.sessions.start(&tenant.access.tenant_id, token).map_err(|error| Failure::no_random(&error))?;
    tracing::info!("`{}`: {} signed in from {}", tenant.access.tenant_id, person.name(), peer.address);
    Ok(with_cookie(see_other(next), &cookie, LIFETIME.as_secs(), peer))
}

pub(super) async fn sign_out(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    _: Posted,
) -> Response {
    if let Some(key) = key_of(&headers) {
        shared.web.sessions.end(&key);
    }
    with_cookie(see_other("/login"), "", 0, peer)
}

fn with_cookie(mut response: Response, value: &str, max_age_s: u64, peer: Peer) -> Response {
    let secure = if peer.tls { "; Secure" } else { "" };
    let cookie = format!("{COOKIE_NAME}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={max_age_s}{secure}");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_signing_in_nobody_is_sent_to_another_server() {
        for next in ["/review", "/review/items/3?state=pending&q=a%20b", "/runs", "/"] {
            assert_eq!(local_path(Some(next)), next);
        }
        let elsewhere = [
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https://evil.example",
            "javascript:alert(1)",
            "/\t/evil.example",
            "/\n/evil.example",
            "/a\r\nset-cookie: x=1",
            "review",
            "",
            "/login?next=/login",
            "/logout",
        ];
        for next in elsewhere {
            assert_eq!(local_path(Some(next)), "/review", "{next:?}");
        }
        assert_eq!(local_path(None), "/review");
    }
}
