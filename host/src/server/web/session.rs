//! Who is signed in: a random cookie in the browser, its digest here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::header::COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::bulk::Bulk;
use super::csrf::Csrf;
use super::failure::Failure;
use super::login;
use crate::approval::{Action, Seen};
use crate::people::{People, Person, Role};
use crate::server::Shared;
use crate::server::access::Tenant;

pub(super) const COOKIE_NAME: &str = "tunesmith_session";
/// From signing in on, whatever is done meanwhile: a working day.
pub(super) const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Some hundred bytes each; of more the oldest end.
const MOST: usize = 10_000;

/// SHA-256 of a cookie: who reads it can't send the cookie.
pub(super) type Key = [u8; 32];

/// All that are signed in.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Key, Session>>);

/// One browser.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) tenant_id: String,
    /// Of the token that was signed in with, in hexadecimal: where the file of people has it no more, the session is over.
    pub(super) token_sha256: String,
    csrf: Csrf,
    since: Instant,
    flash: Option<String>,
    last: Option<Last>,
    bulk: Option<Arc<Bulk>>,
}

/// The decision that undo takes back.
#[derive(Debug, Clone)]
pub(super) struct Last {
    /// The item after it.
    pub(super) seen: Seen,
    pub(super) did: Action,
}

/// A person who is signed in; as an extractor it sends everybody else to sign in.
#[derive(Clone)]
pub(super) struct SignedIn {
    /// Whose data they may see.
    pub(super) tenant: Arc<Tenant>,
    /// As the file of people has them now.
    pub(super) person: Person,
    /// Every form of a page has it: see [`Csrf::field`].
    pub(super) csrf: Csrf,
    /// What the request before has to say.
    pub(super) flash: Option<String>,
    pub(super) last: Option<Last>,
    pub(super) bulk: Option<Arc<Bulk>>,
    pub(super) key: Key,
}

impl SignedIn {
    /// Whether they may what takes `needed`.
    pub(super) fn check(&self, needed: Role) -> Result<(), Failure> {
        Ok(self.person.check(needed)?)
    }

    /// Whether they are signed in still, and known: for answers that go on.
    pub(super) fn is_still(&self, shared: &Shared) -> bool {
        let session = shared.web.sessions.get(&self.key);
        let people = People::open(&self.tenant.access.people).ok();
        session.zip(people).is_some_and(|(session, people)| people.of_token_sha256(&session.token_sha256).is_some())
    }
}

impl Sessions {
    /// Signs somebody in, and returns the cookie's value.
    pub(super) fn start(&self, tenant_id: &str, token: &str) -> Result<String, getrandom::Error> {
        let cookie = random()?;
        let session = Session {
            tenant_id: tenant_id.to_owned(),
            token_sha256: Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect(),
            csrf: Csrf::new(random()?),
            since: Instant::now(),
            flash: None,
            last: None,
            bulk: None,
        };
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.lives(Instant::now()));
        if sessions.len() >= MOST
            && let Some(oldest) = sessions.iter().min_by_key(|(_, session)| session.since).map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(key(&cookie), session);
        Ok(cookie)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Session> {
        self.lock().get(key).filter(|session| session.lives(Instant::now())).cloned()
    }

    pub(super) fn end(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// What the next page says first.
    pub(super) fn flash(&self, key: &Key, message: String) {
        self.change(key, |session| session.flash = Some(message));
    }

    pub(super) fn set_last(&self, key: &Key, last: Option<Last>) {
        self.change(key, |session| session.last = last);
    }

    pub(super) fn set_bulk(&self, key: &Key, bulk: Option<Arc<Bulk>>) {
        self.change(key, |session| session.bulk = bulk);
    }

    fn change<T>(&self, key: &Key, change: impl FnOnce(&mut Session) -> T) -> Option<T> {
        self.lock().get_mut(key).map(change)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn lives(&self, now: Instant) -> bool {
        now.duration_since(self.since) < LIFETIME
    }
}

/// The key of the session whose cookie a request has.
pub(super) fn key_of(headers: &HeaderMap) -> Option<Key> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let value = cookies.flat_map(|line| line.split(';')).find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == COOKIE_NAME).then_some(value)
    })?;
    Some(key(value))
}

fn key(cookie: &str) -> Key {
    Sha256::digest(cookie).into()
}

/// 32 bytes, as text.
fn random() -> Result<String, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

impl FromRequestParts<Arc<Shared>> for SignedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        match signed_in(parts, shared) {
            Ok(Some(signed_in)) => Ok(signed_in),
            Ok(None) if matches!(parts.method, Method::GET | Method::HEAD) => Err(login::redirect(&parts.uri)),
            Ok(None) => Err(Failure::signed_out().into_response()),
            Err(failure) => Err(failure.into_response()),
        }
    }
}

fn signed_in(parts: &Parts, shared: &Shared) -> Result<Option<SignedIn>, Failure> {
    let sessions = &shared.web.sessions;
    let Some(key) = key_of(&parts.headers) else { return Ok(None) };
    let Some(session) = sessions.get(&key) else { return Ok(None) };
    let Some(tenant) = shared.tenants.named(&session.tenant_id) else { return Ok(None) };
    let people = People::open(&tenant.access.people)?;
    let Some(person) = people.of_token_sha256(&session.token_sha256) else {
        sessions.end(&key);
        return Ok(None);
    };
    if parts.method == Method::GET {
        sessions.change(&key, |session| session.flash = None);
    }
    let Session { csrf, flash, last, bulk, .. } = session;
    Ok(Some(SignedIn { tenant, person, csrf, flash, last, bulk, key }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_after_its_time_and_with_its_sign_out() {
        let sessions = Sessions::default();
        let cookie = sessions.start("acme", "token").unwrap();
        assert_eq!(cookie.len(), 43, "32 bytes in base64");
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, format!("other=1; {COOKIE_NAME}={cookie}").parse().unwrap());
        let key = key_of(&headers).unwrap();
        let session = sessions.get(&key).unwrap();
        assert_eq!(session.tenant_id, "acme");
        assert!(session.lives(session.since + LIFETIME - Duration::from_secs(1)));
        assert!(!session.lives(session.since + LIFETIME));

        sessions.end(&key);
        assert!(sessions.get(&key).is_none());
    }

    #[test]
    fn the_server_keeps_a_digest_of_the_cookie_and_not_the_cookie() {
        let sessions = Sessions::default();
        let cookie = sessions.start("acme", "token").unwrap();
        let keys: Vec<_> = sessions.lock().keys().copied().collect();
        assert_eq!(keys, [Key::from(Sha256::digest(cookie))]);
        let headers = HeaderMap::new();
        assert_eq!(key_of(&headers), None);
    }
}
