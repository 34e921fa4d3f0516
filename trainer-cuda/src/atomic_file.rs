//! Files that are whole or absent: written beside their place, synced, and renamed into it.

use crate::{Result, TrainerError};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Replaces `path` by `bytes`. A file that was there survives every failure, a full disk included.
///
/// # Errors
/// [`TrainerError::Io`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Replaces `path` by what `fill` writes, which may write in pieces. A file that was there survives every failure.
///
/// # Errors
/// [`TrainerError::Io`].
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    let beside = path.with_file_name(name);
    let written = File::create(&beside).and_then(|mut file| {
        fill(&mut file)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        // The rename itself lasts once the folder is on disk.
        path.parent().map_or(Ok(()), |folder| File::open(folder).and_then(|folder| folder.sync_all()))
    });
    written.map_err(|source| {
        let _ = fs::remove_file(&beside); // what is left of a failed write is of no use to anyone
        TrainerError::Io { action: "write", path: path.to_owned(), source }
    })
}
