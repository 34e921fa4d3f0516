//! Runs, and the adapters that they gave.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use serde::Deserialize;
use utoipa::IntoParams;

use super::caller::Caller;
use super::problem::{Problem, Problems};
use super::query;
use crate::server::run_folders::{RunDetails, RunFolders, RunPage};

/// Which part of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// At most so many, 1 to 200 [default: 50]
    limit: Option<usize>,
    /// The `next` of the answer before
    cursor: Option<String>,
}

/// Runs, the newest first: those that train, those that were stopped, and those that are finished
#[utoipa::path(get, path = "/runs", params(Part), responses((status = 200, body = RunPage), Problems))]
pub(super) async fn runs(caller: Caller, part: Result<Query<Part>, QueryRejection>) -> Result<Json<RunPage>, Problem> {
    let (limit, cursor) = place(part)?;
    Ok(Json(read(&caller, move |runs| runs.page(cursor.as_deref(), limit)).await))
}

/// Finished runs with what their adapters came to, the newest first
#[utoipa::path(get, path = "/adapters", params(Part), responses((status = 200, body = RunPage), Problems))]
pub(super) async fn adapters(
    caller: Caller,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Json<RunPage>, Problem> {
    let (limit, cursor) = place(part)?;
    Ok(Json(read(&caller, move |runs| runs.adapters(cursor.as_deref(), limit)).await))
}

/// A run: what it measured, what it was trained on, and who approved what was generated
#[utoipa::path(
    get, path = "/runs/{name}", params(("name" = String, Path, description = "The run's name")),
    responses((status = 200, body = RunDetails), Problems)
)]
pub(super) async fn run(
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<RunDetails>, Problem> {
    let no_such_run = || Problem::not_found("there is no such run: `/api/v1/runs` has those there are");
    let Path(name) = name.map_err(|_| no_such_run())?;
    read(&caller, move |runs| runs.details(&name)).await.map(Json).ok_or_else(no_such_run)
}

fn place(part: Result<Query<Part>, QueryRejection>) -> Result<(usize, Option<String>), Problem> {
    let Part { limit, cursor } = query::parameters(part)?;
    Ok((query::limit(limit)?, cursor))
}

/// Off the threads that serve.
async fn read<T: Send + 'static>(caller: &Caller, work: impl FnOnce(&RunFolders) -> T + Send + 'static) -> T {
    let runs = RunFolders::new(&caller.tenant.access.output_dir);
    let read = tokio::task::spawn_blocking(move || work(&runs)).await;
    read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
