//! Pages of runs and of the adapters that they gave.

mod events;
mod list;
mod page;
mod parts;
mod plot;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;

use super::failure::Failure;
use super::layout;
use super::session::SignedIn;
use crate::runs::{self, RunStore, runs_beside};
use crate::server::Shared;
use crate::server::run_folders::RunFolders;

/// Runs of a page.
const PAGE: usize = 50;

/// Where a page of a list starts.
#[derive(Deserialize)]
struct Start {
    after: Option<String>,
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/runs", get(runs))
        .route("/runs/{name}", get(run))
        .route("/runs/{name}/events", get(follow))
        .route("/adapters", get(adapters))
}

/// Where a run's page is. Names of runs need no escape: see [`crate::config::is_folder_name`].
fn path(name: &str) -> String {
    format!("/runs/{name}")
}

async fn runs(signed_in: SignedIn, Query(start): Query<Start>) -> Result<Response, Failure> {
    let waiting = RunStore::new(runs_beside(&signed_in.tenant.access.approvals));
    let (page, waiting) = read(&signed_in, move |runs| {
        let mut waiting = waiting.list().unwrap_or_else(|error| {
            tracing::warn!("runs that wait can't be listed: {error}");
            Vec::new()
        });
        waiting.retain(|run| run.state == runs::RunState::Waiting);
        (runs.page(start.after.as_deref(), PAGE), waiting)
    })
    .await?;
    Ok(layout::page(&signed_in, "/runs", "Runs", list::runs(&page, &waiting)))
}

async fn adapters(signed_in: SignedIn, Query(start): Query<Start>) -> Result<Response, Failure> {
    let page = read(&signed_in, move |runs| runs.adapters(start.after.as_deref(), PAGE)).await?;
    Ok(layout::page(&signed_in, "/adapters", "Adapters", list::adapters(&page)))
}

async fn run(signed_in: SignedIn, Path(name): Path<String>) -> Result<Response, Failure> {
    let found = read(&signed_in, {
        let name = name.clone();
        move |runs| runs.details(&name)
    })
    .await?;
    let details = found.ok_or_else(|| no_such_run(&name))?;
    Ok(layout::page(&signed_in, "/runs", &name, page::run(&details)))
}

async fn follow(
    State(shared): State<Arc<Shared>>,
    signed_in: SignedIn,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    let folder = read(&signed_in, {
        let name = name.clone();
        move |runs| runs.find(&name)
    })
    .await?;
    let folder = folder.ok_or_else(|| no_such_run(&name))?;
    let place = shared.streams.place(&signed_in.tenant.access.tenant_id).ok_or_else(|| {
        let message = "As many pages follow runs as this server allows: close one, or reload this one later.";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "Busy", message)
    })?;
    let runs = RunFolders::new(&signed_in.tenant.access.output_dir);
    Ok(events::stream(shared, signed_in, runs, folder, place))
}

fn no_such_run(name: &str) -> Failure {
    let message = format!("There is no run {name}: it may have failed, or its folder was removed.");
    Failure::new(StatusCode::NOT_FOUND, "Not found", message)
}

/// What `work` reads of the run folders of a person's tenant, off the threads that serve.
async fn read<T: Send + 'static>(
    signed_in: &SignedIn,
    work: impl FnOnce(&RunFolders) -> T + Send + 'static,
) -> Result<T, Failure> {
    let runs = RunFolders::new(&signed_in.tenant.access.output_dir);
    let read = tokio::task::spawn_blocking(move || work(&runs)).await;
    Ok(read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())))
}
