//! Answers that go on: how many there may be, and that they end with the server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Of one tenant; each has a connection for as long as somebody looks.
const OF_A_TENANT: usize = 32;

/// All streams of a server.
pub(super) struct Streams {
    closing: watch::Sender<bool>,
    all: Arc<Semaphore>,
    tenants: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The right to one stream, for as long as it is kept.
pub(super) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_tenant: OwnedSemaphorePermit,
}

impl Streams {
    /// Half the connections at the most: the other half is for who sends spans, or decides.
    pub(super) fn new(max_connections: usize) -> Self {
        let all = Arc::new(Semaphore::new((max_connections / 2).max(1)));
        Self { closing: watch::Sender::new(false), all, tenants: Mutex::default() }
    }

    /// A place for one more of the tenant's; `None` where there is none left.
    pub(super) fn place(&self, tenant_id: &str) -> Option<Place> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let own = tenants.entry(tenant_id.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(OF_A_TENANT)));
        let _of_tenant = Arc::clone(own).try_acquire_owned().ok()?;
        let _of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _of_all, _of_tenant })
    }

    /// Ends all of them.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Waits for [`Streams::close`].
    pub(super) async fn closing(&self) {
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await; // its sender lives as long as this
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_share_and_all_have_half_the_connections() {
        let streams = Streams::new(80);
        let own: Vec<_> = (0..40).map_while(|_| streams.place("acme")).collect();
        assert_eq!(own.len(), 32);
        let others: Vec<_> = (0..40).map_while(|_| streams.place("beta")).collect();
        assert_eq!(others.len(), 8);
        drop(own);
        assert!(streams.place("acme").is_some());
    }
}
