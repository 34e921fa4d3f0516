//! Requests to a server with OpenAI's chat completions: keys, second attempts, and what each failure means.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde_json::Value;

use crate::config::EndpointConfig;
use crate::http::{client, innermost, is_temporary, pause, quoted, retry_after};
use crate::synthetic::SyntheticError;

/// An answer. One of a thousand tokens is 10 KB.
const MOST_BYTES: u64 = 1 << 20;
/// Variables that may hold a key, the first that does winning.
const VARIABLES: [&str; 2] = ["TUNESMITH_SYNTHETIC_API_KEY", "OPENAI_API_KEY"];
/// Between two looks at whether a pause is still wanted.
const TICK: Duration = Duration::from_millis(50);

/// Where the model is, and by which key it is asked.
pub(super) struct Server {
    http: Client,
    url: String,
    key: Option<String>,
    /// Where the key is from, where there is one.
    key_source: Option<String>,
    attempts: u32,
    timeout_s: u32,
}

/// What all requests of a generation share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Requests that may still be made.
    pub(super) requests_left: AtomicU32,
    /// Nobody waits for answers any more.
    pub(super) cancelled: AtomicBool,
}

/// What came of a prompt, and the requests that it took.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) result: Result<Reply, Failure>,
    pub(super) requests: u32,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// Empty where the model refused.
    pub(super) text: String,
    /// Whether the server says that the model, or a filter before it, refused.
    pub(super) refused: bool,
    /// Whether the answer would have gone on.
    pub(super) cut: bool,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) completion_tokens: Option<u64>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server does not take the request as it is written.
    NotTaken { status: u16, answer: String },
    /// After all attempts; the next request may do better.
    Passing(SyntheticError),
    /// No further request would do better.
    Final(SyntheticError),
    /// There are no requests left.
    Budget,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
}

impl Server {
    /// Reads the key; nothing is asked yet.
    pub(super) fn open(endpoint: &EndpointConfig) -> Result<Self, SyntheticError> {
        let (key, key_source) = key(endpoint)?;
        let unusable = |error: reqwest::Error| SyntheticError::Unreachable {
            url: endpoint.url.clone(),
            reason: error.to_string(),
            attempts: 0,
        };
        // A server that sends elsewhere would take the key and the examples where nobody meant them to go.
        let http = client(Duration::from_secs(endpoint.timeout_s.into())).redirect(Policy::none());
        let http = http.build().map_err(unusable)?;
        let EndpointConfig { url, retries, timeout_s, .. } = endpoint;
        Ok(Self { http, url: url.clone(), key, key_source, attempts: retries.saturating_add(1), timeout_s: *timeout_s })
    }

    /// The only model that the server has.
    pub(super) fn only_model(&self, shared: &Shared) -> Result<String, SyntheticError> {
        let url = format!("{}/models", self.url);
        let (result, _) = self.attempt(shared, || self.http.get(&url));
        let body = result.map_err(|failure| match failure {
            Failure::Passing(error) | Failure::Final(error) => error,
            Failure::NotTaken { status, answer } => SyntheticError::Refused { url: url.clone(), status, answer },
            Failure::Budget => SyntheticError::WhichModel { url: self.url.clone(), known: Vec::new() },
        })?;
        let listed = serde_json::from_slice::<Value>(&body).ok();
        let listed = listed.as_ref().and_then(|list| list.get("data")?.as_array()).cloned().unwrap_or_default();
        let mut known: Vec<String> = listed.iter().filter_map(|m| Some(m.get("id")?.as_str()?.to_owned())).collect();
        match (known.pop(), known.is_empty()) {
            (Some(only), true) => Ok(only),
            (last, _) => {
                known.extend(last);
                Err(SyntheticError::WhichModel { url: self.url.clone(), known })
            }
        }
    }

    /// Answers a request whose body is `body`.
    pub(super) fn complete(&self, shared: &Shared, model: &str, body: &str) -> Outcome {
        let url = format!("{}/chat/completions", self.url);
        let request = || self.http.post(&url).header(CONTENT_TYPE, "application/json").body(body.to_owned());
        let (result, requests) = self.attempt(shared, request);
        let result = result.and_then(|body| reply(&self.url, &body));
        let result = result.map_err(|failure| match failure {
            Failure::NotTaken { status: 404, answer } => {
                let url = self.url.clone();
                Failure::Final(SyntheticError::UnknownModel { url, model: model.to_owned(), answer })
            }
            other => other,
        });
        Outcome { result, requests }
    }

    /// A body, after as many attempts as it takes, and how many that were.
    fn attempt(&self, shared: &Shared, request: impl Fn() -> RequestBuilder) -> (Result<Vec<u8>, Failure>, u32) {
        let (mut named, mut failed) = (None, None);
        let mut requests = 0;
        for attempt in 1..=self.attempts {
            if !wait(pause(attempt, named.take()), shared) || !shared.take_request() {
                return (Err(failed.map_or(Failure::Budget, Failure::Passing)), requests);
            }
            requests += 1;
            let mut request = request();
            if let Some(key) = &self.key {
                request = request.bearer_auth(key);
            }
            let unreachable = |reason| SyntheticError::Unreachable { url: self.url.clone(), reason, attempts: attempt };
            let error = match request.send() {
                Ok(response) if is_temporary(response.status()) => {
                    named = retry_after(&response);
                    let status = response.status().as_u16();
                    let answer = self.words(response);
                    // llama-cpp-python calls what it does not know an error of its own.
                    if status == 500 && answer.contains("response_format") {
                        return (Err(Failure::NotTaken { status, answer }), requests);
                    }
                    SyntheticError::Failed { url: self.url.clone(), status, answer, attempts: attempt }
                }
                Ok(response) => match self.read(response) {
                    Ok(body) => return (Ok(body), requests),
                    Err(Unread::Cut(reason)) => unreachable(reason),
                    Err(Unread::Failed(failure)) => return (Err(failure), requests),
                },
                Err(error) if error.is_timeout() => {
                    let within = format!("none within {} s, see `--synthetic-timeout-s`", self.timeout_s);
                    unreachable(within)
                }
                Err(error) => unreachable(innermost(&error)),
            };
            tracing::debug!("attempt {attempt}: {error}");
            failed = Some(error);
        }
        (Err(failed.map_or(Failure::Budget, Failure::Passing)), requests)
    }

    fn read(&self, response: Response) -> Result<Vec<u8>, Unread> {
        let status = response.status();
        let url = self.url.clone();
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere").to_owned();
            return Err(Unread::Failed(Failure::Final(SyntheticError::Redirected { url, to })));
        }
        if !status.is_success() {
            let answer = self.words(response);
            return Err(Unread::Failed(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let key = self.key_source.clone();
                    Failure::Final(SyntheticError::Unauthorized { url, status: status.as_u16(), key, answer })
                }
                StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_FOUND => {
                    Failure::NotTaken { status: status.as_u16(), answer }
                }
                _ => Failure::Final(SyntheticError::Refused { url, status: status.as_u16(), answer }),
            }));
        }
        let mut body = Vec::new();
        response.take(MOST_BYTES + 1).read_to_end(&mut body).map_err(|error| Unread::Cut(error.to_string()))?;
        if body.len() as u64 > MOST_BYTES {
            let reason = format!("more than {} MiB", MOST_BYTES >> 20);
            return Err(Unread::Failed(Failure::Final(SyntheticError::Malformed { url, reason })));
        }
        Ok(body)
    }

    /// A server's words, without the key, which some repeat.
    fn words(&self, response: Response) -> String {
        let text = quoted(response);
        let message = serde_json::from_str::<Value>(&text).ok().and_then(|value| {
            let error = value.get("error").unwrap_or(&value);
            let message = error.get("message").or_else(|| error.get("detail")).unwrap_or(error);
            message.as_str().map(str::to_owned)
        });
        let text = message.unwrap_or(text);
        match &self.key {
            Some(key) => text.replace(key.as_str(), "[KEY]"),
            None => text,
        }
    }
}

enum Unread {
    /// The connection broke, and may be better the next time.
    Cut(String),
    Failed(Failure),
}

impl Shared {
    fn take_request(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.requests_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// False where nobody wants to wait any longer.
fn wait(pause: Duration, shared: &Shared) -> bool {
    let start = Instant::now();
    loop {
        if shared.cancelled.load(Ordering::Relaxed) {
            return false;
        }
        match pause.checked_sub(start.elapsed()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(TICK)),
            _ => return true,
        }
    }
}

fn reply(url: &str, body: &[u8]) -> Result<Reply, Failure> {
    let malformed = |reason: String| Failure::Final(SyntheticError::Malformed { url: url.to_owned(), reason });
    let completion: Completion = serde_json::from_slice(body).map_err(|error| malformed(error.to_string()))?;
    let choice = completion.choices.into_iter().next().ok_or_else(|| malformed("it has no choice".to_owned()))?;
    let ended_by = |reason: &str| choice.finish_reason.as_deref() == Some(reason);
    let refused = choice.message.refusal.is_some() || ended_by("content_filter");
    let cut = ended_by("length");
    let (prompt_tokens, completion_tokens) =
        completion.usage.map_or((None, None), |usage| (usage.prompt_tokens, usage.completion_tokens));
    Ok(Reply { text: choice.message.content.unwrap_or_default(), refused, cut, prompt_tokens, completion_tokens })
}

/// The key, and where it is from.
fn key(endpoint: &EndpointConfig) -> Result<(Option<String>, Option<String>), SyntheticError> {
    let clean = |key: String| Some(key.trim().to_owned()).filter(|key| !key.is_empty());
    if let Some(path) = &endpoint.api_key_file {
        let unreadable =
            |error: std::io::Error| SyntheticError::KeyFile { path: path.clone(), reason: error.to_string() };
        let key = std::fs::read_to_string(path).map_err(unreadable)?;
        return Ok((clean(key), Some(format!("the file `{}`", path.display()))));
    }
    let variables = VARIABLES.into_iter().filter(|_| endpoint.key_of_environment);
    let found = variables.filter_map(|name| Some((clean(std::env::var(name).ok()?)?, name))).next();
    Ok(match found {
        Some((key, name)) => (Some(key), Some(format!("the variable {name}"))),
        None => (None, None),
    })
}
