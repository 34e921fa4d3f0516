//! The approval store of a tenant, for requests: one connection that reads and one that writes, each used by one request at a time,
//! off the threads that serve.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::access::Tenants;
use crate::approval::{ApprovalError, ApprovalStore};

/// Ends, for as long as the server serves, what nobody decided in time.
pub(super) async fn expire(tenants: &Tenants) {
    loop {
        for tenant in tenants.all().iter().filter(|tenant| tenant.access.approvals.exists()) {
            match tenant.approvals.write(ApprovalStore::expire).await {
                Ok(0) => {}
                Ok(n) => tracing::info!("`{}`: {n} items are expired", tenant.access.tenant_id),
                Err(error) => tracing::warn!("`{}`: {error}", tenant.access.tenant_id),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What expires is days old.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A tenant's approvals. The store is opened by the first who wants it, and anew where that failed.
#[derive(Clone)]
pub(super) struct Approvals {
    path: Arc<PathBuf>,
    reader: Arc<Mutex<Option<ApprovalStore>>>,
    writer: Arc<Mutex<Option<ApprovalStore>>>,
}

impl Approvals {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path), reader: Arc::default(), writer: Arc::default() }
    }

    /// What `work` reads of the store.
    ///
    /// # Errors
    /// The store's, and those of `work`.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ApprovalStore) -> Result<T, ApprovalError> + Send + 'static,
    ) -> Result<T, ApprovalError> {
        self.on(&self.reader, |store| work(store)).await
    }

    /// What `work` does to the store; it is on the disk when this returns.
    ///
    /// # Errors
    /// The store's, and those of `work`.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut ApprovalStore) -> Result<T, ApprovalError> + Send + 'static,
    ) -> Result<T, ApprovalError> {
        self.on(&self.writer, work).await
    }

    async fn on<T: Send + 'static>(
        &self,
        place: &Arc<Mutex<Option<ApprovalStore>>>,
        work: impl FnOnce(&mut ApprovalStore) -> Result<T, ApprovalError> + Send + 'static,
    ) -> Result<T, ApprovalError> {
        let (place, path) = (Arc::clone(place), Arc::clone(&self.path));
        let done = tokio::task::spawn_blocking(move || {
            // A panic leaves a store whose transaction was rolled back.
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            let store = match place.as_mut() {
                Some(store) => store,
                None => place.insert(ApprovalStore::open_or_create(&path)?),
            };
            let done = work(store);
            if matches!(done, Err(ApprovalError::Damaged { .. } | ApprovalError::Database { .. })) {
                *place = None; // somebody may put a whole file there
            }
            done
        });
        done.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}
