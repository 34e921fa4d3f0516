//! What all requests of ours to servers have in common: the client, second attempts, what a failure says.

mod retry;
mod runtime;

use std::io::Read;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::{Client, ClientBuilder, Response};
use reqwest::header::RETRY_AFTER;

pub(crate) use retry::pause;
pub(crate) use runtime::block_on;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a server's own words. Phoenix lists the spans that it lacks, at 18 bytes a span: a page has 1,000.
const QUOTED: u64 = 20_000;

/// A client whose requests take no longer than `timeout`.
pub(crate) fn client(timeout: Duration) -> ClientBuilder {
    install_crypto();
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
        .user_agent(concat!("tunesmith/", env!("CARGO_PKG_VERSION")))
}

/// Once for the process; whatever speaks TLS takes it from there.
pub(crate) fn install_crypto() {
    // Fails where one is installed already, which is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Whether the same request may succeed a little later.
pub(crate) fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
}

/// The pause that a server names.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// A server's answer in one line.
pub(crate) fn quoted(response: Response) -> String {
    let mut text = String::new();
    let _ = response.take(QUOTED).read_to_string(&mut text); // as much as there is
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "without a word".to_owned() } else { line }
}

/// What it comes from: reqwest's own words are "error sending request".
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
