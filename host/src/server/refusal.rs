//! Requests that are not served: a status, and a text that says what to do.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use prost::Message;

use crate::telemetry::Encoding;

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    pub(super) retry_after_s: Option<u32>,
    /// The field of feedback that is wrong.
    pub(super) field: Option<String>,
}

/// `google.rpc.Status`, which OTLP answers errors with.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after_s: None, field: None }
    }

    /// The same for a token that is missing, wrong or nobody's.
    pub(super) fn unauthenticated() -> Self {
        let message =
            "no tenant has this token: send `Authorization: Bearer TOKEN` with the token of this server's operator";
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// The same for a person's token that is missing, wrong or nobody's.
    pub(super) fn nobody() -> Self {
        let message =
            "nobody has this token: send `Authorization: Bearer TOKEN` with the one that `tunesmith people add` told";
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(super) fn too_long(max_body: usize) -> Self {
        let message = format!(
            "the request is longer than {max_body} bytes, compressed or not: send fewer spans at once \
             (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`), or raise `max_body` of this server"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after_s: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// Until somebody makes room on the disk.
    pub(super) fn full(message: impl Into<String>) -> Self {
        Self { retry_after_s: Some(60), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// In the request's own encoding, or as plain text where that is none of ours.
    pub(super) fn response(self, encoding: Option<Encoding>) -> Response {
        let code = rpc_code(self.status);
        let (content_type, body) = match encoding {
            Some(Encoding::Protobuf) => {
                let status = RpcStatus { code, message: self.message };
                ("application/x-protobuf", status.encode_to_vec())
            }
            Some(Encoding::Json) => {
                let mut status = serde_json::json!({ "code": code, "message": self.message });
                if let Some(field) = self.field {
                    status["field"] = field.into();
                }
                ("application/json", status.to_string().into_bytes())
            }
            None => ("text/plain; charset=utf-8", format!("{}\n", self.message).into_bytes()),
        };
        let mut response = (self.status, [(CONTENT_TYPE, content_type)], body).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// `google.rpc.Code`
fn rpc_code(status: StatusCode) -> i32 {
    match status {
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::NOT_FOUND => 5,
        StatusCode::REQUEST_TIMEOUT => 4,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS => 8,
        StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 3,
    }
}

pub(super) fn no_such_path() -> Response {
    let message =
        "nothing is here: POST /v1/traces, POST /v1/annotations, GET /v1/analysis and GET /healthz are served";
    Refusal::new(StatusCode::NOT_FOUND, message).response(None)
}
