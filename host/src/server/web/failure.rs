//! Pages that say no: what is wrong, that nothing was stored, and what to do.

use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use maud::html;

use super::layout;
use crate::approval::{ApprovalError, Refused};
use crate::people::{Forbidden, PeopleError};

/// Why a page is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    title: &'static str,
    pub(super) message: String,
    retry_after_s: Option<u64>,
    /// Where to go from here: a path, and what is there.
    to: Option<(&'static str, &'static str)>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, title: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            title,
            message: message.into(),
            retry_after_s: None,
            to: Some(("/review", "Back to the review")),
        }
    }

    pub(super) fn no_such_page() -> Self {
        let message = "Nothing is at this address: see what waits for review, or check the address.";
        Self::new(StatusCode::NOT_FOUND, "Not found", message)
    }

    pub(super) fn no_such_item(id: &str) -> Self {
        let message = format!("There is no item {id}: see which there are.");
        Self::new(StatusCode::NOT_FOUND, "Not found", message)
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "This address does not take such a request. Nothing was stored.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "Not allowed", message)
    }

    /// A form of another site, or of a session that is over.
    pub(super) fn foreign() -> Self {
        let message = "This form is not of your session at this server: it may be from another site, or from before you signed in \
                       anew. Nothing was stored. Go back to the review, and do it again there.";
        Self::new(StatusCode::FORBIDDEN, "Not taken", message)
    }

    /// A form without a session.
    pub(super) fn signed_out() -> Self {
        let message = "You are signed out: a session ends after 12 hours, with the server, or when your token is taken away. \
                       Nothing of what you sent was stored, and nothing of it is kept. Sign in, and do it again.";
        let failure = Self::new(StatusCode::UNAUTHORIZED, "Signed out", message);
        Self { to: Some(("/login", "Sign in")), ..failure }
    }

    pub(super) fn throttled(retry_after_s: u64) -> Self {
        let message = format!("Too many tokens from your address were nobody's. Try again in {retry_after_s} s.");
        let failure = Self::new(StatusCode::TOO_MANY_REQUESTS, "Wait a moment", message);
        Self { retry_after_s: Some(retry_after_s), to: Some(("/login", "Sign in")), ..failure }
    }

    pub(super) fn no_random(error: &getrandom::Error) -> Self {
        tracing::error!("nobody can sign in: the system gives no random numbers ({error})");
        let message = "This machine gives no random numbers, and nobody can sign in: ask who runs this server.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Out of order", message)
    }
}

impl From<Forbidden> for Failure {
    fn from(forbidden: Forbidden) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Not yours to do", format!("{forbidden}. Nothing was stored."))
    }
}

impl From<PeopleError> for Failure {
    fn from(error: PeopleError) -> Self {
        tracing::error!("{error}");
        let message = "The file of people cannot be read, and so nobody is known. Nothing was stored. Who runs this server finds \
                       why in its log.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Out of order", message)
    }
}

/// The log has the error itself, and the paths in it.
impl From<ApprovalError> for Failure {
    fn from(error: ApprovalError) -> Self {
        let (status, title, message) = match &error {
            ApprovalError::Refused(Refused::NoSuchItem { item }) => return Self::no_such_item(&item.to_string()),
            ApprovalError::Refused(refused) => {
                return Self::new(StatusCode::CONFLICT, "Not taken", format!("{refused}. Nothing was stored."));
            }
            ApprovalError::Busy { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Busy",
                "Another program writes to the approval store and did not end. Nothing was stored: do it again.",
            ),
            ApprovalError::Full { .. } => (
                StatusCode::INSUFFICIENT_STORAGE,
                "Disk full",
                "The disk of the approval store is full. Nothing was stored: ask who runs this server to make room, then do it again.",
            ),
            ApprovalError::Damaged { .. } | ApprovalError::Tampered { .. } => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Store damaged",
                "The approval store is damaged. Nothing was stored: who runs this server finds in its log what to do.",
            ),
            ApprovalError::NotFound { .. }
            | ApprovalError::Exists { .. }
            | ApprovalError::Folder { .. }
            | ApprovalError::NotAStore { .. }
            | ApprovalError::NewerSchema { .. }
            | ApprovalError::Database { .. }
            | ApprovalError::Journal { .. } => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Out of order",
                "The approval store cannot be used. Nothing was stored: who runs this server finds why in its log.",
            ),
        };
        tracing::error!("{error}");
        let retry_after_s = matches!(error, ApprovalError::Busy { .. }).then_some(1);
        Self { retry_after_s, ..Self::new(status, title, message) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let page = layout::plain(
            self.title,
            html! {
                h1 { (self.title) }
                p.alert role="alert" { (self.message) }
                @if let Some((path, what)) = self.to {
                    p { a href=(path) { (what) } }
                }
            },
        );
        let mut response = (self.status, page).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
