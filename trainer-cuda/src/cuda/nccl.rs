//! Sums over the ranks of a run on GPUs, by NCCL.
//!
//! The gradients lie one behind the other, so that one operation adds them up where they are; it stands in the stream
//! between the backward pass and the update. What the host has to know of the others goes over their connections.

use super::Cuda;
use super::nccl_library::{Communicator, FLOAT32, FLOAT64, NcclLibrary, UniqueId};
use super::weights::Optimizer;
use crate::device::{Device, SUMS, StepState, Trainable};
use crate::ranks::{Collective, Group, Link, Share};
use crate::{Result, TrainerError};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DriverError};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// For so long the host asks again and again.
const EAGER: Duration = Duration::from_millis(2);
/// Then it sleeps in between.
const PAUSE: Duration = Duration::from_micros(50);

/// The ranks, joined by NCCL.
struct Nccl {
    library: NcclLibrary,
    /// Null once it was aborted.
    communicator: Communicator,
    link: Link,
    /// Of the memory that is added up: it outlives the device.
    context: Arc<CudaContext>,
}

impl Cuda {
    /// Joins the ranks of `group`.
    ///
    /// # Errors
    /// [`TrainerError::NoRankLibrary`]; [`TrainerError::RankEnvironment`] where the launcher named no address;
    /// [`TrainerError::RankLost`]; [`TrainerError::Collective`].
    pub(super) fn join_by_nccl(&self, group: Group) -> Result<Box<dyn Collective<Self>>> {
        let library = NcclLibrary::open(self.options.libraries.as_deref())?;
        let link = group.into_link(Self::KIND)?;
        let share = link.share();
        self.context.bind_to_thread().map_err(driver("the ranks' GPU"))?;
        let own = match share.rank() {
            0 => library.unique_id()?.0.to_vec(),
            _ => Vec::new(),
        };
        let id = link.broadcast(own)?.try_into().map_err(|_| TrainerError::Collective {
            operation: "ncclGetUniqueId".to_owned(),
            message: "rank 0 gave no id of NCCL's; start every rank with the same program".to_owned(),
        })?;
        let communicator = library.begin_joining(UniqueId(id), share.rank(), share.world_size())?;
        let mut nccl = Nccl { library, communicator, link, context: self.context.clone() };
        nccl.settle("ncclCommInitRankConfig")?;
        Ok(Box::new(nccl))
    }
}

impl Nccl {
    /// Waits until what was asked for is handed to the device.
    fn settle(&mut self, operation: &str) -> Result<()> {
        self.until(operation, |nccl| nccl.library.is_settled(operation, nccl.communicator))
    }

    /// Asks `is_done` until it is, as long as the other ranks are there. What breaks off is aborted: the device would wait
    /// for ever.
    fn until(&mut self, operation: &str, mut is_done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let (begun, waiting) = (Instant::now(), self.link.waiting());
        let done = loop {
            match is_done(self) {
                Ok(true) => return Ok(()),
                Ok(false) if begun.elapsed() < EAGER => thread::yield_now(),
                Ok(false) => match self.link.check(operation, waiting) {
                    Ok(()) => thread::sleep(PAUSE),
                    Err(error) => break error,
                },
                // A rank that ends cuts its connections: NCCL's error says less than who it was.
                Err(error) => break self.link.reason(error),
            }
        };
        self.abort();
        Err(done)
    }

    fn abort(&mut self) {
        let communicator = std::mem::replace(&mut self.communicator, std::ptr::null_mut());
        if !communicator.is_null() {
            // SAFETY: null from here on.
            unsafe { self.library.abort(communicator) };
        }
    }
}

impl Collective<Cuda> for Nccl {
    fn share(&self) -> Share {
        self.link.share()
    }

    fn sum_step(
        &mut self,
        device: &Cuda,
        state: &mut StepState<Cuda>,
        _: &mut [Trainable<Cuda>],
        optimizer: &Optimizer,
    ) -> Result<()> {
        device.check()?;
        assert!(!self.communicator.is_null(), "a sum over ranks after one that failed");
        self.context.bind_to_thread().map_err(driver("ncclAllReduce"))?;
        let ranges = [(state.sums.address(), SUMS, FLOAT64), (optimizer.grads, optimizer.n_values, FLOAT32)];
        // SAFETY: ranges of the arena, which outlives this step: the trainer waits for it before it gives anything back.
        let begun = unsafe { self.library.begin_sums(self.communicator, &ranges, device.stream.cu_stream()) };
        if let Err(error) = begun {
            let error = self.link.reason(error);
            self.abort();
            return Err(error);
        }
        self.settle("ncclAllReduce")
    }

    fn sum(&mut self, values: &mut [f64]) -> Result<()> {
        let summed = self.link.sum(values);
        if summed.is_err() {
            self.abort();
        }
        summed
    }

    fn wait(&mut self, device: &Cuda) -> Result<()> {
        let stream = device.stream.cu_stream();
        self.until("ncclAllReduce", |nccl| {
            // SAFETY: a stream that lives as long as the device.
            match unsafe { sys::cuStreamQuery(stream) } {
                CUresult::CUDA_ERROR_NOT_READY => {
                    nccl.library.is_settled("ncclAllReduce", nccl.communicator)?;
                    Ok(false)
                }
                // A failure of the device is told where the step is read.
                _ => Ok(true),
            }
        })
    }
}

impl Drop for Nccl {
    /// Every rank has read its last step before any comes here: nothing is under way, and nobody is waited for.
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            self.abort();
        }
    }
}

fn driver(operation: &'static str) -> impl FnOnce(DriverError) -> TrainerError {
    move |error| TrainerError::Cuda { operation: operation.to_owned(), message: super::message(error) }
}
