//! What a form sends.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::csrf;
use super::failure::Failure;
use super::session::SignedIn;
use crate::server::Shared;

/// Some texts of an item, each byte of which may take three.
const MOST_BYTES: usize = 8 << 20;
/// A token, and a path to go to.
const MOST_BYTES_OF_ANYBODY: usize = 16 << 10;

/// The fields of a form, by name.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A field that is not blank.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).map(str::trim).filter(|value| !value.is_empty())
    }
}

/// A form of somebody who is signed in, from a page of this server.
pub(super) struct Posted {
    pub(super) signed_in: SignedIn,
    pub(super) fields: Fields,
}

impl FromRequest<Arc<Shared>> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        if !csrf::is_of_this_server(&parts.headers) {
            return Err(Failure::foreign().into_response());
        }
        let signed_in = SignedIn::from_request_parts(&mut parts, shared).await?;
        let request = Request::from_parts(parts, body);
        let fields = read(request, shared, MOST_BYTES).await.map_err(IntoResponse::into_response)?;
        match signed_in.csrf.matches(fields.get("csrf")) {
            true => Ok(Self { signed_in, fields }),
            false => Err(Failure::foreign().into_response()),
        }
    }
}

/// A form of whoever it is, from a page of this server.
pub(super) struct PostedByAnybody(pub(super) Fields);

impl FromRequest<Arc<Shared>> for PostedByAnybody {
    type Rejection = Failure;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Failure> {
        match csrf::is_of_this_server(request.headers()) {
            true => Ok(Self(read(request, shared, MOST_BYTES_OF_ANYBODY).await?)),
            false => Err(Failure::foreign()),
        }
    }
}

async fn read(request: Request, shared: &Shared, most_bytes: usize) -> Result<Fields, Failure> {
    let within = shared.config.request_timeout;
    match tokio::time::timeout(within, to_bytes(request.into_body(), most_bytes)).await {
        Ok(Ok(bytes)) => Ok(Fields::parse(&bytes)),
        Ok(Err(_)) => {
            let message = format!("The form is longer than {most_bytes} bytes, or broke off. Nothing was stored.");
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "Too long", message))
        }
        Err(_) => {
            let message = format!("The form did not arrive within {} s. Nothing was stored.", within.as_secs());
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "Too slow", message))
        }
    }
}
