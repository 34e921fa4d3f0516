//! The bytes of a request, within limits.

use std::io::Read;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header::CONTENT_ENCODING;
use axum::http::{HeaderMap, StatusCode};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;

use super::refusal::Refusal;
use super::room::Room;

/// A step of inflating, after which its limits are looked at.
const STEP: usize = 64 << 10;
/// How long a client whose request is refused may go on sending it: one that can't end does not read the answer.
const DISCARDING: Duration = Duration::from_secs(2);

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
}

impl Compression {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"" | b"identity") => Ok(Self::None),
            Some(b"gzip" | b"x-gzip") => Ok(Self::Gzip),
            Some(other) => {
                let message = format!(
                    "the content encoding `{}` is not known: send `gzip`, or none",
                    String::from_utf8_lossy(other).escape_default()
                );
                Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
            }
        }
    }
}

/// All of a body as it came, of which there is room for.
pub(super) async fn read(mut body: Body, max: usize, within: Duration, room: &mut Room) -> Result<Vec<u8>, Refusal> {
    if body.size_hint().lower() > max as u64 {
        discard(body, max).await;
        return Err(Refusal::too_long(max));
    }
    let frames = async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Refusal::new(StatusCode::BAD_REQUEST, format!("the request broke off ({error}): send it again"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > max {
                return Err(Refusal::too_long(max));
            }
            room.grow(data.len())?;
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    };
    let read = tokio::time::timeout(within, frames).await.unwrap_or_else(|_| {
        let message = format!("the request did not arrive within {} s: send fewer spans at once", within.as_secs());
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message))
    });
    if read.is_err() {
        discard(body, max).await;
    }
    read
}

/// Reads on for a while what nobody wants.
pub(super) async fn discard(mut body: Body, max: usize) {
    let frames = async {
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, |data| data.len());
            if length > max {
                break;
            }
        }
    };
    // Who is still sending then has to live with a connection that is closed.
    let _ = tokio::time::timeout(DISCARDING, frames).await;
}

/// What a body is, uncompressed.
pub(super) fn inflate(
    bytes: Vec<u8>,
    compression: Compression,
    max: usize,
    room: &mut Room,
) -> Result<Vec<u8>, Refusal> {
    if compression == Compression::None {
        return Ok(bytes);
    }
    let mut decoder = MultiGzDecoder::new(bytes.as_slice());
    let mut inflated = Vec::new();
    loop {
        let before = inflated.len();
        let read = decoder.by_ref().take(STEP as u64).read_to_end(&mut inflated);
        read.map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not gzip as it says ({error})"))
        })?;
        let step = inflated.len() - before;
        if step == 0 {
            room.shrink(bytes.len());
            return Ok(inflated);
        }
        if inflated.len() > max {
            return Err(Refusal::too_long(max));
        }
        room.grow(step)?;
    }
}
