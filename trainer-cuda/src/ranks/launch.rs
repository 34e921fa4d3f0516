//! Processes that MPI can join: those of its own launcher, or those of another one that are made to look so.

use super::frame::Purpose;
use super::link::Link;
use super::rendezvous::Place;
use super::{Group, Met, Share, pmi};
use crate::{Result, TrainerError};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::{fs, io, iter};

/// Ranks that MPI can join.
pub(crate) struct Processes {
    pub(crate) share: Share,
    /// For a step.
    pub(crate) timeout: Duration,
    /// The others' connections, where the launcher named an address.
    pub(crate) link: Option<Link>,
    /// Whether the launcher waits for MPI to be left in order.
    pub(crate) finalizes: bool,
}

impl Group {
    /// Ranks on a device of that kind, which MPI can join once this has returned.
    ///
    /// # Errors
    /// [`TrainerError::Rendezvous`]; [`TrainerError::RankLost`]; [`TrainerError::Collective`].
    pub(crate) fn into_processes(self, kind: &str) -> Result<Processes> {
        let Group { share, joins_mpi, timeouts, met } = self;
        let link = match met {
            None => None,
            Some(Met { place, listener, control }) => {
                let link = Link::new(share, control, timeouts.step);
                link.agree_on_device(kind)?;
                if !joins_mpi {
                    launch(share, &place, listener)?;
                }
                Some(link)
            }
        };
        Ok(Processes { share, timeout: timeouts.step, link, finalizes: joins_mpi })
    }
}

/// Gives MPI what a launcher of its own would have given: a connection on which it is answered, by rank 0, and which rank
/// this is.
fn launch(share: Share, place: &Place, listener: Option<TcpListener>) -> Result<()> {
    let end = match listener {
        Some(listener) => serve(place.gather(&listener, Purpose::Pmi)?)?,
        None => OwnedFd::from(place.come(Purpose::Pmi)?),
    };
    let variables = [
        ("PMI_FD", end.into_raw_fd().to_string()), // MPI closes it
        ("PMI_RANK", share.rank().to_string()),
        ("PMI_SIZE", share.world_size().to_string()),
    ];
    for (name, value) in variables {
        // SAFETY: once in a process, before it trains: its other threads wait in Rust for messages, and read no variable.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

/// At rank 0: answers all ranks, itself among them. Gives its own end.
fn serve(others: Vec<TcpStream>) -> Result<OwnedFd> {
    let started = UnixStream::pair().and_then(|(own, server)| {
        let ends = iter::once(OwnedFd::from(server)).chain(others.into_iter().map(OwnedFd::from));
        pmi::serve(ends.map(fs::File::from).collect())?;
        Ok(OwnedFd::from(own))
    });
    started.map_err(|error: io::Error| TrainerError::Collective {
        operation: "connecting the ranks' MPI".to_owned(),
        message: error.to_string(),
    })
}
