//! A line between a host and a worker that fails once, when and how it is told to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What can go wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody listens.
    Refused,
    /// The connection breaks before the worker has heard of it.
    ResetBefore,
    /// The worker has done it, and its answer is lost.
    AnswerLost,
    /// This status, from something in between, and the pause that it names.
    Status(u16, Option<u32>),
    /// The worker has done it, and no answer comes.
    Hang,
    /// The worker has done it, and half of its answer comes.
    Truncated,
    /// The worker has done it, and something in between answers with a page of its own.
    Garbage,
}

/// Connections of their own address: nobody else comes to its ports while nobody listens there.
const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Over the time that the tests' clients have for an answer, which is a second.
const HANG: Duration = Duration::from_millis(2500);
/// How long nobody listens.
const AWAY: Duration = Duration::from_millis(200);

struct Shared {
    worker: String,
    /// The fault, and how a request begins that meets it.
    armed: Mutex<Option<(Fault, String)>>,
    /// First lines of all requests since it was armed.
    seen: Mutex<Vec<String>>,
    cut: AtomicBool,
    met: AtomicUsize,
}

pub(crate) struct Line {
    pub(crate) url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Mutex<Option<TcpListener>>,
}

impl Line {
    /// To a worker at `host:port`.
    pub(crate) fn to(worker: &str) -> Self {
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            worker: worker.to_owned(),
            armed: Mutex::default(),
            seen: Mutex::default(),
            cut: AtomicBool::default(),
            met: AtomicUsize::default(),
        });
        let line = Self { url: format!("http://{address}"), address, shared, listener: Mutex::new(None) };
        line.listen(listener);
        line
    }

    fn listen(&self, listener: TcpListener) {
        let own = listener.try_clone().unwrap();
        *self.listener.lock().unwrap() = Some(own);
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.cut.load(Ordering::SeqCst) {
                    break; // whoever woke us finds the door closed
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
    }

    /// The next request whose first line begins with `first` and which has a body, where `body`, meets the fault.
    pub(crate) fn arm(&self, fault: Fault, first: &str) {
        self.shared.seen.lock().unwrap().clear();
        self.shared.met.store(0, Ordering::SeqCst);
        if fault == Fault::Refused {
            self.cut();
            self.shared.met.store(1, Ordering::SeqCst);
        } else {
            *self.shared.armed.lock().unwrap() = Some((fault, first.to_owned()));
        }
    }

    /// Nobody listens any more.
    pub(crate) fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        drop(self.listener.lock().unwrap().take());
        let _ = TcpStream::connect(self.address); // wakes the one that accepts
    }

    /// Somebody listens again.
    pub(crate) fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
        self.listen(TcpListener::bind(self.address).unwrap());
    }

    /// Mends it after a while.
    pub(crate) fn mend_soon(self: &Arc<Self>) {
        let line = Arc::clone(self);
        thread::spawn(move || {
            thread::sleep(AWAY);
            line.mend();
        });
    }

    /// Whether a request has met the fault.
    pub(crate) fn was_met(&self) -> bool {
        self.shared.met.load(Ordering::SeqCst) == 1
    }

    /// Requests that came through the line since it was armed.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(20)))?;
        let (head, body) = request(&mut client)?;
        let first = head.lines().next().unwrap_or_default().to_owned();
        self.seen.lock().unwrap().push(first.clone());
        let what = if body.is_empty() { format!("{first} empty") } else { format!("{first} full") };
        let fault = {
            let mut armed = self.armed.lock().unwrap();
            let meets = armed.as_ref().is_some_and(|(_, pattern)| fits(&what, pattern));
            if meets { armed.take().map(|(fault, _)| fault) } else { None }
        };
        if let Some(fault) = fault {
            self.met.fetch_add(1, Ordering::SeqCst);
            match fault {
                Fault::ResetBefore => return reset(&client),
                Fault::Status(status, after) => {
                    let after = after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
                    let body = "no, says the line";
                    return write!(
                        client,
                        "HTTP/1.1 {status} -\r\n{after}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                }
                _ => {}
            }
        }
        let mut worker = TcpStream::connect(&self.worker)?;
        worker.write_all(head.as_bytes())?;
        worker.write_all(&body)?;
        let mut answer = Vec::new();
        worker.read_to_end(&mut answer)?;
        match fault {
            Some(Fault::AnswerLost) => reset(&client),
            Some(Fault::Hang) => {
                thread::sleep(HANG);
                Ok(())
            }
            Some(Fault::Truncated) => client.write_all(&answer[..answer.len() - half(&answer)]),
            Some(Fault::Garbage) => {
                let page = "<html><body>Please sign in to the wireless network</body></html>";
                write!(
                    client,
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{page}",
                    page.len()
                )
            }
            _ => client.write_all(&answer),
        }
    }
}

/// `PUT * full` fits the first request with a body.
fn fits(what: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => what.starts_with(start) && what.ends_with(end),
        None => what.starts_with(pattern),
    }
}

/// Half of the body, or of the head where there is no body.
fn half(answer: &[u8]) -> usize {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    if answer.len() > head { (answer.len() - head).div_ceil(2) } else { answer.len() / 2 }
}

/// What was sent but not read is answered with a reset.
fn reset(client: &TcpStream) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's type and length are those of `SO_LINGER`, and the descriptor is open.
    let set = unsafe {
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const now).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// One request, its head made one that closes the connection.
fn request(client: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 64 << 10];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        match client.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    };
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let length = head.to_ascii_lowercase();
    let length = length.split_once("content-length: ").and_then(|(_, rest)| rest.split("\r\n").next()?.parse().ok());
    let mut body = body;
    while body.len() < length.unwrap_or(0) {
        match client.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => body.extend_from_slice(&piece[..n]),
        }
    }
    let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    Ok((head, body))
}
