//! The API's own description.

use std::sync::OnceLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::problem::Problem;

/// What it says beside its paths.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tunesmith review",
        description = "Generated examples, and the decisions of people on them. A decision names the version and the digest of the \
                       text that was seen; where somebody was faster, it is refused."
    ),
    servers((url = "/api/v1")),
    components(schemas(Problem)),
    modifiers(&Tokens),
    security(("token" = []))
)]
pub(super) struct Document;

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A person's token, as `tunesmith people add` told it."))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(token));
    }
}

/// This document
#[utoipa::path(get, path = "/openapi.json", security(()), responses((status = 200, description = "OpenAPI 3.1")))]
pub(super) async fn document() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| {
        let (_, document) = super::documented().split_for_parts();
        document.to_json().unwrap_or_default() // texts only: nothing of it can fail
    });
    ([(CONTENT_TYPE, "application/json")], text.as_str()).into_response()
}
