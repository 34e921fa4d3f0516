//! Ranks that meet over loopback, as threads.

use super::frame::{Frame, Hello, Purpose};
use super::link::Link;
use super::*;
use std::io::Write;
use std::net::TcpStream;
use std::thread::{self, ScopedJoinHandle};

const SHORT: Timeouts = Timeouts { rendezvous: Duration::from_millis(400), step: Duration::from_millis(400) };
const LONG: Timeouts = Timeouts { rendezvous: Duration::from_secs(20), step: Duration::from_secs(20) };

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port()
}

fn ranks(rank: usize, world_size: usize, port: u16) -> Ranks {
    let address = Some(("127.0.0.1".to_owned(), port));
    Ranks { share: Share::new(rank, world_size), local_rank: rank, address, joins_mpi: false }
}

fn link(rank: usize, world_size: usize, port: u16, timeouts: Timeouts) -> Result<Link> {
    ranks(rank, world_size, port).meet(timeouts)?.into_link("cpu")
}

fn text<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

/// Runs `body` on every rank.
fn on_all<T: Send>(world_size: usize, body: impl Fn(usize, u16) -> T + Sync) -> Vec<T> {
    let port = free_port();
    thread::scope(|scope| {
        let body = &body;
        let started: Vec<_> = (0..world_size).map(|rank| scope.spawn(move || body(rank, port))).collect();
        started.into_iter().map(ScopedJoinHandle::join).map(|rank| rank.expect("no panic")).collect()
    })
}

#[test]
fn ranks_that_meet_get_the_same_sums_and_what_rank_0_says() {
    let got = on_all(3, |rank, port| {
        let link = link(rank, 3, port, LONG).expect("all come");
        // 2^53 + 1 + 1: only in the order of the ranks is it 2^53.
        let mut values = [[9_007_199_254_740_992.0, 1.0, 1.0][rank], rank as f64];
        link.sum(&mut values).expect("all are there");
        (values, link.broadcast(vec![rank as u8; 3]).expect("all are there"))
    });
    assert_eq!(got, vec![([9_007_199_254_740_992.0, 3.0], vec![0; 3]); 3]);
}

#[test]
fn a_rank_that_does_not_come_is_named_to_all_that_did() {
    let got = on_all(4, |rank, port| match rank {
        1 | 2 => None,
        _ => Some((port, text(link(rank, 4, port, SHORT)))),
    });
    for (port, error) in got.into_iter().flatten() {
        assert_eq!(
            error,
            format!(
                "no rendezvous at `127.0.0.1:{port}`: ranks 1 and 2 of 4 did not come within 0.4 s; see that the launcher \
                 started every rank, and that they reach that address"
            )
        );
    }
}

#[test]
fn where_nobody_listens_rank_0_is_missing() {
    let port = free_port();
    let error = text(link(1, 2, port, SHORT));
    let expected = format!(
        "no rendezvous at `127.0.0.1:{port}`: rank 0 of 2 did not come within 0.4 s (Connection refused (os error 111)); see \
         that the launcher started every rank, and that they reach that address"
    );
    assert_eq!(error, expected);
}

#[test]
fn a_port_that_is_taken_is_told() {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let error = text(link(0, 2, port, SHORT));
    assert!(error.contains(&format!("port {port} can't be listened at: Address already in use")), "{error}");
}

#[test]
fn ranks_that_do_not_belong_together_are_told_why() {
    // Two processes are rank 1 of 3.
    let got = on_all(3, |rank, port| text(link(rank.min(1), 3, port, LONG)));
    assert!(got.iter().any(|error| error.contains("two processes are rank 1")), "{got:?}");
    // One was told of another number of ranks.
    let got = on_all(2, |rank, port| text(link(rank, 2 + 2 * rank, port, LONG)));
    assert!(got.iter().all(|error| error.contains("rank 1 is one of 4 where rank 0 is one of 2")), "{got:?}");
    // One trains on another kind of device.
    let got = on_all(2, |rank, port| {
        let kind = ["cpu", "cuda"][rank];
        ranks(rank, 2, port).meet(LONG).expect("both come").into_link(kind).and_then(|link| link.sum(&mut [0.0]))
    });
    let got = got.into_iter().map(text).collect::<Vec<_>>();
    assert_eq!(
        got[1],
        "`choosing the device` failed between the ranks: rank 0 trains on `cpu`, rank 1 on `cuda`; name one kind of device for all"
    );
    assert!(got[0].starts_with("rank 1 of 2 was lost"), "{}", got[0]);
}

#[test]
fn strangers_at_the_port_are_not_listened_to() {
    let got = on_all(3, |rank, port| {
        if rank == 2 {
            // Whoever scans ports, before the rank comes.
            let mut stream = loop {
                match TcpStream::connect(("127.0.0.1", port)) {
                    Ok(stream) => break stream,
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            };
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("somebody listens");
            return 0.0;
        }
        thread::sleep(Duration::from_millis(100 * rank as u64));
        let link = link(rank, 2, port, LONG).expect("both come");
        let mut values = [1.0];
        link.sum(&mut values).expect("both are there");
        values[0]
    });
    assert_eq!(got, [2.0, 2.0, 0.0]);
}

/// Rank 2 of 3, whose process ends after it came.
fn comes_and_dies(port: u16) {
    let hello = Frame::Hello(Hello { rank: 2, world_size: 3, purpose: Purpose::Control });
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    };
    hello.write(&mut stream).expect("rank 0 reads");
    assert_eq!(Frame::read(&mut stream).expect("rank 0 answers"), Frame::Ready);
    assert_eq!(Frame::read(&mut stream).expect("rank 0 says its device"), Frame::Bytes(b"cpu".to_vec()));
}

#[test]
fn a_rank_that_is_lost_is_named_to_all_that_wait() {
    let got = on_all(3, |rank, port| match rank {
        2 => {
            comes_and_dies(port);
            None
        }
        _ => Some(text(link(rank, 3, port, LONG).expect("all come").sum(&mut [0.0]))),
    });
    let expected = "rank 2 of 3 was lost: its process ended or can't be reached; see its own error, and start all ranks \
                    again: they go on from the last checkpoint";
    assert_eq!(got.into_iter().flatten().collect::<Vec<_>>(), [expected; 2]);
}

#[test]
fn a_rank_that_does_not_come_to_a_sum_is_waited_for_no_longer_than_the_timeout() {
    let got = on_all(2, |rank, port| {
        let link = link(rank, 2, port, Timeouts { rendezvous: LONG.rendezvous, ..SHORT }).expect("both come");
        if rank == 1 {
            thread::sleep(Duration::from_millis(1500)); // neither lost nor there
            return None;
        }
        Some(text(link.sum(&mut [0.0])))
    });
    assert_eq!(
        got[0].as_deref(),
        Some(
            "`waiting for the other ranks` failed between the ranks: a rank has not come to it for 0.4 s; see what the others \
             are doing"
        )
    );
}
