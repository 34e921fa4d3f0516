//! Calls of Azure's management API: with a token, sent once, and what their refusals mean.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::http;
use crate::remote::RemoteError;

/// Of which Microsoft's own client is made.
const API_VERSION: &str = "2025-12-01";
const TIMEOUT: Duration = Duration::from_secs(60);
/// A token is asked for anew this long before its end.
const MARGIN: Duration = Duration::from_secs(60);
const REMEDY: &str = "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or give this machine an identity that has the role \
                      `AzureML Data Scientist` in the workspace";

/// An application's name and password.
pub(super) struct ClientSecret {
    pub tenant: String,
    pub client: String,
    pub secret: String,
}

/// Where Azure is, and who we are there.
pub(super) struct Place {
    /// `https://management.azure.com`
    pub management: String,
    /// `https://login.microsoftonline.com`
    pub authority: String,
    /// What tokens are for.
    pub audience: String,
    /// `http://169.254.169.254`
    pub identity: String,
    /// Without one, the machine's identity is asked.
    pub secret: Option<ClientSecret>,
    /// Of that identity, where the machine has several.
    pub identity_client: Option<String>,
    /// `/subscriptions/{id}/resourceGroups/{name}/providers/Microsoft.MachineLearningServices/workspaces/{name}`
    pub workspace: String,
}

/// The management API, of one workspace.
pub(super) struct Arm {
    client: Client,
    place: Place,
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    value: String,
    until: Instant,
}

/// What a request was refused with.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    /// `UserError`
    pub code: String,
    /// In Azure's words.
    pub message: String,
}

/// A request's outcome: most callers have something to say to one refusal or another.
pub(super) type Outcome = Result<Result<Value, Refusal>, RemoteError>;

impl Arm {
    pub(super) fn new(place: Place) -> Result<Self, RemoteError> {
        let client = http::client(TIMEOUT).build();
        let client =
            client.map_err(|error| RemoteError::Config { key: "remote.azure_ml", message: error.to_string() })?;
        Ok(Self { client, place, token: Mutex::default() })
    }

    /// What it is, for people.
    pub(super) fn describe(&self) -> String {
        let name = self.place.workspace.rsplit('/').next().unwrap_or_default();
        format!("azure_ml workspace `{name}` at {}", self.place.management)
    }

    /// The workspace's whole id.
    pub(super) fn workspace(&self) -> &str {
        &self.place.workspace
    }

    /// Calls `path` of the workspace once: `jobs/acme-0123-1`.
    ///
    /// # Errors
    /// Those that have nothing to do with what is asked: the way there, credentials, overload.
    pub(super) fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Outcome {
        let url = format!("{}{}/{path}?api-version={API_VERSION}", self.place.management, self.place.workspace);
        self.with_token(|| {
            let request = self.client.request(method.clone(), &url);
            match body {
                // `Content-Length: 0` has to be said of a POST.
                None if method == Method::POST => request.body(""),
                None => request,
                Some(body) => request.header("content-type", "application/json").body(body.to_string()),
            }
        })
    }

    /// The same of another service of Azure's that takes our token.
    pub(super) fn call_service(&self, url: &str) -> Outcome {
        self.with_token(|| self.client.get(url))
    }

    fn with_token(&self, request: impl Fn() -> RequestBuilder) -> Outcome {
        let (token, is_new) = self.token()?;
        match self.sent(request().bearer_auth(&token))? {
            // It may have been withdrawn, or this machine may have slept.
            Err(refusal) if refusal.status == StatusCode::UNAUTHORIZED && !is_new => {
                *self.kept() = None;
                let (token, _) = self.token()?;
                self.answered(self.sent(request().bearer_auth(&token))?)
            }
            outcome => self.answered(outcome),
        }
    }

    fn answered(&self, outcome: Result<Value, Refusal>) -> Outcome {
        match outcome {
            Err(refusal) if matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(self.credentials(refusal.to_string()))
            }
            outcome => Ok(outcome),
        }
    }

    fn sent(&self, request: RequestBuilder) -> Outcome {
        let response = request.send().map_err(|error| self.transient(http::innermost(&error), None))?;
        let (status, after) = (response.status(), http::retry_after(&response));
        if status.is_success() {
            let text = response.text().map_err(|error| self.transient(http::innermost(&error), None))?;
            let text = if text.is_empty() { "null" } else { &text };
            return serde_json::from_str(text).map(Ok).map_err(|error| {
                self.protocol(format!("{error} in `{}`", text.chars().take(300).collect::<String>()))
            });
        }
        let told = http::quoted(response);
        let refusal = Refusal::read(status, &told);
        if http::is_temporary(status) {
            let message = refusal.map_or_else(|| format!("{status}: {told}"), |refusal| refusal.to_string());
            return Err(self.transient(message, after));
        }
        refusal
            .map(Err)
            .ok_or_else(|| self.protocol(format!("{status}: {}", told.chars().take(300).collect::<String>())))
    }

    /// The token, and whether it was made just now.
    fn token(&self) -> Result<(String, bool), RemoteError> {
        let mut kept = self.kept();
        if let Some(token) = kept.as_ref().filter(|token| token.until > Instant::now()) {
            return Ok((token.value.clone(), false));
        }
        let place = &self.place;
        let mut form = form_urlencoded::Serializer::new(String::new());
        let request = match &place.secret {
            Some(secret) => {
                form.append_pair("grant_type", "client_credentials").append_pair("client_id", &secret.client);
                form.append_pair("client_secret", &secret.secret);
                form.append_pair("scope", &format!("{}/.default", place.audience));
                let url = format!("{}/{}/oauth2/v2.0/token", place.authority, secret.tenant);
                let request = self.client.post(url).header("content-type", "application/x-www-form-urlencoded");
                request.body(form.finish())
            }
            None => {
                form.append_pair("api-version", "2018-02-01").append_pair("resource", &format!("{}/", place.audience));
                if let Some(client) = &place.identity_client {
                    form.append_pair("client_id", client);
                }
                let url = format!("{}/metadata/identity/oauth2/token?{}", place.identity, form.finish());
                self.client.get(url).header("Metadata", "true")
            }
        };
        let response = request.send().map_err(|error| match &place.secret {
            Some(_) => self.transient(format!("no token from {}: {}", place.authority, http::innermost(&error)), None),
            // Only machines in Azure have it: waiting won't bring it.
            None => self
                .credentials(format!("there are none, and this machine has no identity ({})", http::innermost(&error))),
        })?;
        let token = self.granted(response)?;
        let lasts = Duration::from_secs(token.lasts_s()).saturating_sub(MARGIN);
        let value = token.access_token;
        *kept = Some(Token { value: value.clone(), until: Instant::now() + lasts });
        Ok((value, true))
    }

    fn granted(&self, response: Response) -> Result<Granted, RemoteError> {
        let (status, after) = (response.status(), http::retry_after(&response));
        if status.is_success() {
            let text = response.text().map_err(|error| self.transient(http::innermost(&error), None))?;
            let granted = serde_json::from_str(&text);
            return granted.map_err(|error| self.protocol(format!("a token that can't be read: {error}")));
        }
        let told = http::quoted(response);
        if http::is_temporary(status) {
            return Err(self.transient(format!("no token: {status}: {told}"), after));
        }
        // `error_description` has the number by which Microsoft's pages are found, then ids of the request.
        let words: Value = serde_json::from_str(&told).unwrap_or_default();
        let description = words["error_description"].as_str().or(words["error"].as_str()).unwrap_or(&told);
        Err(self.credentials(description.to_owned()))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Token>> {
        self.token.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn credentials(&self, message: String) -> RemoteError {
        RemoteError::Credentials { engine: self.describe(), message, remedy: REMEDY.to_owned() }
    }

    fn transient(&self, message: String, after: Option<Duration>) -> RemoteError {
        RemoteError::Transient { engine: self.describe(), message, after }
    }

    pub(super) fn protocol(&self, message: String) -> RemoteError {
        RemoteError::Protocol { engine: self.describe(), message }
    }

    /// For a refusal that the caller has nothing to say to.
    pub(super) fn refused(&self, refusal: &Refusal) -> RemoteError {
        RemoteError::Refused { engine: self.describe(), message: refusal.to_string() }
    }
}

/// The authority gives a number of seconds, the machine's identity a text of one.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Value,
}

impl Granted {
    fn lasts_s(&self) -> u64 {
        let number = self.expires_in.as_u64();
        number.or_else(|| self.expires_in.as_str()?.parse().ok()).unwrap_or(0)
    }
}

impl Refusal {
    /// `{"error": {"code": "UserError", "message": "..."}}`
    fn read(status: StatusCode, body: &str) -> Option<Self> {
        let body: Value = serde_json::from_str(body).ok()?;
        let error = body.get("error")?;
        let code = error.get("code")?.as_str()?.to_owned();
        let message = error.get("message").and_then(Value::as_str).unwrap_or("without a word").to_owned();
        Some(Self { status, code, message })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lasts_as_long_as_either_giver_says() {
        let lasts = |text| serde_json::from_str::<Granted>(text).unwrap().lasts_s();
        assert_eq!(lasts(r#"{"access_token": "t", "expires_in": 3599}"#), 3599);
        assert_eq!(lasts(r#"{"access_token": "t", "expires_in": "86400"}"#), 86400);
        assert_eq!(lasts(r#"{"access_token": "t", "expires_in": null}"#), 0);
    }

    #[test]
    fn a_refusal_is_read_where_there_is_one() {
        let read = |body| Refusal::read(StatusCode::BAD_REQUEST, body).map(|refusal| refusal.to_string());
        assert_eq!(read(r#"{"error": {"code": "UserError", "message": "no"}}"#).as_deref(), Some("UserError: no"));
        assert_eq!(read("<html>a proxy's page</html>"), None);
    }
}
