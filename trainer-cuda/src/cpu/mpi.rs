//! Sums over the ranks of a run on the CPU, by MPI.

use super::Cpu;
use super::mpi_library::{MpiLibrary, Request};
use crate::device::{Device, SUMS, StepState, Trainable};
use crate::ranks::{Collective, Group, Link, Processes, Share, Waiting};
use crate::{Result, TrainerError};
use std::mem::ManuallyDrop;
use std::thread;
use std::time::{Duration, Instant};

/// Gradients that are added up at a time: 4 MiB, which the time of a message no longer counts beside.
const CHUNK: usize = 1 << 20;
/// For so long the processor asks again and again: another rank is mostly not much later.
const EAGER: Duration = Duration::from_millis(2);
/// Then it sleeps in between.
const PAUSE: Duration = Duration::from_micros(50);

/// The ranks, joined by MPI.
pub(super) struct Mpi {
    library: MpiLibrary,
    share: Share,
    timeout: Duration,
    /// The others' connections, where the launcher named an address; MPI's are all that there are, where it did not.
    link: Option<Link>,
    /// Whether the launcher waits for MPI to be left in order.
    finalizes: bool,
    /// Gradients are put together here: on the CPU each tensor has its own. Left behind where a sum was broken off, as MPI
    /// may still write to it.
    chunk: ManuallyDrop<Vec<f32>>, // [CHUNK]
    failed: bool,
}

impl Mpi {
    /// Joins the ranks of `group`, which makes all of them wait for each other.
    ///
    /// # Errors
    /// [`TrainerError::NoRankLibrary`]; [`TrainerError::Rendezvous`]; [`TrainerError::Collective`].
    pub(super) fn new(group: Group) -> Result<Self> {
        let library = MpiLibrary::open()?;
        let Processes { share, timeout, link, finalizes } = group.into_processes(Cpu::KIND)?;
        library.init()?;
        let world = library.world()?;
        if world != (share.rank(), share.world_size()) {
            let (rank, size) = world;
            return Err(TrainerError::Collective {
                operation: "MPI_Init_thread".to_owned(),
                message: format!(
                    "MPI counts this process as rank {rank} of {size}, the launcher as {} of {}; start it with the \
                     launcher of the MPI library that is installed",
                    share.rank(),
                    share.world_size()
                ),
            });
        }
        let chunk = ManuallyDrop::new(vec![0.0; CHUNK]);
        Ok(Self { library, share, timeout, link, finalizes, chunk, failed: false })
    }

    /// Adds up the first `n` values of the chunk.
    fn sum_chunk(&mut self, n: usize) -> Result<()> {
        // SAFETY: the chunk is touched again once the sum is done, and never where it failed: every call is refused then.
        let begun = unsafe { self.library.begin_sum(&mut self.chunk[..n]) };
        let done = begun.and_then(|request| self.complete("MPI_Iallreduce", request));
        self.remember(done)
    }

    /// Waits for it, as long as the other ranks are there.
    fn complete(&self, operation: &str, mut request: Request) -> Result<()> {
        let (begun, waiting) = (Instant::now(), Waiting::new(self.timeout));
        while !self.library.is_done(&mut request)? {
            if begun.elapsed() < EAGER {
                thread::yield_now();
                continue;
            }
            match &self.link {
                Some(link) => link.check(operation, waiting)?,
                None => waiting.check(operation)?,
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn remember<T>(&mut self, result: Result<T>) -> Result<T> {
        self.failed |= result.is_err();
        result
    }

    /// Adds up values of the host by MPI, in memory of their own, which is left to it where the sum breaks off.
    fn sum_by_mpi(&mut self, values: &mut [f64]) -> Result<()> {
        assert!(!self.failed, "a sum over ranks after one that failed");
        let mut own = ManuallyDrop::new(values.to_vec());
        // SAFETY: as in `sum_chunk`.
        let begun = unsafe { self.library.begin_sum(&mut own[..]) };
        let done = begun.and_then(|request| self.complete("MPI_Iallreduce", request));
        self.remember(done)?;
        values.copy_from_slice(&own);
        drop(ManuallyDrop::into_inner(own));
        Ok(())
    }
}

impl Collective<Cpu> for Mpi {
    fn share(&self) -> Share {
        self.share
    }

    fn sum_step(&mut self, _: &Cpu, state: &mut StepState<Cpu>, trained: &mut [Trainable<Cpu>], _: &()) -> Result<()> {
        self.sum_by_mpi(&mut state.sums[..SUMS])?;
        let mut grads: Vec<&mut [f32]> = trained.iter_mut().map(|tensor| tensor.grad.as_mut_slice()).collect();
        let total: usize = grads.iter().map(|grad| grad.len()).sum();
        for start in (0..total).step_by(CHUNK) {
            let n = CHUNK.min(total - start);
            overlaps(&mut grads, start, n, |grad, at| self.chunk[at..at + grad.len()].copy_from_slice(grad));
            self.sum_chunk(n)?;
            overlaps(&mut grads, start, n, |grad, at| grad.copy_from_slice(&self.chunk[at..at + grad.len()]));
        }
        Ok(())
    }

    fn sum(&mut self, values: &mut [f64]) -> Result<()> {
        match &self.link {
            Some(link) => {
                let summed = link.sum(values);
                self.remember(summed)
            }
            None => self.sum_by_mpi(values),
        }
    }

    fn wait(&mut self, _: &Cpu) -> Result<()> {
        Ok(())
    }

    fn give_up(&mut self) {
        self.failed = true;
    }
}

/// Calls `with` for each part of a list that lies in `start..start + n` of all of them, one behind the other; with the
/// place of the part in that range.
fn overlaps(lists: &mut [&mut [f32]], start: usize, n: usize, mut with: impl FnMut(&mut [f32], usize)) {
    let mut first = 0;
    for list in lists {
        let (from, to) = (start.max(first), (start + n).min(first + list.len()));
        if from < to {
            with(&mut list[from - first..to - first], from - start);
        }
        first += list.len();
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if self.failed {
            return; // what was begun can't be ended: the process does
        }
        // An MPI launcher takes a process that ends without this for one that failed. Elsewhere it would only make ranks wait
        // for each other once more.
        if self.finalizes {
            self.library.finalize();
        }
        // SAFETY: no sum is under way, and nothing of this is used after it.
        unsafe { ManuallyDrop::drop(&mut self.chunk) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_any_size_are_one_list_in_parts() {
        let mut tensors = [vec![0.0, 1.0, 2.0], vec![], vec![3.0], vec![4.0, 5.0, 6.0, 7.0]];
        let mut lists: Vec<&mut [f32]> = tensors.iter_mut().map(Vec::as_mut_slice).collect();
        let mut seen = Vec::new();
        for (start, n) in [(0, 3), (3, 3), (6, 2)] {
            let mut chunk = vec![f32::NAN; n];
            overlaps(&mut lists, start, n, |list, at| chunk[at..at + list.len()].copy_from_slice(list));
            seen.extend(chunk);
            overlaps(&mut lists, start, n, |list, _| list.iter_mut().for_each(|value| *value += 10.0));
        }
        assert_eq!(seen, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(tensors.concat(), [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0]);
    }
}
