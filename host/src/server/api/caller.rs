//! Whose token a request has.

use std::sync::Arc;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{Problem, Problems};
use crate::people::{Person, Role};
use crate::server::Shared;
use crate::server::access::Tenant;

/// A person, in the reviews of their tenant.
pub(super) struct Caller {
    pub(super) tenant: Arc<Tenant>,
    pub(super) person: Person,
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let (tenant, person) = shared.tenants.person(&parts.headers)?;
        Ok(Self { tenant, person })
    }
}

/// The person whose token it is.
#[derive(Serialize, ToSchema)]
pub(super) struct Me {
    tenant: String,
    /// What their decisions are signed with.
    name: String,
    role: Role,
}

/// Whose token this is
#[utoipa::path(get, path = "/me", responses((status = 200, body = Me), Problems))]
pub(super) async fn me(caller: Caller) -> Json<Me> {
    let Caller { tenant, person } = caller;
    Json(Me { tenant: tenant.access.tenant_id.clone(), name: person.name().to_owned(), role: person.role() })
}
