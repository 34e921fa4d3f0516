//! The other ranks' connections, and how long they are waited for.

use super::control::Control;
use super::{Share, Waiting};
use crate::{Result, TrainerError};
use std::time::Duration;

/// What ranks that have met say to each other beside gradients.
pub(crate) struct Link {
    share: Share,
    control: Control,
    timeout: Duration,
}

impl Link {
    pub(super) fn new(share: Share, control: Control, timeout: Duration) -> Self {
        Self { share, control, timeout }
    }

    /// Which rank this is.
    pub(crate) fn share(&self) -> Share {
        self.share
    }

    /// All ranks train on the same kind of device, or none does: their sums would not meet.
    pub(super) fn agree_on_device(&self, kind: &str) -> Result<()> {
        let theirs = self.broadcast(kind.as_bytes().to_vec())?;
        match theirs == kind.as_bytes() {
            true => Ok(()),
            false => Err(TrainerError::Collective {
                operation: "choosing the device".to_owned(),
                message: format!(
                    "rank 0 trains on `{}`, rank {} on `{kind}`; name one kind of device for all",
                    String::from_utf8_lossy(&theirs),
                    self.share.rank()
                ),
            }),
        }
    }

    /// What rank 0 gives, at all ranks.
    pub(crate) fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        self.control.broadcast(bytes, self.waiting())
    }

    /// Adds up over all ranks, in the order of the ranks: all get the same bits.
    pub(crate) fn sum(&self, values: &mut [f64]) -> Result<()> {
        self.control.sum(values, self.waiting())
    }

    /// From now on.
    pub(crate) fn waiting(&self) -> Waiting {
        Waiting::new(self.timeout)
    }

    /// Looks, while something else is waited for, whether the others are still there. A rank ends only after all have said
    /// that they are done: one that has ended is missed.
    pub(crate) fn check(&self, operation: &str, waiting: Waiting) -> Result<()> {
        match self.control.gone() {
            Some(rank) => Err(self.lost(rank)),
            None => waiting.check(operation),
        }
    }

    /// That a rank was lost, where it was: `error` is what came of it.
    pub(crate) fn reason(&self, error: TrainerError) -> TrainerError {
        self.control.gone_soon().map_or(error, |rank| self.lost(rank))
    }

    fn lost(&self, rank: usize) -> TrainerError {
        TrainerError::RankLost { rank, world_size: self.share.world_size() }
    }
}
