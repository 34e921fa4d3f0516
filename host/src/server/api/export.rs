//! Everything as JSON lines, read from the store as fast as it is taken.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa::IntoParams;

use super::caller::Caller;
use super::problem::{Problem, Problems};
use super::query::parameters;
use crate::approval::{ApprovalError, Cursor, Exported, Filter, Page, State};
use crate::server::approvals::Approvals;

/// Items that are read at once: some hundred KiB.
const CHUNK: usize = 200;

/// Which items.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// In this state.
    state: Option<State>,
    /// Of this batch.
    batch: Option<i64>,
}

/// Every item with its decisions, one JSON object a line
#[utoipa::path(
    get,
    path = "/export",
    params(Which),
    responses(
        (status = 200, content_type = "application/x-ndjson", body = Exported, description = "A line for each item"),
        Problems
    )
)]
pub(super) async fn export(caller: Caller, which: Result<Query<Which>, QueryRejection>) -> Result<Response, Problem> {
    let Which { state, batch } = parameters(which)?;
    let filter = Filter { state, batch, ..Filter::default() };
    let approvals = caller.tenant.approvals.clone();
    // A store that can't be read is told as a problem; after that an error ends the body before its end.
    let first = read(&approvals, &filter, None).await?;
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut page = first;
        loop {
            if send.send(Ok(lines(&page))).await.is_err() {
                return; // nobody listens any more
            }
            let Some(next) = page.next else { return };
            page = match read(&approvals, &filter, Some(next)).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!("{error}");
                    let _ = send.send(Err(error)).await;
                    return;
                }
            };
        }
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::new(Lines(receive))).into_response())
}

async fn read(approvals: &Approvals, filter: &Filter, after: Option<Cursor>) -> Result<Page<Exported>, ApprovalError> {
    let filter = filter.clone();
    approvals.read(move |store| store.export(&filter, after, CHUNK)).await
}

fn lines(page: &Page<Exported>) -> Bytes {
    let mut lines = Vec::new();
    for item in &page.items {
        let _ = serde_json::to_writer(&mut lines, item); // our own types: none of them has what JSON has not
        lines.push(b'\n');
    }
    lines.into()
}

/// A body that comes in pieces.
struct Lines(mpsc::Receiver<Result<Bytes, ApprovalError>>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = ApprovalError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ApprovalError>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
