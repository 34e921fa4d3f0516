//! Files of a run's folder, as they are while another process writes them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A longer file is none that a run wrote: 100,000 examples give 30 MiB.
const LONGEST: u64 = 64 << 20;

/// Opens a plain file: no link is followed, and nothing that would be waited for.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    match () {
        () if !metadata.is_file() => Err(io::Error::other("it is no plain file")),
        () if metadata.len() > LONGEST => Err(io::Error::other("it is longer than 64 MiB")),
        () => Ok(file),
    }
}

pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}
