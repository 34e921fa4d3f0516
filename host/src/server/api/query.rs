//! Parameters of a request, and places in a list.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::problem::Problem;
use crate::approval::Cursor;

/// The most that a page has.
pub(super) const MOST: usize = 200;
/// What it has where nobody says.
pub(super) const USUAL: usize = 50;

/// The parameters, or which of them is wrong.
pub(super) fn parameters<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(parameters)| parameters).map_err(|rejection| {
        let text = rejection.body_text();
        let what = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        match what.split_once(": ") {
            Some((field, what)) => Problem::malformed(field, what),
            // An unknown one is in the text.
            None => Problem::malformed("query", what),
        }
    })
}

/// The number of an item in a path.
pub(super) fn number(path: Result<Path<i64>, PathRejection>) -> Result<i64, Problem> {
    path.map(|Path(id)| id).map_err(|_| Problem::malformed("id", "not the number of an item"))
}

/// How much was asked for.
pub(super) fn limit(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(USUAL) {
        limit @ 1..=MOST => Ok(limit),
        other => Err(Problem::malformed("limit", format!("{other} is not from 1 to {MOST}"))),
    }
}

/// A place, as clients hand it back without knowing what it is.
pub(super) fn opaque(cursor: Cursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("after:{}", cursor.0))
}

pub(super) fn cursor(text: &str) -> Result<Cursor, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let id = bytes.and_then(|bytes| String::from_utf8(bytes).ok()?.strip_prefix("after:")?.parse().ok());
    id.map(Cursor).ok_or_else(|| Problem::malformed("cursor", "not a `next` of an answer: start without one"))
}
