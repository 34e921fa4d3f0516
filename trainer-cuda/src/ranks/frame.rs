//! What ranks say to each other beside gradients: small messages over TCP, a kind and a length before each.

use std::io::{self, Read, Write};

/// Longer is nothing that a rank says: a stranger speaks.
const MOST_BYTES: usize = 1 << 16;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Frame {
    /// The first of a connection.
    Hello(Hello),
    /// All are there: what a rank that came waits for.
    Ready,
    /// They will not be, and why.
    Refused(String),
    /// Values to add up, or their sum.
    Sum(Vec<f64>),
    /// What one rank tells all.
    Bytes(Vec<u8>),
    /// That rank was lost.
    Lost(u32),
    /// The sender has all that it needs of the others.
    Bye,
}

/// Who comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) rank: u32,
    pub(super) world_size: u32,
    /// What the connection is for.
    pub(super) purpose: Purpose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Messages, for as long as the rank lives.
    Control,
    /// What MPI's processes ask their launcher.
    Pmi,
}

/// Before a hello, so that nothing else that speaks at the port is taken for a rank; with the version of the messages.
const MAGIC: &[u8] = b"tunesmith ranks 1\n";

impl Frame {
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = match self {
            Frame::Hello(Hello { rank, world_size, purpose }) => {
                let purpose = [u8::from(*purpose == Purpose::Pmi)];
                (b'h', [MAGIC, &rank.to_le_bytes(), &world_size.to_le_bytes(), &purpose].concat())
            }
            Frame::Ready => (b'r', Vec::new()),
            Frame::Refused(why) => (b'x', why.as_bytes().to_vec()),
            Frame::Sum(values) => (b's', values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Frame::Bytes(bytes) => (b'd', bytes.clone()),
            Frame::Lost(rank) => (b'l', rank.to_le_bytes().to_vec()),
            Frame::Bye => (b'b', Vec::new()),
        };
        let len = (payload.len() as u32).to_le_bytes();
        to.write_all(&[&[kind], &len[..], &payload].concat())
    }

    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let [kind, len @ ..] = head;
        let strange = || io::Error::new(io::ErrorKind::InvalidData, "no message of a rank");
        let len = u32::from_le_bytes(len) as usize;
        if len > MOST_BYTES {
            return Err(strange());
        }
        let mut payload = vec![0; len];
        from.read_exact(&mut payload)?;
        Self::parse(kind, payload).ok_or_else(strange)
    }

    fn parse(kind: u8, payload: Vec<u8>) -> Option<Self> {
        let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
        Some(match kind {
            b'h' => {
                let rest = payload.strip_prefix(MAGIC)?;
                let (numbers, purpose) = (rest.get(..8)?, rest.get(8..)?);
                let purpose = match purpose {
                    [0] => Purpose::Control,
                    [1] => Purpose::Pmi,
                    _ => return None,
                };
                Frame::Hello(Hello { rank: number(&numbers[..4])?, world_size: number(&numbers[4..])?, purpose })
            }
            b'r' => Frame::Ready,
            b'x' => Frame::Refused(String::from_utf8_lossy(&payload).into_owned()),
            b's' => {
                let (values, rest) = payload.as_chunks::<8>();
                if !rest.is_empty() {
                    return None;
                }
                Frame::Sum(values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
            }
            b'd' => Frame::Bytes(payload),
            b'l' => Frame::Lost(number(&payload)?),
            b'b' => Frame::Bye,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let hello = Hello { rank: 3, world_size: 4, purpose: Purpose::Pmi };
        let frames = [
            Frame::Hello(hello),
            Frame::Hello(Hello { purpose: Purpose::Control, ..hello }),
            Frame::Ready,
            Frame::Refused("rank 2 is missing".to_owned()),
            Frame::Sum(vec![1.5, f64::NEG_INFINITY]),
            Frame::Sum(Vec::new()),
            Frame::Bytes(vec![0; 128]),
            Frame::Lost(7),
            Frame::Bye,
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes).expect("memory"));
        let mut from = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut from).expect("a frame"), frame);
        }
        assert!(from.is_empty());
    }

    #[test]
    fn what_no_rank_says_is_refused_before_its_length_is_believed() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"h\x05\0\0\0hello", b"s\x01\0\0\0x", b"q\0\0\0\0"] {
            let error = Frame::read(&mut &bytes[..]).expect_err("a stranger");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
