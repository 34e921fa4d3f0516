//! Memory that requests may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::refusal::Refusal;

/// Bytes of requests that are read, or wait to be stored.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    total: usize,
}

impl Budget {
    pub(super) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), total })
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn room(self: &Arc<Self>) -> Room {
        Room { budget: Arc::clone(self), bytes: 0 }
    }
}

/// What one request has of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Room {
    /// Takes more, or nothing.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let within = |used: usize| used.checked_add(bytes).filter(|&used| used <= self.budget.total);
        match self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(Refusal::unavailable(
                "more requests wait than this server has memory for: send it again; where that goes on, its operator raises \
                 `queue_memory`, or its disk is slow",
            )),
        }
    }

    pub(super) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back_and_no_more_than_all_is_taken() {
        let budget = Budget::new(100);
        let (mut one, mut other) = (budget.room(), budget.room());
        one.grow(60).unwrap();
        let refusal = other.grow(41).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.retry_after_s), (503, Some(1)));
        assert_eq!(budget.used(), 60);
        other.grow(40).unwrap();
        one.shrink(1000);
        assert_eq!(budget.used(), 40);
        drop(other);
        assert_eq!(budget.used(), 0);
        assert!(one.grow(usize::MAX).is_err());
    }
}
