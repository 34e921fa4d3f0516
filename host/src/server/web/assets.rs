//! The style sheet and the script, in the binary.

use std::sync::LazyLock;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

const CSS: &str = concat!(include_str!("assets/app.css"), include_str!("assets/runs.css"));
const JS: &str = concat!(include_str!("assets/app.js"), include_str!("assets/runs.js"));

/// Named by their contents, so that browsers keep them and never use those of another release.
static CSS_PATH: LazyLock<String> = LazyLock::new(|| format!("/assets/app.css?{}", digest(CSS)));
static JS_PATH: LazyLock<String> = LazyLock::new(|| format!("/assets/app.js?{}", digest(JS)));

pub(super) fn css_path() -> &'static str {
    &CSS_PATH
}

pub(super) fn js_path() -> &'static str {
    &JS_PATH
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

pub(super) async fn css() -> Response {
    asset("text/css; charset=utf-8", CSS)
}

pub(super) async fn js() -> Response {
    asset("text/javascript; charset=utf-8", JS)
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")], text).into_response()
}
