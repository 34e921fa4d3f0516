//! The paths below `/v1/`.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use serde::Deserialize;

use super::Worker;
use super::folder::Name;
use super::intake::{TakenOn, Wanted, disk};
use crate::remote::worker::contract::{BUNDLE_DIGEST, NEXT_OFFSET, RESOURCES, kind};
use crate::server::access::bearer;
use crate::server::api::Problem;
use crate::server::body::discard;

/// For the next piece of a bundle.
const PIECE: Duration = Duration::from_secs(60);

/// A handler's answer.
type Answer = Result<Response, Problem>;

/// What a worker serves.
pub(in crate::server) fn router(worker: Arc<Worker>) -> Router {
    Router::new()
        .route("/v1/worker", get(info))
        .route("/v1/jobs/{id}", get(status).put(submit).delete(remove))
        .route("/v1/jobs/{id}/logs", get(logs))
        .route("/v1/jobs/{id}/cancel", post(cancel))
        .route("/v1/jobs/{id}/artifact", get(artifact))
        .with_state(worker)
}

async fn info(State(worker): State<Arc<Worker>>, headers: HeaderMap) -> Answer {
    let worker = known(worker, &headers)?;
    if headers.contains_key(RESOURCES)
        && let Some(why) = worker.machine.refuses(&header(&headers, RESOURCES).and_then(resources)?)
    {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, kind::UNSCHEDULABLE, "No such machine", why));
    }
    let running = worker.state().running.as_ref().map(|running| running.record.id.clone());
    Ok(Json(worker.machine.info(running)).into_response())
}

async fn submit(State(worker): State<Arc<Worker>>, Path(id): Path<String>, headers: HeaderMap, body: Body) -> Answer {
    let wanted = known(Arc::clone(&worker), &headers).and_then(|_| wanted(id, &headers));
    let before = wanted.and_then(|wanted| Ok((worker.before(&wanted)?, wanted)));
    let wanted = match before {
        Ok((None, wanted)) => wanted,
        // Told at once: a bundle may be gigabytes.
        told => {
            discard(body, 1 << 20).await;
            return told.map(|(view, _)| Json(view).into_response());
        }
    };
    let packed = match body.is_end_stream() {
        true if !worker.has_bundle(&wanted.name) => {
            let detail = "no attempt before has brought the bundle: send it as the body";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, kind::NO_BUNDLE, "No bundle", detail));
        }
        true => None,
        false => Some(spooled(&worker, body).await?),
    };
    let taken_on = blocking(move || worker.take_on(&wanted, packed)).await?;
    Ok(match taken_on {
        TakenOn::New(view) => (StatusCode::ACCEPTED, Json(view)).into_response(),
        TakenOn::Already(view) => Json(view).into_response(),
    })
}

async fn status(State(worker): State<Arc<Worker>>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let worker = known(worker, &headers)?;
    let name = name(&id)?;
    let view = worker.view(&name).map_err(disk)?.ok_or_else(|| no_job(&id))?;
    Ok(Json(view).into_response())
}

#[derive(Debug, Deserialize)]
struct From {
    #[serde(default)]
    offset: u64,
}

async fn logs(
    State(worker): State<Arc<Worker>>,
    Path(id): Path<String>,
    Query(From { offset }): Query<From>,
    headers: HeaderMap,
) -> Answer {
    let worker = known(worker, &headers)?;
    let name = name(&id)?;
    worker.view(&name).map_err(disk)?.ok_or_else(|| no_job(&id))?;
    let bytes = worker.folder(&name.key).read_log(name.attempt, offset).map_err(disk)?;
    let next = offset.saturating_add(bytes.len() as u64).to_string();
    Ok(([(CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"), (NEXT_OFFSET, &next)], bytes).into_response())
}

async fn cancel(State(worker): State<Arc<Worker>>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let worker = known(worker, &headers)?;
    let view = worker.cancel(&name(&id)?).map_err(disk)?.ok_or_else(|| no_job(&id))?;
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

async fn artifact(State(worker): State<Arc<Worker>>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let worker = known(worker, &headers)?;
    let name = name(&id)?;
    let artifact = blocking(move || worker.artifact(&name)).await?;
    Ok(artifact.ok_or_else(|| no_job(&id))?.into_response())
}

async fn remove(State(worker): State<Arc<Worker>>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let worker = known(worker, &headers)?;
    let name = name(&id)?;
    worker.view(&name).map_err(disk)?.ok_or_else(|| no_job(&id))?;
    blocking(move || worker.remove(&name)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl Worker {
    /// Removes the job with all that it left.
    fn remove(&self, name: &Name) -> Result<(), Problem> {
        let place = tempfile::tempdir_in(self.incoming()).map_err(disk)?;
        {
            let state = self.state();
            if let Some(running) = state.running.as_ref().filter(|running| running.name.key == name.key) {
                let detail = format!("attempt `{}` runs: cancel it first", running.record.id);
                return Err(Problem::new(StatusCode::CONFLICT, kind::RUNNING, "It runs", detail));
            }
            // All of it at once, whatever becomes of the rest.
            fs::rename(self.folder(&name.key).path(), place.path().join(&name.key)).map_err(disk)?;
        }
        place.close().map_err(disk)
    }
}

/// The body in a file of its own, which is gone with it.
async fn spooled(worker: &Worker, mut body: Body) -> Result<File, Problem> {
    let max = worker.access.max_bundle;
    let too_large = || {
        let detail = format!("the bundle is longer than {max} bytes: raise `--max-bundle` of the worker");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, kind::TOO_LARGE, "Too large", detail)
    };
    if body.size_hint().lower() > max {
        discard(body, 1 << 20).await;
        return Err(too_large());
    }
    let broke_off = |what: String| {
        let detail = format!("the bundle broke off ({what}): send it again");
        Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "Broke off", detail)
    };
    let mut file = tempfile::tempfile_in(worker.incoming()).map_err(disk)?;
    let mut length = 0;
    loop {
        let frame = tokio::time::timeout(PIECE, body.frame()).await;
        let frame = frame.map_err(|_| broke_off(format!("nothing came for {} s", PIECE.as_secs())))?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|error| broke_off(error.to_string()))?.into_data() else { continue };
        length += data.len() as u64;
        if length > max {
            return Err(too_large());
        }
        file.write_all(&data).map_err(disk)?;
    }
    file.rewind().map_err(disk)?;
    Ok(file)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(disk(std::io::Error::other(error))))
}

/// The worker, for those who have its token.
fn known(worker: Arc<Worker>, headers: &HeaderMap) -> Result<Arc<Worker>, Problem> {
    match bearer(headers).is_some_and(|token| worker.knows(token)) {
        true => Ok(worker),
        false => {
            let detail =
                "this is not the worker's token: send `Authorization: Bearer TOKEN` with the one that its start names";
            Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Unauthenticated", detail))
        }
    }
}

fn wanted(id: String, headers: &HeaderMap) -> Result<Wanted, Problem> {
    let digest = header(headers, BUNDLE_DIGEST)?;
    if digest.len() != 64 || !digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Problem::malformed(BUNDLE_DIGEST, "64 hexadecimal digits in lower case are due"));
    }
    let resources = header(headers, RESOURCES).and_then(resources)?;
    Ok(Wanted { name: name(&id)?, digest: digest.to_owned(), resources, id })
}

fn resources(text: &str) -> Result<crate::remote::Resources, Problem> {
    serde_json::from_str(text).map_err(|error| Problem::malformed(RESOURCES, error))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Problem> {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| Problem::malformed(name, "this header is due"))
}

fn name(id: &str) -> Result<Name, Problem> {
    Name::parse(id).ok_or_else(|| Problem::malformed("id", "it is not `{tenant}-{digest}-{attempt}`"))
}

fn no_job(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, kind::NO_JOB, "No such job", format!("no job `{id}` is here"))
}
