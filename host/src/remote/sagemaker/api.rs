//! Calls of AWS's JSON 1.1 protocol: signed, sent once, and what their refusals mean.

use std::time::Duration;

use axum::http::Request;
use object_store::aws::{AmazonS3Builder, AwsAuthorizer, AwsCredentialProvider};
use object_store::client::HttpRequest;
use reqwest::blocking::Client;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::artefacts;
use crate::http::{self, block_on};
use crate::remote::RemoteError;

const TIMEOUT: Duration = Duration::from_secs(30);
const REMEDY: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role that may";
const CLOCK: &str = "this machine's clock is wrong: set it (`timedatectl set-ntp true`)";

/// A service of AWS's at one address.
pub(super) struct Api {
    client: Client,
    credentials: AwsCredentialProvider,
    region: String,
    /// `https://api.sagemaker.eu-central-1.amazonaws.com/`
    endpoint: String,
    /// What signatures are for: `sagemaker`, `logs`.
    service: &'static str,
    /// What begins the name of each operation: `SageMaker`.
    target: &'static str,
}

/// What an operation was refused with.
#[derive(Debug)]
pub(super) struct Refusal {
    /// `ValidationException`
    pub code: String,
    /// In the service's words.
    pub message: String,
}

/// An operation's outcome: most callers have something to say to one refusal or another.
pub(super) type Outcome<T> = Result<Result<T, Refusal>, RemoteError>;

/// The keys that `variables` (`AWS_...`, in lower case) name, or a machine's role.
pub(super) fn credentials(variables: Vec<(String, String)>, region: &str) -> Result<AwsCredentialProvider, String> {
    http::install_crypto();
    let builder = AmazonS3Builder::new().with_retry(artefacts::retry());
    let builder = variables.into_iter().fold(builder, artefacts::with_s3_option).with_region(region);
    // A bucket is never asked for: what is built here is only its provider of credentials.
    let store = builder.with_bucket_name("unused").with_allow_http(true).build();
    Ok(store.map_err(|error| error.to_string())?.credentials().clone())
}

impl Api {
    pub(super) fn new(
        credentials: AwsCredentialProvider,
        region: &str,
        endpoint: &str,
        service: &'static str,
        target: &'static str,
    ) -> Result<Self, RemoteError> {
        let client = http::client(TIMEOUT).build();
        let client =
            client.map_err(|error| RemoteError::Config { key: "remote.sagemaker", message: error.to_string() })?;
        let endpoint = format!("{}/", endpoint.trim_end_matches('/'));
        Ok(Self { client, credentials, region: region.to_owned(), endpoint, service, target })
    }

    /// What it is, for people.
    pub(super) fn describe(&self) -> String {
        format!("{} at {}", self.service, self.endpoint.trim_end_matches('/'))
    }

    /// Calls `operation` once.
    ///
    /// # Errors
    /// Those that have nothing to do with what is asked: the way there, credentials, overload.
    pub(super) fn call<T: DeserializeOwned>(&self, operation: &str, body: &Value) -> Outcome<T> {
        let request = self.signed(operation, body.to_string())?;
        let mut call = self.client.post(&self.endpoint).body(body.to_string());
        for (name, value) in request.headers() {
            call = call.header(name, value);
        }
        let response = call.send().map_err(|error| self.transient(http::innermost(&error), None))?;
        let (status, after) = (response.status(), http::retry_after(&response));
        let told = response.text().map_err(|error| self.transient(http::innermost(&error), None))?;
        if status.is_success() {
            let told = if told.is_empty() { "{}" } else { &told };
            return serde_json::from_str(told)
                .map(Ok)
                .map_err(|error| self.protocol(format!("{error} in `{}`", start(told))));
        }
        let Some(refusal) = Refusal::read(&told) else {
            let message = format!("{status}: {}", start(&told));
            return Err(if http::is_temporary(status) {
                self.transient(message, after)
            } else {
                self.protocol(message)
            });
        };
        let message = refusal.to_string();
        match refusal.meaning() {
            Meaning::Overload => Err(self.transient(message, after)),
            _ if status.is_server_error() => Err(self.transient(message, after)),
            Meaning::Clock => Err(self.credentials_refused(message, CLOCK)),
            Meaning::Credentials => Err(self.credentials_refused(message, REMEDY)),
            Meaning::Other => Ok(Err(refusal)),
        }
    }

    /// For a refusal that the caller has nothing to say to.
    pub(super) fn refused(&self, refusal: &Refusal) -> RemoteError {
        RemoteError::Refused { engine: self.describe(), message: refusal.to_string() }
    }

    fn signed(&self, operation: &str, body: String) -> Result<HttpRequest, RemoteError> {
        let credential = block_on(self.credentials.get_credential());
        let credential = credential.map_err(|error| {
            self.credentials_refused(format!("there are none: {}", http::innermost(&error)), REMEDY)
        })?;
        let request = Request::post(&self.endpoint)
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("{}.{operation}", self.target));
        let address = |message: String| RemoteError::Config { key: "remote.sagemaker.endpoint", message };
        let mut request: HttpRequest = request.body(body.into()).map_err(|error| address(error.to_string()))?;
        let signer = AwsAuthorizer::new(&credential, self.service, &self.region);
        signer.try_authorize(&mut request, None).map_err(|error| address(error.to_string()))?;
        Ok(request)
    }

    fn credentials_refused(&self, message: String, remedy: &str) -> RemoteError {
        RemoteError::Credentials { engine: self.describe(), message, remedy: remedy.to_owned() }
    }

    fn transient(&self, message: String, after: Option<Duration>) -> RemoteError {
        RemoteError::Transient { engine: self.describe(), message, after }
    }

    fn protocol(&self, message: String) -> RemoteError {
        RemoteError::Protocol { engine: self.describe(), message }
    }
}

enum Meaning {
    Overload,
    Clock,
    Credentials,
    Other,
}

impl Refusal {
    /// `{"__type": "com.amazonaws.sagemaker#ThrottlingException", "message": "Rate exceeded"}`
    fn read(body: &str) -> Option<Self> {
        let body: Value = serde_json::from_str(body).ok()?;
        let code = body.get("__type")?.as_str()?;
        let message =
            body.get("message").or_else(|| body.get("Message")).and_then(Value::as_str).unwrap_or("without a word");
        Some(Self { code: code.rsplit('#').next().unwrap_or(code).to_owned(), message: message.to_owned() })
    }

    fn meaning(&self) -> Meaning {
        let is_expired =
            |words: &str| words.contains("Signature expired") || words.contains("Signature not yet current");
        match self.code.as_str() {
            "ThrottlingException"
            | "Throttling"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "InternalFailure"
            | "InternalServerError"
            | "ServiceUnavailable"
            | "ServiceUnavailableException" => Meaning::Overload,
            "RequestTimeTooSkewed" | "RequestExpired" => Meaning::Clock,
            "InvalidSignatureException" | "SignatureDoesNotMatch" if is_expired(&self.message) => Meaning::Clock,
            "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "AccessDenied"
            | "AccessDeniedException"
            | "NotAuthorized"
            | "OptInRequired" => Meaning::Credentials,
            _ => Meaning::Other,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Of an answer that nobody expects, enough to tell what it is.
fn start(body: &str) -> String {
    body.chars().take(300).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_with_and_without_its_namespace() {
        let refusal = Refusal::read(r#"{"__type":"com.amazonaws.sagemaker#ResourceInUse","message":"taken"}"#).unwrap();
        assert_eq!(refusal.to_string(), "ResourceInUse: taken");
        let refusal = Refusal::read(r#"{"__type":"ThrottlingException","Message":"Rate exceeded"}"#).unwrap();
        assert_eq!(refusal.to_string(), "ThrottlingException: Rate exceeded");
        assert!(Refusal::read("<html>502 Bad Gateway</html>").is_none());
        assert!(Refusal::read(r#"{"detail":"not of AWS"}"#).is_none());
    }

    #[test]
    fn a_signature_that_is_too_old_is_a_matter_of_the_clock() {
        let meaning = |code: &str, message: &str| Refusal { code: code.into(), message: message.into() }.meaning();
        let old = "Signature expired: 20261126T120000Z is now earlier than 20261126T130000Z";
        assert!(matches!(meaning("InvalidSignatureException", old), Meaning::Clock));
        assert!(matches!(
            meaning("InvalidSignatureException", "The request signature we calculated"),
            Meaning::Credentials
        ));
        assert!(matches!(meaning("ResourceInUse", "x"), Meaning::Other));
    }

    #[test]
    fn a_call_is_signed_for_its_service_and_region_and_with_its_headers() {
        let variables =
            [("aws_access_key_id", "AKIATEST"), ("aws_secret_access_key", "secret"), ("aws_session_token", "token")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let credentials = credentials(variables, "eu-central-1").unwrap();
        let api = Api::new(credentials, "eu-central-1", "http://127.0.0.1:9", "sagemaker", "SageMaker").unwrap();
        let request = api.signed("ListTrainingJobs", "{}".to_owned()).unwrap();
        let header = |name: &str| request.headers()[name].to_str().unwrap();
        assert_eq!(header("x-amz-target"), "SageMaker.ListTrainingJobs");
        assert_eq!(header("x-amz-security-token"), "token");
        let authorization = header("authorization");
        assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIATEST/"), "{authorization}");
        assert!(authorization.contains("/eu-central-1/sagemaker/aws4_request, SignedHeaders=content-type;host;x-amz-"));
        assert!(!authorization.contains("secret"));
    }
}
