use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::caller::Caller;
use super::problem::{Problem, Problems};
use super::query::{limit, number, parameters};
use crate::approval::{ApprovalStore, Event, Refused};

/// What happened to an item, in order
#[utoipa::path(
    get,
    path = "/items/{id}/events",
    params(("id" = i64, Path)),
    responses((status = 200, body = Vec<Event>), Problems)
)]
pub(super) async fn of_item(caller: Caller, id: Result<Path<i64>, PathRejection>) -> Result<Json<Vec<Event>>, Problem> {
    let id = number(id)?;
    let read = move |store: &ApprovalStore| {
        store.item(id)?.ok_or(Refused::NoSuchItem { item: id })?;
        store.events(id)
    };
    Ok(Json(caller.tenant.approvals.read(read).await?))
}

/// Where in the log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Where {
    /// Events after this one; from the first where nothing is said.
    after: Option<i64>,
    /// How many, 1 to 200; 50 where nothing is said.
    limit: Option<usize>,
}

/// A part of the log.
#[derive(Serialize, ToSchema)]
pub(super) struct Log {
    events: Vec<Event>,
    /// The `after` that goes on from here, now or when there is more.
    next: i64,
}

/// The log of everything that happened
#[utoipa::path(get, path = "/events", params(Where), responses((status = 200, body = Log), Problems))]
pub(super) async fn log(caller: Caller, place: Result<Query<Where>, QueryRejection>) -> Result<Json<Log>, Problem> {
    let place = parameters(place)?;
    let (after, limit) = (place.after.unwrap_or(0), limit(place.limit)?);
    let events = caller.tenant.approvals.read(move |store| store.events_after(after, limit)).await?;
    let next = events.last().map_or(after, |last| last.id);
    Ok(Json(Log { events, next }))
}
