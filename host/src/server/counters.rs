//! What a server has taken in.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::progress::Stage;

/// A line about what was taken in, where anything was.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) spans: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) annotations: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// What a server took in from its start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Received {
    /// Spans that are stored; those that were stored before are counted again.
    pub spans: u64,
    /// Spans that could not be stored.
    pub rejected: u64,
    /// Annotations that are stored.
    pub annotations: u64,
    /// Requests that were refused whole.
    pub refused: u64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self) -> Received {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Received {
            spans: read(&self.spans),
            rejected: read(&self.rejected),
            annotations: read(&self.annotations),
            refused: read(&self.refused),
        }
    }

    /// Tells what was taken in, as long as it is asked.
    pub(super) async fn tell(&self, stage: &Stage) {
        let mut told = self.received();
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let now = self.received();
            if now != told {
                stage.at(now.spans, &now.beside_spans());
                told = now;
            }
        }
    }
}

impl Received {
    fn beside_spans(&self) -> String {
        let Self { rejected, annotations, refused, .. } = self;
        format!("spans ({rejected} rejected), {annotations} annotations, {refused} requests refused")
    }
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.spans, self.beside_spans())
    }
}
