//! Requests to a worker, and what becomes of each.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Body, Client, RequestBuilder};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::contract::{ARTIFACT_DIGEST, ProblemView};
use crate::config::WorkerOptions;
use crate::http;
use crate::plugins::hex;
use crate::remote::RemoteError;

/// For an answer, beyond what the bytes of the request need.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an answer that is held in memory: a piece of a log is 1 MiB.
const LONGEST: usize = 8 << 20;
/// Characters of an answer that an error repeats.
const QUOTED: usize = 300;
const REMEDY: &str = "a worker's token is in `remote.modal.token_file` or TUNESMITH_WORKER_TOKEN, Modal's in \
                      `remote.modal.key_file` or MODAL_KEY and MODAL_SECRET";

/// Where a worker is, and how it knows us.
pub(super) struct Link {
    client: Client,
    /// For what is long: each piece of it has the time of an answer.
    pieces: reqwest::Client,
    url: Url,
    /// `worker at http://10.0.0.7:4318`
    name: String,
    secret: Secret,
    timeout: Duration,
}

enum Secret {
    Bearer(String),
    Modal { key: String, secret: String },
}

/// A request that is being made.
pub(super) struct Request<'a> {
    link: &'a Link,
    request: RequestBuilder,
}

/// An answer, whole.
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// What a download gave.
pub(super) enum Fetched {
    Refused(Answer),
    File {
        /// The digest that it should have.
        told: Option<String>,
        /// The one that it has.
        digest: String,
        /// At its start.
        file: File,
    },
}

/// Not the secret.
impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(options: &WorkerOptions, of_environment: bool) -> Result<Self, RemoteError> {
        let wrong = |key, message: &str| RemoteError::Config { key, message: message.to_owned() };
        let text = options.url.as_deref().ok_or_else(|| {
            wrong(
                "remote.modal.url",
                "is not set: give the address that `tunesmith serve --worker` or `modal deploy` tells",
            )
        })?;
        let mut url =
            Url::parse(text).map_err(|error| wrong("remote.modal.url", &format!("is no address ({error})")))?;
        if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
            return Err(wrong("remote.modal.url", "is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("remote.modal.url", "holds a user or a password; a token belongs into `token_file`"));
        }
        // One that is served below a path: `Url::join` would drop the path's last part.
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let timeout = options.timeout_s.map_or(TIMEOUT, |s| Duration::from_secs(s.get().into()));
        let name = format!("worker at {}", url.as_str().trim_end_matches('/'));
        let secret = secret(&name, options, of_environment)?;
        let failed = |error: reqwest::Error| wrong("remote.modal.url", &http::innermost(&error));
        let client = http::client(timeout).build().map_err(failed)?;
        // No limit of all of it, as a blocking client would have.
        let pieces = reqwest::Client::builder().connect_timeout(timeout).read_timeout(timeout);
        let pieces = pieces.build().map_err(failed)?;
        Ok(Self { client, pieces, url, name, secret, timeout })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Of a path below the worker's address.
    pub(super) fn request(&self, method: Method, path: String) -> Request<'_> {
        let request = self.client.request(method, self.at(&path));
        let request = self.headers().iter().fold(request, |request, (name, value)| request.header(*name, *value));
        Request { link: self, request }
    }

    fn at(&self, path: &str) -> Url {
        // Paths are ours: names of jobs, which need no escape.
        self.url.join(path).unwrap_or_else(|_| self.url.clone())
    }

    fn headers(&self) -> Vec<(&'static str, &str)> {
        match &self.secret {
            Secret::Bearer(token) => vec![("authorization", token)],
            Secret::Modal { key, secret } => vec![("modal-key", key), ("modal-secret", secret)],
        }
    }

    /// An answer's JSON.
    pub(super) fn json<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, RemoteError> {
        serde_json::from_slice(&answer.body).map_err(|_| self.nonsense(answer.quoted()))
    }

    /// What an answer that is no success means, whatever was asked.
    pub(super) fn refusal(&self, answer: Answer) -> RemoteError {
        let engine = self.name.clone();
        let message = match answer.problem() {
            Some(problem) => format!("{} ({})", problem.detail, answer.status.as_u16()),
            None => format!("it answers {}: {}", answer.status.as_u16(), answer.quoted()),
        };
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RemoteError::Credentials { engine, message, remedy: REMEDY.to_owned() }
            }
            status if http::is_temporary(status) => {
                RemoteError::Transient { engine, message, after: answer.retry_after() }
            }
            // Every refusal of a worker is a problem: this is somebody else's.
            _ if answer.problem().is_none() => RemoteError::Protocol { engine, message },
            _ => RemoteError::Refused { engine, message },
        }
    }

    pub(super) fn nonsense(&self, message: String) -> RemoteError {
        RemoteError::Protocol { engine: self.name.clone(), message }
    }

    pub(super) fn transient(&self, message: &str) -> RemoteError {
        RemoteError::Transient { engine: self.name.clone(), message: message.to_owned(), after: None }
    }

    fn failed(&self, error: reqwest::Error) -> RemoteError {
        match error.is_timeout() {
            true => self.transient(&format!("no answer within {} s", self.timeout.as_secs())),
            false => self.transient(&http::innermost(&error)),
        }
    }

    /// A file, written into `into`; how long it takes in all is not limited.
    pub(super) fn download(&self, path: &str, mut into: File, place: &Path) -> Result<Fetched, RemoteError> {
        let request = self.pieces.get(self.at(path));
        let request = self.headers().iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let written = |error| RemoteError::io("write an artefact into", place)(error);
        http::block_on(async {
            let mut response = request.send().await.map_err(|error| self.failed(error))?;
            let (status, headers) = (response.status(), response.headers().clone());
            if !status.is_success() {
                let mut body = Vec::new();
                while let Some(piece) = response.chunk().await.map_err(|error| self.failed(error))? {
                    body.extend_from_slice(&piece[..piece.len().min(LONGEST - body.len())]);
                }
                return Ok(Fetched::Refused(Answer { status, headers, body }));
            }
            let mut hash = Sha256::new();
            while let Some(piece) = response.chunk().await.map_err(|error| self.failed(error))? {
                hash.update(&piece);
                into.write_all(&piece).map_err(written)?;
            }
            into.rewind().map_err(written)?;
            let told = headers.get(ARTIFACT_DIGEST).and_then(|told| told.to_str().ok()).map(str::to_owned);
            Ok(Fetched::File { told, digest: hex(&hash.finalize()), file: into })
        })
    }
}

impl Request<'_> {
    pub(super) fn header(self, name: &str, value: &str) -> Self {
        Self { request: self.request.header(name, value), ..self }
    }

    /// With a body of `length` bytes, which may take so much longer.
    pub(super) fn body(self, file: File, length: u64, longer: Duration) -> Self {
        let request = self.request.body(Body::sized(file, length)).timeout(self.link.timeout + longer);
        Self { request, ..self }
    }

    /// Whatever is answered; what does not come to an answer is [`RemoteError::Transient`].
    pub(super) fn send(self) -> Result<Answer, RemoteError> {
        let link = self.link;
        let mut response = self.request.send().map_err(|error| link.failed(error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        let read = std::io::copy(&mut std::io::Read::take(&mut response, LONGEST as u64), &mut body);
        read.map_err(|error| link.transient(&format!("the answer broke off ({})", http::innermost(&error))))?;
        Ok(Answer { status, headers, body })
    }
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        self.status.is_success()
    }

    pub(super) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// When to come again, where it says.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.parse().ok().map(Duration::from_secs)
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(super) fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// Where it is a worker's.
    pub(super) fn problem(&self) -> Option<ProblemView> {
        if self.is_success() {
            return None;
        }
        serde_json::from_slice(&self.body).ok()
    }

    /// In one line.
    fn quoted(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(QUOTED).collect();
        if line.is_empty() { "without a word".to_owned() } else { format!("`{line}`") }
    }
}

fn secret(engine: &str, options: &WorkerOptions, of_environment: bool) -> Result<Secret, RemoteError> {
    let refused =
        |message: String| RemoteError::Credentials { engine: engine.to_owned(), message, remedy: REMEDY.to_owned() };
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path);
        text.map_err(|error| refused(format!("`{}` cannot be read ({error})", path.display())))
    };
    let variable =
        |name| std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let bearer = |token: &str| match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Secret::Bearer(format!("Bearer {token}"))),
        false => Err(refused("the token is not visible ASCII characters in one line".to_owned())),
    };
    if let Some(path) = &options.token_file {
        return bearer(read(path)?.trim());
    }
    if let Some(path) = &options.key_file {
        let text = read(path)?;
        return match text.split_whitespace().collect::<Vec<_>>()[..] {
            [key, secret] => Ok(Secret::Modal { key: key.to_owned(), secret: secret.to_owned() }),
            _ => Err(refused(format!("`{}` has not two lines, Modal's key and its secret", path.display()))),
        };
    }
    if of_environment {
        if let Some(token) = variable("TUNESMITH_WORKER_TOKEN") {
            return bearer(&token);
        }
        if let (Some(key), Some(secret)) = (variable("MODAL_KEY"), variable("MODAL_SECRET")) {
            return Ok(Secret::Modal { key, secret });
        }
    }
    Err(refused("there are none".to_owned()))
}
