//! Forms come from pages of this server, for the person who is signed in: a token of the session in each, and what the browser
//! says of where a request comes from.

use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};
use maud::{Markup, html};
use subtle::ConstantTimeEq;

/// The token that every form of a session has.
#[derive(Clone)]
pub(super) struct Csrf(String);

/// No log has it.
impl fmt::Debug for Csrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Csrf")
    }
}

impl Csrf {
    pub(super) fn new(token: String) -> Self {
        Self(token)
    }

    /// The hidden field of a form.
    pub(super) fn field(&self) -> Markup {
        html! { input type="hidden" name="csrf" value=(self.0); }
    }

    /// Whether a form has it. How long the answer takes does not depend on what is given.
    pub(super) fn matches(&self, given: Option<&str>) -> bool {
        given.is_some_and(|given| self.0.as_bytes().ct_eq(given.as_bytes()).into())
    }
}

/// Whether a request that changes something comes from a page of this server, as far as its browser says where it comes from. What
/// is no browser says nothing, and has no cookie that somebody else could make it send.
pub(super) fn is_of_this_server(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = text("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    match (text(ORIGIN.as_str()), text(HOST.as_str())) {
        (None, _) => true,
        (Some(origin), Some(host)) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        }
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_needs_the_token_of_its_session() {
        let csrf = Csrf::new("secret".to_owned());
        assert!(csrf.matches(Some("secret")));
        for given in [None, Some(""), Some("secre"), Some("secret "), Some("SECRET")] {
            assert!(!csrf.matches(given), "{given:?}");
        }
        assert_eq!(format!("{csrf:?}"), "Csrf");
    }

    #[test]
    fn what_a_page_of_another_site_sends_is_known_by_its_headers() {
        let ok = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "127.0.0.1:4318".parse().unwrap());
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            is_of_this_server(&headers)
        };
        assert!(ok(&[]));
        assert!(ok(&[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:4318")]));
        assert!(ok(&[("origin", "http://127.0.0.1:4318")]));
        for site in ["cross-site", "same-site", ""] {
            assert!(!ok(&[("sec-fetch-site", site)]), "{site}");
        }
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", "http://127.0.0.1:43180", ""] {
            assert!(!ok(&[("origin", origin)]), "{origin}");
        }
    }
}
