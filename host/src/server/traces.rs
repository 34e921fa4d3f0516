//! `POST /v1/traces`: OTLP/HTTP, in protobuf or JSON.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message;

use super::Shared;
use super::body::{self, Compression};
use super::counters::Counters;
use super::refusal::Refusal;
use super::room::Room;
use super::store_writer::Work;
use crate::telemetry::{Encoding, SpanRow, received};

/// Of spans that name no project.
const DEFAULT_PROJECT: &str = "default";

/// What of a request can be stored, and what can't.
#[derive(Default)]
struct Decoded {
    rows: Vec<(String, SpanRow)>,
    rejected: usize,
    first_reason: Option<String>,
}

pub(super) async fn receive(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let encoding = encoding(request.headers());
    match take(&shared, request, encoding).await {
        Ok((encoding, rejected, first_reason)) => accepted(encoding, rejected, first_reason),
        Err(refusal) => {
            Counters::add(&shared.counters.refused, 1);
            refusal.response(encoding)
        }
    }
}

async fn take(
    shared: &Shared,
    request: Request,
    encoding: Option<Encoding>,
) -> Result<(Encoding, usize, Option<String>), Refusal> {
    let config = &shared.config;
    let (head, body) = request.into_parts();
    let admitted = (|| {
        let tenant = shared.tenants.of(&head.headers)?;
        let encoding = encoding.ok_or_else(unknown_type)?;
        let compression = Compression::of(&head.headers)?;
        tenant.writer()?.check_disk(0)?;
        Ok((tenant, encoding, compression))
    })();
    let (tenant, encoding, compression) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            body::discard(body, config.max_body).await;
            return Err(refusal);
        }
    };
    let mut room = tenant.writer()?.budget.room();
    let bytes = body::read(body, config.max_body, config.request_timeout, &mut room).await?;

    let permit = Arc::clone(&shared.decoding).acquire_owned().await;
    let (max_body, max_span) = (config.max_body, config.max_span);
    let decoding = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let bytes = body::inflate(bytes, compression, max_body, &mut room)?;
        Ok((decode(encoding, &bytes, max_span, &mut room)?, room))
    });
    let (decoded, room) = decoding.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;

    let Decoded { rows, rejected, first_reason } = decoded;
    if !rows.is_empty() {
        tenant.writer()?.write(Work::Spans(rows), room).await?;
    }
    Counters::add(&shared.counters.rejected, rejected);
    Ok((encoding, rejected, first_reason))
}

fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    match value.split(';').next()?.trim().to_ascii_lowercase().as_str() {
        "application/x-protobuf" => Some(Encoding::Protobuf),
        "application/json" => Some(Encoding::Json),
        _ => None,
    }
}

fn unknown_type() -> Refusal {
    let message = "the content type is not known: send `application/x-protobuf` or `application/json`";
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
}

fn decode(encoding: Encoding, bytes: &[u8], max_span: usize, room: &mut Room) -> Result<Decoded, Refusal> {
    let mut decoded = Decoded::default();
    let mut no_room = None;
    let request = received(encoding, bytes, max_span, &mut |each| match each {
        Ok((project, span)) if no_room.is_none() => {
            let project = project.unwrap_or_else(|| DEFAULT_PROJECT.to_owned());
            let row = SpanRow::new(&span);
            match room.grow(project.len() + row.bytes()) {
                Ok(()) => decoded.rows.push((project, row)),
                Err(refusal) => no_room = Some(refusal),
            }
        }
        Ok(_) => {}
        Err(reason) => {
            decoded.rejected += 1;
            decoded.first_reason.get_or_insert(reason);
        }
    });
    request.map_err(|reason| Refusal::new(StatusCode::BAD_REQUEST, reason))?;
    room.shrink(bytes.len());
    no_room.map_or(Ok(decoded), Err)
}

fn accepted(encoding: Encoding, rejected: usize, first_reason: Option<String>) -> Response {
    let partial_success = first_reason.map(|reason| ExportTracePartialSuccess {
        rejected_spans: i64::try_from(rejected).unwrap_or(i64::MAX),
        error_message: format!("{rejected} spans cannot be stored, of which the first: {reason}"),
    });
    match encoding {
        Encoding::Protobuf => {
            let response = ExportTraceServiceResponse { partial_success };
            ([(CONTENT_TYPE, "application/x-protobuf")], response.encode_to_vec()).into_response()
        }
        Encoding::Json => {
            let response = match partial_success {
                // 64-bit numbers are texts in the JSON mapping.
                Some(ExportTracePartialSuccess { rejected_spans, error_message }) => serde_json::json!({
                    "partialSuccess": { "rejectedSpans": rejected_spans.to_string(), "errorMessage": error_message }
                }),
                None => serde_json::json!({}),
            };
            ([(CONTENT_TYPE, "application/json")], response.to_string()).into_response()
        }
    }
}
