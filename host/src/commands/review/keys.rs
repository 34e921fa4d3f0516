//! Keys of a terminal, as they are pressed.

use std::io::{self, IsTerminal, Read};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

/// A key that means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Approve,
    Reject,
    Edit,
    Undo,
    Next,
    Previous,
    Quit,
    Help,
}

/// Whether there is somebody to ask: the text is on standard error, as progress is.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Waits for a key. What was pressed before does not count: it was pressed without seeing what is asked now.
pub(super) fn read() -> io::Result<Key> {
    loop {
        if let Some(key) = key(&pressed()?) {
            return Ok(key);
        }
    }
}

/// A line of text.
pub(super) fn line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

fn pressed() -> io::Result<Vec<u8>> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut raw = before.clone();
    // Without signals, too: Ctrl-C would leave the terminal as it is now.
    raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
    let mut bytes = [0; 16];
    let read = stdin.lock().read(&mut bytes);
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    Ok(bytes[..read?].to_vec())
}

fn key(bytes: &[u8]) -> Option<Key> {
    Some(match bytes {
        // The end of input, Ctrl-C, Ctrl-D.
        [] | [3 | 4, ..] | [b'q'] => Key::Quit,
        b"a" => Key::Approve,
        b"r" => Key::Reject,
        b"e" => Key::Edit,
        b"u" => Key::Undo,
        b"j" | b"\x1b[B" | b"\x1b[C" => Key::Next,
        b"k" | b"\x1b[A" | b"\x1b[D" => Key::Previous,
        b"?" | b"h" => Key::Help,
        _ => return None,
    })
}
