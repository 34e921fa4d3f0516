//! Why a request of the API is not served: `application/problem+json`, RFC 9457.

use std::collections::BTreeMap;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::approval::{ApprovalError, Refused};
use crate::people::Forbidden;
use crate::server::refusal::Refusal;

const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request is not served. Nothing of it is stored then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(in crate::server) struct Problem {
    /// Names the kind of problem, for programs: `urn:tunesmith:problem:stale`
    #[serde(rename = "type", serialize_with = "urn")]
    #[schema(value_type = String)]
    kind: &'static str,
    /// The kind of problem, for people.
    #[schema(value_type = String)]
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong, and what to do.
    #[schema(value_type = String)]
    detail: Box<str>,
    /// The item that did not take the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<i64>,
    /// The version that the item has now, where somebody was faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// Who was faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    who: Option<Box<str>>,
    /// The field, or the parameter, that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    field: Option<Box<str>>,
    #[serde(skip)]
    retry_after_s: Option<u32>,
}

impl Problem {
    pub(in crate::server) fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            title,
            status: status.as_u16(),
            detail: detail.into().into(),
            item: None,
            version: None,
            who: None,
            field: None,
            retry_after_s: None,
        }
    }

    /// Which may be served a little later.
    pub(in crate::server) fn after(self, seconds: u32) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// A field of the body, or a parameter, is not what it has to be.
    pub(in crate::server) fn malformed(field: &str, what: impl std::fmt::Display) -> Self {
        let problem =
            Self::new(StatusCode::BAD_REQUEST, "malformed", "Malformed request", format!("`{field}`: {what}"));
        Self { field: Some(field.into()), ..problem }
    }

    /// The body as a whole is not what it has to be.
    pub(super) fn not_json(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", "Malformed request", format!("the body is not JSON ({what})"))
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        let detail = "this path does not take that method: `/api/v1/openapi.json` has what each takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = refused.to_string();
        let (conflict, wrong) = (StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY);
        let (status, kind, title, item, field) = match &refused {
            Refused::NoSuchItem { item } => (StatusCode::NOT_FOUND, "not-found", "Not found", item, None),
            Refused::Stale { item, .. } => (conflict, "stale", "Somebody was faster", item, None),
            Refused::Decided { item, .. } => (conflict, "decided", "Decided already", item, None),
            Refused::NothingToUndo { item } => (conflict, "nothing-to-undo", "Nothing to undo", item, None),
            Refused::Empty { item, field } => (wrong, "empty", "A text is empty", item, Some(*field)),
            Refused::Unchanged { item } => (wrong, "unchanged", "Nothing was changed", item, Some("content")),
            Refused::OtherKind { item, .. } => (wrong, "other-kind", "Of another kind", item, Some("kind")),
            Refused::HeldOut { item, .. } => (wrong, "held-out", "Held out", item, Some("content")),
            Refused::SameSides { item, one, .. } => (wrong, "same-sides", "Both sides are the same", item, Some(*one)),
            Refused::Duplicate { item, .. } => (wrong, "duplicate", "A duplicate", item, Some("content")),
        };
        let problem = Self::new(status, kind, title, detail);
        let problem = Self { item: Some(*item), field: field.map(Into::into), ..problem };
        match refused {
            Refused::Stale { who, version, .. } => Self { who: Some(who.into()), version: Some(version), ..problem },
            _ => problem,
        }
    }
}

impl From<ApprovalError> for Problem {
    fn from(error: ApprovalError) -> Self {
        let detail = error.to_string();
        let ours = StatusCode::INTERNAL_SERVER_ERROR;
        let problem = match error {
            ApprovalError::Refused(refused) => return refused.into(),
            ApprovalError::Busy { .. } => {
                let busy = Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "The store is busy", detail);
                return Self { retry_after_s: Some(1), ..busy };
            }
            ApprovalError::Full { .. } => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", "The disk is full", detail)
            }
            ApprovalError::Damaged { .. } | ApprovalError::NotAStore { .. } => {
                Self::new(ours, "damaged", "The store is damaged", detail)
            }
            ApprovalError::Tampered { .. } => Self::new(ours, "tampered", "A text was changed", detail),
            _ => Self::new(ours, "store", "The store cannot be used", detail),
        };
        tracing::error!("{}", problem.detail);
        problem
    }
}

impl From<Forbidden> for Problem {
    fn from(forbidden: Forbidden) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", forbidden.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (kind, title) = match refusal.status {
            StatusCode::UNAUTHORIZED => ("unauthenticated", "Unauthenticated"),
            StatusCode::PAYLOAD_TOO_LARGE => ("too-large", "Too large"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("encoding", "Unknown encoding"),
            StatusCode::REQUEST_TIMEOUT => ("timeout", "Too slow"),
            StatusCode::SERVICE_UNAVAILABLE => ("busy", "The server is busy"),
            _ => ("malformed", "Malformed request"),
        };
        // The receiver's texts are on spans.
        let detail = match refusal.status {
            StatusCode::PAYLOAD_TOO_LARGE => "the body is longer than 1 MiB: decide on fewer items at once".to_owned(),
            StatusCode::REQUEST_TIMEOUT => "the body did not arrive in time: send it again".to_owned(),
            _ => refusal.message,
        };
        let problem = Self::new(refusal.status, kind, title, detail);
        Self { retry_after_s: refusal.retry_after_s, field: refusal.field.map(Into::into), ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default(); // texts and numbers: nothing of it can fail
        let mut response = (status, [(CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

fn urn<S: serde::Serializer>(kind: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("urn:tunesmith:problem:{kind}"))
}

/// What every path may answer instead, for the document.
pub(super) struct Problems;

/// And a path that decides.
pub(super) struct DecisionProblems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        responses(&[
            (400, "A parameter is malformed: `field` names it"),
            (401, "Nobody has this token"),
            (404, "There is no such thing"),
            (500, "The store is damaged or was changed by somebody else: `detail` says what to do"),
            (503, "Another program writes to the store: do it again after `Retry-After` seconds"),
        ])
    }
}

impl IntoResponses for DecisionProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let mut all = Problems::responses();
        all.extend(responses(&[
            (403, "The person's role is not enough"),
            (409, "Somebody was faster, or the item is decided already"),
            (413, "The body is longer than 1 MiB"),
            (422, "The edited content won't do: `field` names what is wrong with it"),
            (507, "The disk is full: nothing was stored"),
        ]));
        all
    }
}

fn responses(all: &[(u16, &str)]) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let response = |(status, description): &(u16, &str)| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(*description).content(MEDIA_TYPE, content).build();
        (status.to_string(), RefOr::T(response))
    };
    all.iter().map(response).collect()
}
