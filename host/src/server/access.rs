//! Who may write into which store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::analysis::Desk;
use super::approvals::Approvals;
use super::error::ServerError;
use super::refusal::Refusal;
use super::room::Budget;
use super::store_writer::StoreWriter;
use super::token;
use crate::people::{People, Person};

/// A tenant, as the operator describes it: who has the token writes into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantAccess {
    /// For the log.
    pub tenant_id: String,
    /// Of the token that its clients send; none where no telemetry is received.
    pub token_sha256: Option<[u8; 32]>,
    /// Its telemetry store.
    pub store: PathBuf,
    /// Its approval store.
    pub approvals: PathBuf,
    /// Its file of people.
    pub people: PathBuf,
    /// Its folder of run folders.
    pub output_dir: PathBuf,
    /// Bytes that the store may take of the disk.
    pub store_quota: Option<u64>,
}

/// A tenant whose store is open.
pub(super) struct Tenant {
    pub(super) access: TenantAccess,
    writer: Option<StoreWriter>,
    pub(super) desk: Desk,
    pub(super) approvals: Approvals,
    /// Memory of requests that are decisions.
    pub(super) budget: Arc<Budget>,
}

/// Bodies of decisions are short: many at once find room.
const DECISIONS: usize = 32 << 20;

impl Tenant {
    pub(super) fn new(access: TenantAccess, writer: Option<StoreWriter>) -> Self {
        let approvals = Approvals::new(access.approvals.clone());
        Self { access, writer, desk: Desk::new(), approvals, budget: Budget::new(DECISIONS) }
    }

    /// What writes to its telemetry store.
    pub(super) fn writer(&self) -> Result<&StoreWriter, Refusal> {
        self.writer.as_ref().ok_or_else(Refusal::unauthenticated)
    }
}

pub(super) struct Tenants(Vec<Arc<Tenant>>);

impl Tenants {
    pub(super) fn new(tenants: Vec<Tenant>) -> Self {
        Self(tenants.into_iter().map(Arc::new).collect())
    }

    /// Whose token a request has. How long the answer takes does not depend on it.
    pub(super) fn of(&self, headers: &HeaderMap) -> Result<Arc<Tenant>, Refusal> {
        let given = bearer(headers).filter(|token| !token.is_empty()).ok_or_else(Refusal::unauthenticated)?;
        let given = token::sha256(given);
        let mut found = u64::MAX;
        for (index, tenant) in (0..).zip(&self.0) {
            if let Some(token) = &tenant.access.token_sha256 {
                found.conditional_assign(&index, token.ct_eq(&given));
            }
        }
        let tenant = usize::try_from(found).ok().and_then(|index| self.0.get(index));
        tenant.cloned().ok_or_else(Refusal::unauthenticated)
    }

    /// Whether telemetry is received for any.
    pub(super) fn receive(&self) -> bool {
        self.0.iter().any(|tenant| tenant.access.token_sha256.is_some())
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Arc<Tenant>] {
        &self.0
    }

    /// By its name.
    pub(super) fn named(&self, tenant_id: &str) -> Option<Arc<Tenant>> {
        self.0.iter().find(|tenant| tenant.access.tenant_id == tenant_id).cloned()
    }

    /// Who the person is whose token a request has, and in whose reviews. The files of people are read each time: they are small, and
    /// who was removed is out at once.
    pub(super) fn person(&self, headers: &HeaderMap) -> Result<(Arc<Tenant>, Person), Refusal> {
        let given = bearer(headers).filter(|token| !token.is_empty()).ok_or_else(Refusal::nobody)?;
        self.person_of_token(given).ok_or_else(Refusal::nobody)
    }

    /// As [`Tenants::person`], of the token alone.
    pub(super) fn person_of_token(&self, token: &str) -> Option<(Arc<Tenant>, Person)> {
        let mut found = None;
        for tenant in &self.0 {
            match People::open(&tenant.access.people) {
                Ok(people) => found = people.of_token(token).map(|person| (Arc::clone(tenant), person)).or(found),
                Err(error) => tracing::error!("tenant `{}`: {error}", tenant.access.tenant_id),
            }
        }
        found
    }
}

/// No two tenants have one token or one store.
pub(super) fn check(tenants: &[TenantAccess]) -> Result<(), ServerError> {
    for (index, one) in tenants.iter().enumerate() {
        for other in &tenants[index + 1..] {
            let shared = match () {
                () if one.token_sha256.is_some() && one.token_sha256 == other.token_sha256 => "token",
                () if same_file(&one.store, &other.store) => "store",
                () => continue,
            };
            let (one, other) = (one.tenant_id.clone(), other.tenant_id.clone());
            return Err(ServerError::Shared { shared, one, other });
        }
    }
    Ok(())
}

/// By whatever path or link, as far as there is a file.
fn same_file(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(path), ..) => path,
        (Err(_), Some(folder), Some(name)) => folder.canonicalize().unwrap_or_else(|_| folder.to_owned()).join(name),
        _ => path.to_owned(),
    };
    place(one) == place(other)
}

/// The token of `Authorization: Bearer TOKEN`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
