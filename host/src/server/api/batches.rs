use axum::Json;

use super::caller::Caller;
use super::problem::{Problem, Problems};
use crate::approval::{ApprovalStore, BatchSummary};

/// What generators gave, the newest first, and where its items stand
#[utoipa::path(get, path = "/batches", responses((status = 200, body = Vec<BatchSummary>), Problems))]
pub(super) async fn batches(caller: Caller) -> Result<Json<Vec<BatchSummary>>, Problem> {
    Ok(Json(caller.tenant.approvals.read(ApprovalStore::batches).await?))
}
