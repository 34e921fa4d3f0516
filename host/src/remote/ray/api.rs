//! Requests to Ray's Jobs API, and what becomes of each.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::{RayOptions, RemoteConfig};
use crate::http;
use crate::remote::RemoteError;

/// For an answer. A package is some 20 MB, and a dashboard is busy while a cluster starts.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Characters of an answer that an error repeats.
const QUOTED: usize = 400;
const REMEDY: &str =
    "the cluster's token is in `remote.ray.token_file` or RAY_AUTH_TOKEN (`ray get-auth-token` prints it there)";

/// A dashboard, and how it knows us.
pub(super) struct Api {
    client: Client,
    url: Url,
    name: String,
    token: Option<String>,
}

/// A job, as far as we read it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Details {
    pub(super) status: String,
    pub(super) message: Option<String>,
    pub(super) error_type: Option<String>,
    pub(super) driver_exit_code: Option<i32>,
    pub(super) metadata: Option<std::collections::BTreeMap<String, String>>,
}

impl Api {
    /// # Errors
    /// [`RemoteError::Config`] for an address that is none, [`RemoteError::Credentials`] where the token can't be read.
    pub(super) fn new(config: &RemoteConfig) -> Result<Self, RemoteError> {
        let wrong = |message: String| RemoteError::Config { key: "remote.ray.url", message };
        let text = config.ray.url.as_deref().ok_or_else(|| {
            wrong("is not set: give the dashboard's address, such as `http://10.0.0.5:8265`".to_owned())
        })?;
        let mut url = Url::parse(text).map_err(|error| wrong(format!("is no address ({error})")))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(wrong(
                "is neither http nor https: it is the dashboard's address, not that of `ray://`".to_owned(),
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("holds a user or a password; a token belongs into `token_file`".to_owned()));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let name = format!("ray at {}", url.as_str().trim_end_matches('/'));
        let token = token(&name, &config.ray, config.secrets_of_environment)?;
        let client = http::client(TIMEOUT).build().map_err(|error| wrong(http::innermost(&error)))?;
        Ok(Self { client, url, name, token })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The version that it tells.
    pub(super) fn version(&self) -> Result<String, RemoteError> {
        #[derive(Deserialize)]
        struct Version {
            ray_version: String,
        }
        let answer = self.send(self.request(Method::GET, "api/version")).map_err(|error| self.told(error))?;
        Ok(self.json::<Version>(answer)?.ray_version)
    }

    /// What it has: `CPU: 2 of 4 used`; nothing where it doesn't tell.
    pub(super) fn resources(&self) -> Vec<String> {
        let answer = self.send(self.request(Method::GET, "api/cluster_status"));
        let answer = answer.ok().and_then(|answer| self.json::<serde_json::Value>(answer).ok()).unwrap_or_default();
        let usage =
            answer["data"]["clusterStatus"]["loadMetricsReport"]["usage"].as_object().cloned().unwrap_or_default();
        let told = usage.iter().filter(|(name, _)| !name.starts_with("node:") && !name.contains("memory"));
        told.map(|(name, used)| format!("{name}: {} of {} used", used[0], used[1])).collect()
    }

    /// Whether it has a package.
    pub(super) fn has_package(&self, name: &str) -> Result<bool, RemoteError> {
        match self.send(self.request(Method::GET, &format!("api/packages/gcs/{name}"))) {
            Ok(_) => Ok(true),
            Err(Refusal::NotFound) => Ok(false),
            Err(error) => Err(self.told(error)),
        }
    }

    /// Uploads one.
    pub(super) fn put_package(&self, name: &str, zip: &Path) -> Result<(), RemoteError> {
        let file = File::open(zip).map_err(RemoteError::io("read", zip))?;
        let answer = self.send(self.request(Method::PUT, &format!("api/packages/gcs/{name}")).body(file));
        answer.map(drop).map_err(|error| self.told(error))
    }

    /// Hands in a job; false where its name is taken.
    pub(super) fn submit(&self, job: &serde_json::Value) -> Result<bool, RemoteError> {
        match self.send(
            self.request(Method::POST, "api/jobs/").header("content-type", "application/json").body(job.to_string()),
        ) {
            Ok(_) => Ok(true),
            Err(Refusal::Told(_, text)) if text.contains("already exists") => Ok(false),
            Err(error) => Err(self.told(error)),
        }
    }

    /// A job; `None` where it knows none of that name.
    pub(super) fn job(&self, name: &str) -> Result<Option<Details>, RemoteError> {
        match self.send(self.request(Method::GET, &format!("api/jobs/{name}"))) {
            Ok(answer) => self.json(answer).map(Some),
            Err(Refusal::NotFound) => Ok(None),
            Err(error) => Err(self.told(error)),
        }
    }

    /// Everything that a job wrote; `None` where it knows none of that name, or its machine is gone.
    pub(super) fn logs(&self, name: &str) -> Result<Option<String>, RemoteError> {
        #[derive(Deserialize)]
        struct Logs {
            logs: String,
        }
        match self.send(self.request(Method::GET, &format!("api/jobs/{name}/logs"))) {
            Ok(answer) => Ok(Some(self.json::<Logs>(answer)?.logs)),
            // They lie on the machine that ran it.
            Err(Refusal::NotFound | Refusal::Told(StatusCode::INTERNAL_SERVER_ERROR, _)) => Ok(None),
            Err(error) => Err(self.told(error)),
        }
    }

    /// Asks for a job's end; one that it doesn't know has ended.
    pub(super) fn stop(&self, name: &str) -> Result<(), RemoteError> {
        match self.send(self.request(Method::POST, &format!("api/jobs/{name}/stop"))) {
            Ok(_) | Err(Refusal::NotFound) => Ok(()),
            Err(error) => Err(self.told(error)),
        }
    }

    /// Removes a job that has ended; one that it doesn't know is removed.
    pub(super) fn delete(&self, name: &str) -> Result<(), RemoteError> {
        match self.send(self.request(Method::DELETE, &format!("api/jobs/{name}"))) {
            Ok(_) | Err(Refusal::NotFound) => Ok(()),
            // It ends, and is then one of the ended ones that Ray forgets itself.
            Err(Refusal::Told(_, text)) if text.contains("non-terminal state") => Ok(()),
            Err(error) => Err(self.told(error)),
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // Paths are ours: names of jobs and packages, which need no escape.
        let url = self.url.join(path).unwrap_or_else(|_| self.url.clone());
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    fn send(&self, request: RequestBuilder) -> Result<Response, Refusal> {
        let answer = request.send().map_err(Refusal::Way)?;
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND => match http::quoted(answer) {
                text if text.contains("does not exist") => Err(Refusal::NotFound),
                text => Err(Refusal::Told(StatusCode::NOT_FOUND, text)),
            },
            status => {
                let after = http::retry_after(&answer);
                let text = http::quoted(answer);
                Err(match http::is_temporary(status) && status != StatusCode::INTERNAL_SERVER_ERROR {
                    true => Refusal::Busy(status, text, after),
                    false => Refusal::Told(status, text),
                })
            }
        }
    }

    fn json<T: DeserializeOwned>(&self, answer: Response) -> Result<T, RemoteError> {
        let text = answer.text().map_err(|error| self.told(Refusal::Way(error)))?;
        serde_json::from_str(&text).map_err(|_| self.nonsense(&text))
    }

    fn nonsense(&self, text: &str) -> RemoteError {
        let message = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(QUOTED).collect();
        RemoteError::Protocol { engine: self.name.clone(), message }
    }

    fn told(&self, refusal: Refusal) -> RemoteError {
        let engine = self.name.clone();
        match refusal {
            Refusal::Way(error) if error.is_timeout() => {
                let message = format!("no answer within {} s", TIMEOUT.as_secs());
                RemoteError::Transient { engine, message, after: None }
            }
            Refusal::Way(error) => RemoteError::Transient { engine, message: http::innermost(&error), after: None },
            Refusal::NotFound => self.nonsense("404 Not Found"),
            Refusal::Busy(status, text, after) => RemoteError::Transient {
                engine,
                message: format!("it answers {}: {}", status.as_u16(), cause(&text)),
                after,
            },
            Refusal::Told(status, text) => {
                let message = format!("{} ({})", cause(&text), status.as_u16());
                match status {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                        RemoteError::Credentials { engine, message, remedy: REMEDY.to_owned() }
                    }
                    // Whatever goes wrong in it is one: what it says of our request is no accident.
                    StatusCode::INTERNAL_SERVER_ERROR if text.contains("status code 400") => {
                        RemoteError::Refused { engine, message }
                    }
                    StatusCode::INTERNAL_SERVER_ERROR => RemoteError::Transient { engine, message, after: None },
                    StatusCode::NOT_FOUND => RemoteError::Protocol { engine, message },
                    _ => RemoteError::Refused { engine, message },
                }
            }
        }
    }
}

/// Why a request has no answer of use.
enum Refusal {
    Way(reqwest::Error),
    NotFound,
    Busy(StatusCode, String, Option<Duration>),
    Told(StatusCode, String),
}

/// Of a traceback, in one line by now, what it is about.
fn cause(text: &str) -> String {
    let text = match text.contains("Traceback (most recent call last)") {
        // The last `SomeError: ` begins the words of whoever raised it first.
        true => match text.rmatch_indices("Error: ").next() {
            Some((at, _)) => {
                let start = text[..at].rfind(' ').map_or(0, |space| space + 1);
                &text[start..]
            }
            None => text,
        },
        false => text,
    };
    text.chars().take(QUOTED).collect()
}

fn token(engine: &str, options: &RayOptions, of_environment: bool) -> Result<Option<String>, RemoteError> {
    let refused =
        |message: String| RemoteError::Credentials { engine: engine.to_owned(), message, remedy: REMEDY.to_owned() };
    let token = match &options.token_file {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            Some(text.map_err(|error| refused(format!("`{}` cannot be read ({error})", path.display())))?)
        }
        None if of_environment => std::env::var("RAY_AUTH_TOKEN").ok(),
        None => None,
    };
    let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    match token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
        true => Err(refused("the token is not visible ASCII characters in one line".to_owned())),
        false => Ok(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_traceback_its_cause_is_told() {
        let text = "Traceback (most recent call last): File \"job_head.py\", line 419, in submit_job resp = await x RuntimeError: \
                    Request failed with status code 400: Traceback (most recent call last): File \"job_agent.py\", line 45 \
                    ValueError: entrypoint must be a string.";
        assert_eq!(cause(text), "ValueError: entrypoint must be a string.");
        assert_eq!(cause("Job acme does not exist"), "Job acme does not exist");
    }
}
