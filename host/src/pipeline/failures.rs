//! What becomes of a batch that a plugin failed on: the run ends, or goes on without it.

use crate::config::OnFailure;
use crate::dataset::SkipTable;
use crate::plugins::PluginError;

/// Failures that are told one by one; a plugin that always fails would else write one a batch.
const MAX_TOLD: u64 = 20;

/// The batches of one plugin so far.
pub(super) struct BatchFailures {
    on_failure: OnFailure,
    first: Option<PluginError>,
    failed: u64,
    passed: u64,
}

impl BatchFailures {
    pub(super) fn new(on_failure: OnFailure) -> Self {
        Self { on_failure, first: None, failed: 0, passed: 0 }
    }

    /// What the plugin made of a batch; none where it failed and the run goes on: the batch's `items` are counted in
    /// `skipped` then.
    ///
    /// # Errors
    /// The plugin's, where failures end the run, or where it is not the plugin's failure.
    pub(super) fn settle<T>(
        &mut self,
        outcome: Result<T, PluginError>,
        items: usize,
        skipped: &mut SkipTable,
    ) -> Result<Option<T>, PluginError> {
        let error = match outcome {
            Ok(output) => {
                self.passed += 1;
                return Ok(Some(output));
            }
            Err(error) => error,
        };
        let (OnFailure::Skip, Some(reason)) = (self.on_failure, error.reason()) else { return Err(error) };
        skipped.add_many(&reason, items as u64);
        self.failed += 1;
        if self.failed <= MAX_TOLD {
            tracing::warn!("{error} ({items} left out)");
        }
        self.first.get_or_insert(error);
        Ok(None)
    }

    /// The last batch is done.
    ///
    /// # Errors
    /// The first failure, where there was no batch without one.
    pub(super) fn finish(self) -> Result<(), PluginError> {
        if self.failed > MAX_TOLD {
            tracing::warn!("{} more batches that a plugin failed on", self.failed - MAX_TOLD);
        }
        match self.first {
            Some(first) if self.passed == 0 => Err(first),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::{CallSite, Fault};

    fn failure(batch: usize, fault: Fault) -> Result<(), PluginError> {
        let site = CallSite { plugin: "p".into(), tenant: None, function: "format", batch: Some(batch) };
        Err(PluginError::Call { site: Box::new(site), fault })
    }

    fn trap() -> Fault {
        Fault::Trap { what: "x".into() }
    }

    #[test]
    fn by_default_the_first_failure_ends_the_run() {
        let mut skipped = SkipTable::default();
        let mut failures = BatchFailures::new(OnFailure::Fail);
        assert!(failures.settle(failure(1, trap()), 5, &mut skipped).is_err());
        assert_eq!(skipped.total(), 0);
    }

    #[test]
    fn a_batch_that_failed_is_counted_and_the_others_go_on() {
        let mut skipped = SkipTable::default();
        let mut failures = BatchFailures::new(OnFailure::Skip);
        assert_eq!(failures.settle(failure(1, trap()), 5, &mut skipped).unwrap(), None);
        assert_eq!(failures.settle(Ok(()), 7, &mut skipped).unwrap(), Some(()));
        assert_eq!(skipped.rows(), [("plugin `p` failed: trap", 5)]);
        assert!(failures.finish().is_ok());
    }

    #[test]
    fn where_every_batch_fails_the_run_ends_with_the_first() {
        let mut skipped = SkipTable::default();
        let mut failures = BatchFailures::new(OnFailure::Skip);
        for batch in [1, 2] {
            failures.settle(failure(batch, trap()), 5, &mut skipped).unwrap();
        }
        let error = failures.finish().unwrap_err().to_string();
        assert!(error.starts_with("plugin `p`, call `format` of batch 1: trapped: x"), "{error}");
    }

    #[test]
    fn a_failure_of_the_runtime_is_never_skipped() {
        let mut failures = BatchFailures::new(OnFailure::Skip);
        let fault = Fault::Runtime { what: "no memory".into() };
        assert!(failures.settle(failure(1, fault), 5, &mut SkipTable::default()).is_err());
    }
}
