//! Training on more than one rank: every rank has the data and the frozen model, computes its [`Share`] of each optimiser
//! step, and updates with the sum of all ranks' gradients.
//!
//! [`Ranks`] is what the launcher says, [`Group`] are ranks that have met, a [`Collective`] adds up over them: `cpu/mpi.rs` or
//! `cuda/nccl.rs`. The loss is normalised over the whole step, so that a sum is all that is needed.

mod control;
mod environment;
mod evaluation;
mod frame;
mod launch;
mod link;
mod pmi;
mod rendezvous;
mod share;
#[cfg(test)]
mod tests;

pub use share::Share;

pub(crate) use evaluation::sum_evaluation;
pub(crate) use launch::Processes;
pub(crate) use link::Link;
pub(crate) use share::cut;

use crate::device::{Device, StepState, Trainable};
use crate::{Result, TrainerError};
use control::Control;
use frame::Purpose;
use rendezvous::Place;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// What a run over several ranks needs of them. All ranks make the same calls in the same order; each gets the same bits.
pub trait Collective<D: Device> {
    /// Which rank this is.
    fn share(&self) -> Share;

    /// Adds up, over all ranks, every gradient and the sums of a step. Allocates nothing, and may return before it is done:
    /// what the device does next comes after it.
    ///
    /// # Errors
    /// [`TrainerError::RankLost`]; [`TrainerError::Collective`].
    fn sum_step(
        &mut self,
        device: &D,
        state: &mut StepState<D>,
        trained: &mut [Trainable<D>],
        optimizer: &D::Optimizer,
    ) -> Result<()>;

    /// Adds up values of the host, and waits for it.
    ///
    /// # Errors
    /// [`TrainerError::RankLost`]; [`TrainerError::Collective`].
    fn sum(&mut self, values: &mut [f64]) -> Result<()>;

    /// Waits until what was begun is done: a device that waits for a rank that was lost would wait for ever.
    ///
    /// # Errors
    /// [`TrainerError::RankLost`]; [`TrainerError::Collective`].
    fn wait(&mut self, device: &D) -> Result<()>;

    /// The run failed here: no other rank is waited for when this is dropped.
    fn give_up(&mut self) {}
}

/// How long ranks wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For all to come.
    pub rendezvous: Duration,
    /// For all to end their part of a step. A rank whose process ends is missed at once, whatever this is.
    pub step: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { rendezvous: Duration::from_secs(120), step: Duration::from_secs(600) }
    }
}

/// Which rank of how many this process is, as its launcher says: torchrun, an MPI launcher, or Slurm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranks {
    share: Share,
    local_rank: usize,
    /// Where they meet.
    address: Option<(String, u16)>,
    /// Whether the launcher has joined the processes for MPI.
    joins_mpi: bool,
}

impl Ranks {
    /// Reads the environment; `None` where it says nothing, or that there is one rank.
    ///
    /// # Errors
    /// [`TrainerError::RankEnvironment`] where it says half of it, or nonsense.
    pub fn from_environment() -> Result<Option<Self>> {
        environment::read(|name| std::env::var(name).ok())
    }

    /// From 0. Rank 0 writes what the run gives; the others write nothing.
    pub fn rank(&self) -> usize {
        self.share.rank()
    }

    /// How many ranks there are.
    pub fn world_size(&self) -> usize {
        self.share.world_size()
    }

    /// Which of the ranks on its host, from 0.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Which GPU is this rank's, of as many as it sees: the launcher may have hidden the others' from it.
    pub fn gpu(&self, visible: usize) -> usize {
        if visible == 1 { 0 } else { self.local_rank }
    }

    /// Waits for the others to come. To be called early, before a model is loaded: ranks that load at different speeds
    /// wait for each other at their first step.
    ///
    /// # Errors
    /// [`TrainerError::Rendezvous`], which says who is missing.
    pub fn meet(&self, timeouts: Timeouts) -> Result<Group> {
        let Ranks { share, address, joins_mpi, .. } = self.clone();
        let Some((host, port)) = address else {
            return Ok(Group { share, joins_mpi, timeouts, met: None });
        };
        let place = Place { host, port, share, timeout: timeouts.rendezvous };
        let (listener, streams) = match share.rank() {
            0 => {
                let listener = place.listen()?;
                let streams = place.gather(&listener, Purpose::Control)?;
                (Some(listener), streams)
            }
            _ => (None, vec![place.come(Purpose::Control)?]),
        };
        let control = Control::new(share, streams).map_err(|error| TrainerError::Collective {
            operation: "a thread for each rank".to_owned(),
            message: error.to_string(),
        })?;
        Ok(Group { share, joins_mpi, timeouts, met: Some(Met { place, listener, control }) })
    }
}

/// Ranks that have met.
pub struct Group {
    share: Share,
    joins_mpi: bool,
    timeouts: Timeouts,
    /// `None` where the launcher named no address: MPI's own connects them.
    met: Option<Met>,
}

/// What the meeting left open.
struct Met {
    place: Place,
    /// At rank 0.
    listener: Option<TcpListener>,
    control: Control,
}

impl Group {
    /// Which rank this is.
    pub fn share(&self) -> Share {
        self.share
    }

    /// The connections of ranks that all train on a device of that kind.
    ///
    /// # Errors
    /// [`TrainerError::RankEnvironment`] where the launcher named no address; those of [`Met::agree_on_device`].
    pub(crate) fn into_link(self, kind: &str) -> Result<Link> {
        let Group { share, timeouts, met, .. } = self;
        let Some(met) = met else {
            return Err(TrainerError::RankEnvironment {
                what: "`MASTER_ADDR` is not set".to_owned(),
                remedy:
                    "set it to the host of rank 0, and `MASTER_PORT` to a free port there: on GPUs the ranks meet by it"
                        .to_owned(),
            });
        };
        let link = Link::new(share, met.control, timeouts.step);
        link.agree_on_device(kind)?;
        Ok(link)
    }
}

/// Until when ranks wait for each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    timeout: Duration,
    deadline: Instant,
}

impl Waiting {
    /// From now on.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, deadline: Instant::now() + timeout }
    }

    /// An error once the time is over.
    pub(crate) fn check(self, operation: &str) -> Result<()> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        Err(TrainerError::Collective {
            operation: operation.to_owned(),
            message: format!(
                "a rank has not come to it for {} s; see what the others are doing",
                self.timeout.as_secs_f64()
            ),
        })
    }
}
