//! How ranks find each other: rank 0 listens at the launcher's address, the others come to it.

use super::Share;
use super::frame::{Frame, Hello, Purpose};
use crate::{Result, TrainerError};
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at whether somebody came, or listens.
const PAUSE: Duration = Duration::from_millis(20);
/// A rank says who it is at once; a stranger may say nothing.
const HELLO: Duration = Duration::from_secs(5);

/// Where and until when.
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) share: Share,
    pub(super) timeout: Duration,
}

impl Place {
    fn error(&self, what: String) -> TrainerError {
        TrainerError::Rendezvous { address: format!("{}:{}", self.host, self.port), what }
    }

    /// Rank 0 opens its port. On all of the host's addresses: the one that the others know may be a name that leads here
    /// another way.
    pub(super) fn listen(&self) -> Result<TcpListener> {
        let opened = TcpListener::bind(("0.0.0.0", self.port)).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        opened.map_err(|error| self.error(format!("port {} can't be listened at: {error}", self.port)))
    }

    /// Rank 0: the connections of all others, by rank from 1, for `purpose`. Whoever came hears whether all did.
    pub(super) fn gather(&self, listener: &TcpListener, purpose: Purpose) -> Result<Vec<TcpStream>> {
        let deadline = Instant::now() + self.timeout;
        let mut came: Vec<Option<TcpStream>> = (1..self.share.world_size()).map(|_| None).collect();
        let refuse = |came: &mut Vec<Option<TcpStream>>, what: String| {
            for stream in came.iter_mut().flatten() {
                let _ = Frame::Refused(what.clone()).write(stream); // it may be gone
            }
            self.error(what)
        };
        while came.iter().any(Option::is_none) {
            if Instant::now() >= deadline {
                let missing = (1..).zip(&came).filter(|(_, stream)| stream.is_none()).map(|(rank, _)| rank);
                let what = self.missing(&missing.collect::<Vec<_>>());
                return Err(refuse(&mut came, what));
            }
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return Err(refuse(&mut came, format!("the connections end: {error}"))),
            };
            let Ok((mut stream, hello)) = greet(stream) else { continue };
            let Hello { rank, world_size, .. } = hello;
            let world = self.share.world_size();
            let slot = (rank as usize).checked_sub(1).and_then(|index| came.get_mut(index));
            let wrong = if world_size as usize != world {
                Some(format!("rank {rank} is one of {world_size} where rank 0 is one of {world}"))
            } else if hello.purpose != purpose {
                Some(format!("rank {rank} was started a second time"))
            } else if slot.as_ref().is_none_or(|slot| slot.is_some()) {
                Some(format!("two processes are rank {rank}"))
            } else {
                None
            };
            match (slot, wrong) {
                (Some(slot), None) => *slot = Some(stream),
                (_, wrong) => {
                    let wrong = wrong.unwrap_or_default();
                    let _ = Frame::Refused(wrong.clone()).write(&mut stream);
                    return Err(refuse(&mut came, wrong));
                }
            }
        }
        let mut streams: Vec<TcpStream> = came.into_iter().flatten().collect();
        for (index, stream) in streams.iter_mut().enumerate() {
            let lost = |error: io::Error| self.error(format!("rank {} went away again: {error}", index + 1));
            Frame::Ready.write(stream).map_err(lost)?;
        }
        Ok(streams)
    }

    /// The others: the connection to rank 0, once all are there.
    pub(super) fn come(&self, purpose: Purpose) -> Result<TcpStream> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let tried = self.connect(deadline).and_then(|stream| self.ask(stream, purpose, deadline));
            let failed = match tried {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(refused)) => return Err(self.error(refused)),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(self.error(format!("{} ({failed})", self.missing(&[0]))));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Every address of the host's name: the first may be one that rank 0 does not have.
    fn connect(&self, deadline: Instant) -> io::Result<TcpStream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            let left = deadline.saturating_duration_since(Instant::now()).max(PAUSE);
            match TcpStream::connect_timeout(&address, left.min(HELLO)) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Says who comes, and hears whether all did. What is not heard may be an older run's last moment: it is tried again.
    fn ask(&self, mut stream: TcpStream, purpose: Purpose, deadline: Instant) -> io::Result<Result<TcpStream, String>> {
        stream.set_nodelay(true)?;
        let (rank, world_size) = (self.share.rank() as u32, self.share.world_size() as u32);
        Frame::Hello(Hello { rank, world_size, purpose }).write(&mut stream)?;
        // Rank 0 ends its wait by its own clock, which began earlier or later than this one.
        let left = deadline.saturating_duration_since(Instant::now()) + self.timeout;
        stream.set_read_timeout(Some(left.max(PAUSE)))?;
        let answer = Frame::read(&mut stream)?;
        stream.set_read_timeout(None)?;
        match answer {
            Frame::Ready => Ok(Ok(stream)),
            Frame::Refused(why) => Ok(Err(why)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no rank of this program")),
        }
    }

    /// `ranks 1 and 3 of 4 did not come within 120 s`
    fn missing(&self, ranks: &[usize]) -> String {
        let (world, seconds) = (self.share.world_size(), self.timeout.as_secs_f64());
        let names: Vec<String> = ranks.iter().map(usize::to_string).collect();
        let named = match names.as_slice() {
            [one] => format!("rank {one}"),
            [first @ .., last] => format!("ranks {} and {last}", first.join(", ")),
            [] => "nobody".to_owned(),
        };
        format!("{named} of {world} did not come within {seconds} s")
    }
}

/// Hears who came; an error for one who is no rank.
fn greet(mut stream: TcpStream) -> io::Result<(TcpStream, Hello)> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HELLO))?;
    let frame = Frame::read(&mut stream)?;
    stream.set_read_timeout(None)?;
    match frame {
        Frame::Hello(hello) => Ok((stream, hello)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no hello")),
    }
}
