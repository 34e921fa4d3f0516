use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::caller::Caller;
use super::problem::{Problem, Problems};
use super::query::{cursor, limit, number, opaque, parameters};
use crate::approval::{Filter, Item, Parent, Refused, State};
use crate::plugins::bindings::types::ExampleKind;

/// Which items; everything that is given has to hold.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// In this state.
    state: Option<State>,
    /// Of this batch.
    batch: Option<i64>,
    /// For this agent.
    agent_type: Option<String>,
    /// Of this kind.
    kind: Option<Kind>,
    /// With this text somewhere in them, in capitals or not.
    q: Option<String>,
    /// Decided last by this person.
    decided_by: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
    /// How many, 1 to 200; 50 where nothing is said.
    limit: Option<usize>,
}

/// What an item is good for.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// SFT.
    Instruction,
    /// DPO.
    Preference,
    /// Embedding models.
    Triplet,
}

impl From<Kind> for ExampleKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Instruction => Self::ApprovedExample,
            Kind::Preference => Self::PreferencePair,
            Kind::Triplet => Self::Triplet,
        }
    }
}

/// Items in the order of their numbers.
#[derive(Serialize, ToSchema)]
pub(super) struct Items {
    items: Vec<Item>,
    /// The `cursor` of the next page; none where this is the last.
    next: Option<String>,
}

/// Items, page by page
#[utoipa::path(get, path = "/items", params(Which), responses((status = 200, body = Items), Problems))]
pub(super) async fn items(caller: Caller, which: Result<Query<Which>, QueryRejection>) -> Result<Json<Items>, Problem> {
    let which = parameters(which)?;
    let (limit, after) = (limit(which.limit)?, which.cursor.as_deref().map(cursor).transpose()?);
    let filter = Filter {
        state: which.state,
        project: None,
        agent_type: which.agent_type,
        kind: which.kind.map(Into::into),
        batch: which.batch,
        text: which.q,
        decided_by: which.decided_by,
    };
    let page = caller.tenant.approvals.read(move |store| store.items(&filter, after, limit)).await?;
    Ok(Json(Items { items: page.items, next: page.next.map(opaque) }))
}

/// An item
#[utoipa::path(get, path = "/items/{id}", params(("id" = i64, Path)), responses((status = 200, body = Item), Problems))]
pub(super) async fn item(caller: Caller, id: Result<Path<i64>, PathRejection>) -> Result<Json<Item>, Problem> {
    let id = number(id)?;
    let item = caller.tenant.approvals.read(move |store| store.item(id)).await?;
    Ok(Json(item.ok_or(Refused::NoSuchItem { item: id })?))
}

/// The real examples that the generator was shown for an item
#[utoipa::path(
    get,
    path = "/items/{id}/parents",
    params(("id" = i64, Path)),
    responses((status = 200, body = Vec<Parent>), Problems)
)]
pub(super) async fn parents(
    caller: Caller,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Json<Vec<Parent>>, Problem> {
    let id = number(id)?;
    let read = move |store: &crate::approval::ApprovalStore| {
        store.item(id)?.ok_or(Refused::NoSuchItem { item: id })?;
        store.parents(id)
    };
    Ok(Json(caller.tenant.approvals.read(read).await?))
}
