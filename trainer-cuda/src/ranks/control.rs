//! The connections between rank 0 and the others while they train: small sums, and who is still there.
//!
//! Each connection is read by a thread of its own, so that a rank that ends is known at once, whatever the others wait for.

use super::frame::Frame;
use super::{Share, Waiting};
use crate::{Result, TrainerError};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// Between two looks at whether anybody was lost.
const PAUSE: Duration = Duration::from_millis(20);

/// The connections of this rank: to all others from rank 0, to rank 0 from the others.
pub(super) struct Control {
    share: Share,
    peers: Vec<Peer>,
    gone: Gone,
}

struct Peer {
    stream: Arc<Mutex<TcpStream>>,
    frames: Receiver<Frame>,
}

/// The first rank that is no longer there.
#[derive(Clone, Default)]
struct Gone {
    /// It ended without a word.
    lost: Arc<OnceLock<usize>>,
    /// It has all that it needs.
    left: Arc<OnceLock<usize>>,
}

impl Control {
    /// `streams` are the others' by rank, or rank 0's.
    pub(super) fn new(share: Share, streams: Vec<TcpStream>) -> std::io::Result<Self> {
        let gone = Gone::default();
        let first = usize::from(share.rank() == 0);
        let writers: Vec<Arc<Mutex<TcpStream>>> = streams
            .iter()
            .map(|stream| Ok(Arc::new(Mutex::new(stream.try_clone()?))))
            .collect::<std::io::Result<_>>()?;
        let mut peers = Vec::new();
        for (index, stream) in streams.into_iter().enumerate() {
            let (sender, frames) = channel();
            let others = writers.iter().enumerate().filter(|(other, _)| *other != index);
            let others = others.map(|(_, writer)| writer.clone()).collect();
            let reader = Reader { rank: first + index, others, gone: gone.clone(), sender };
            thread::Builder::new().name(format!("rank {}", first + index)).spawn(move || reader.run(stream))?;
            peers.push(Peer { stream: writers[index].clone(), frames });
        }
        Ok(Self { share, peers, gone })
    }

    /// A rank that has ended, in order or not.
    pub(super) fn gone(&self) -> Option<usize> {
        self.gone.lost.get().or(self.gone.left.get()).copied()
    }

    /// The same, where something has already broken off: the thread that reads the connection may be about to tell.
    pub(super) fn gone_soon(&self) -> Option<usize> {
        for _ in 0..5 {
            if let Some(rank) = self.gone() {
                return Some(rank);
            }
            thread::sleep(PAUSE);
        }
        None
    }

    /// Adds up `values` over all ranks, in the order of the ranks: all get the same bits.
    pub(super) fn sum(&self, values: &mut [f64], waiting: Waiting) -> Result<()> {
        if self.share.rank() == 0 {
            let peers: Vec<_> = (0..self.peers.len()).map(|peer| self.receive(peer, waiting)).collect::<Result<_>>()?;
            for theirs in peers {
                let Frame::Sum(theirs) = theirs else { return Err(out_of_step()) };
                if theirs.len() != values.len() {
                    return Err(out_of_step());
                }
                values.iter_mut().zip(theirs).for_each(|(value, theirs)| *value += theirs);
            }
            self.send_to_all(&Frame::Sum(values.to_vec()))
        } else {
            self.send_to_all(&Frame::Sum(values.to_vec()))?;
            match self.receive(0, waiting)? {
                Frame::Sum(sums) if sums.len() == values.len() => values.copy_from_slice(&sums),
                _ => return Err(out_of_step()),
            }
            Ok(())
        }
    }

    /// What rank 0 says, at all ranks.
    pub(super) fn broadcast(&self, bytes: Vec<u8>, waiting: Waiting) -> Result<Vec<u8>> {
        if self.share.rank() == 0 {
            self.send_to_all(&Frame::Bytes(bytes.clone()))?;
            return Ok(bytes);
        }
        match self.receive(0, waiting)? {
            Frame::Bytes(bytes) => Ok(bytes),
            _ => Err(out_of_step()),
        }
    }

    fn send_to_all(&self, frame: &Frame) -> Result<()> {
        for (index, peer) in self.peers.iter().enumerate() {
            let mut stream = peer.stream.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = frame.write(&mut *stream);
            drop(stream);
            sent.map_err(|_| self.lost(self.rank_of(index)))?;
        }
        Ok(())
    }

    fn receive(&self, peer: usize, waiting: Waiting) -> Result<Frame> {
        loop {
            match self.peers[peer].frames.recv_timeout(PAUSE) {
                Ok(frame) => return Ok(frame),
                Err(RecvTimeoutError::Disconnected) => return Err(self.lost(self.rank_of(peer))),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(&lost) = self.gone.lost.get() {
                        return Err(self.lost(lost));
                    }
                    waiting.check("waiting for the other ranks")?;
                }
            }
        }
    }

    /// Of the rank that was lost first: what else broke off did for that reason.
    fn lost(&self, rank: usize) -> TrainerError {
        let rank = self.gone_soon().unwrap_or(rank);
        TrainerError::RankLost { rank, world_size: self.share.world_size() }
    }

    fn rank_of(&self, peer: usize) -> usize {
        if self.share.rank() == 0 { peer + 1 } else { 0 }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        for peer in &self.peers {
            let mut stream = peer.stream.lock().unwrap_or_else(PoisonError::into_inner);
            // The other end may be gone.
            let _ = Frame::Bye.write(&mut *stream);
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}

/// The thread of one connection.
struct Reader {
    rank: usize,
    /// From rank 0: the other ranks, which hear of a loss from it alone.
    others: Vec<Arc<Mutex<TcpStream>>>,
    gone: Gone,
    sender: Sender<Frame>,
}

impl Reader {
    fn run(self, mut stream: TcpStream) {
        loop {
            match Frame::read(&mut stream) {
                Ok(Frame::Bye) => {
                    let _ = self.gone.left.set(self.rank); // the first one counts
                    return;
                }
                Ok(Frame::Lost(rank)) => {
                    let _ = self.gone.lost.set(rank as usize);
                }
                Ok(frame) => {
                    if self.sender.send(frame).is_err() {
                        return; // this rank ends
                    }
                }
                Err(_) => {
                    // Told to the others before it is known here: this process may end on it.
                    for other in &self.others {
                        let mut stream = other.lock().unwrap_or_else(PoisonError::into_inner);
                        let _ = Frame::Lost(self.rank as u32).write(&mut *stream);
                    }
                    let _ = self.gone.lost.set(self.rank);
                    return;
                }
            }
        }
    }
}

fn out_of_step() -> TrainerError {
    TrainerError::Collective {
        operation: "a sum over the ranks".to_owned(),
        message: "the ranks are at different places of the run; start all of them with the same arguments and data"
            .to_owned(),
    }
}
