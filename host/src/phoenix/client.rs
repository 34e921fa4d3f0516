//! Requests to a Phoenix server: authorisation, second attempts, and what each failure means.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::header::CONTENT_TYPE;
use reqwest::{StatusCode, Url};
use serde_json::Value;

use super::error::PhoenixError;
use crate::http::{client, innermost, is_temporary, pause, quoted, retry_after};

/// A page of 1,000 spans takes Phoenix 0.4 s; a busy one gets this long for one answer.
const TIMEOUT: Duration = Duration::from_secs(120);
/// An answer. 1,000 spans of a chatty agent are some 10 MB.
const MOST_BYTES: u64 = 256 << 20;
/// Attempts of one request. The last one starts some 8 s after the first: a server that restarts takes longer, and a run
/// that waits for it should say so.
pub(super) const ATTEMPTS: u32 = 5;

/// Where a Phoenix server is, and by which key it is read.
#[derive(Clone)]
pub struct Server {
    url: Url,
    key: Option<String>,
}

/// Not the key.
impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.url.as_str()).field("key", &self.key.is_some()).finish()
    }
}

impl Server {
    /// The server at `url`. The key is in `key_file`, or else, with `of_environment`, in PHOENIX_API_KEY as for Phoenix's
    /// own clients; without either the server is read without one.
    ///
    /// # Errors
    /// [`PhoenixError::BadUrl`] and [`PhoenixError::KeyFile`].
    pub fn new(url: &str, key_file: Option<&Path>, of_environment: bool) -> Result<Self, PhoenixError> {
        let bad = |reason: &str| PhoenixError::BadUrl { url: url.to_owned(), reason: reason.to_owned() };
        let mut parsed = Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        if !["http", "https"].contains(&parsed.scheme()) || parsed.host_str().is_none() {
            return Err(bad("neither http nor https"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            // Whose text is not repeated.
            let url = format!("{}://{}", parsed.scheme(), parsed.host_str().unwrap_or_default());
            let reason = "it held a user or a password; a key belongs into a file".to_owned();
            return Err(PhoenixError::BadUrl { url, reason });
        }
        // A proxy may serve Phoenix below a path: `Url::join` would drop the path's last part.
        if !parsed.path().ends_with('/') {
            parsed.set_path(&format!("{}/", parsed.path()));
        }
        let key = match key_file {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| PhoenixError::KeyFile {
                path: path.display().to_string(),
                reason: error.to_string(),
            })?),
            None if of_environment => std::env::var("PHOENIX_API_KEY").ok(),
            None => None,
        };
        let key = key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        Ok(Self { url: parsed, key })
    }

    /// As it was given, without a slash at its end.
    pub fn url(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }
}

/// An open connection.
pub(super) struct Connection {
    http: Client,
    server: Server,
    attempts: u32,
}

impl Connection {
    /// Requests are tried `attempts` times.
    pub(super) fn new(server: Server, attempts: u32) -> Result<Self, PhoenixError> {
        let http = client(TIMEOUT)
            .build()
            .map_err(|error| PhoenixError::BadUrl { url: server.url().to_owned(), reason: error.to_string() })?;
        Ok(Self { http, server, attempts })
    }

    pub(super) fn url(&self) -> &str {
        self.server.url()
    }

    /// `GET`, whose `path` is not escaped yet.
    pub(super) fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, PhoenixError> {
        let mut url = self.at(path);
        url.query_pairs_mut().extend_pairs(query);
        self.answer(&url, || self.http.get(url.clone()))
    }

    /// `POST` of JSON. It may be done twice.
    pub(super) fn post(&self, path: &[&str], query: &[(&str, &str)], body: &Value) -> Result<Value, PhoenixError> {
        let mut url = self.at(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let body = body.to_string();
        self.answer(&url, || self.http.post(url.clone()).header(CONTENT_TYPE, "application/json").body(body.clone()))
    }

    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.server.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// JSON, after as many attempts as it takes.
    fn answer(&self, url: &Url, request: impl Fn() -> RequestBuilder) -> Result<Value, PhoenixError> {
        let mut named = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            std::thread::sleep(pause(attempt, named.take()));
            let mut request = request();
            if let Some(key) = &self.server.key {
                request = request.bearer_auth(key);
            }
            let failed = match request.send() {
                Ok(response) if is_temporary(response.status()) => {
                    named = retry_after(&response);
                    let status = response.status().as_u16();
                    let answer = quoted(response);
                    PhoenixError::Failed { url: shown(url), status, answer, attempts: attempt }
                }
                Ok(response) => match self.read(url, response) {
                    Err(ReadError::Cut(reason)) => {
                        PhoenixError::Unreachable { url: shown(url), reason, attempts: attempt }
                    }
                    Err(ReadError::Final(error)) => return Err(error),
                    Ok(value) => return Ok(value),
                },
                Err(error) => {
                    let reason = innermost(&error);
                    PhoenixError::Unreachable { url: shown(url), reason, attempts: attempt }
                }
            };
            if attempt == self.attempts {
                return Err(failed);
            }
            tracing::debug!("attempt {attempt}: {failed}");
        }
    }

    fn read(&self, url: &Url, response: Response) -> Result<Value, ReadError> {
        let status = response.status();
        if !status.is_success() {
            let answer = quoted(response);
            let server = self.url().to_owned();
            return Err(ReadError::Final(match status {
                StatusCode::UNAUTHORIZED => PhoenixError::Unauthorized { url: server, answer },
                StatusCode::FORBIDDEN => PhoenixError::Forbidden { url: server, answer },
                _ => PhoenixError::Refused { url: shown(url), status: status.as_u16(), answer },
            }));
        }
        let found = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("nothing");
        if !found.starts_with("application/json") {
            let found = format!("`{found}`");
            return Err(ReadError::Final(PhoenixError::NotPhoenix { url: shown(url), found }));
        }
        let mut body = Vec::new();
        response.take(MOST_BYTES + 1).read_to_end(&mut body).map_err(|error| ReadError::Cut(error.to_string()))?;
        let malformed = |reason| ReadError::Final(PhoenixError::Malformed { url: shown(url), reason });
        if body.len() as u64 > MOST_BYTES {
            return Err(malformed(format!("more than {} MiB", MOST_BYTES >> 20)));
        }
        serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))
    }
}

enum ReadError {
    /// The connection broke, and may be better the next time.
    Cut(String),
    Final(PhoenixError),
}

/// An address for a message: a thousand span ids are none of it.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}
