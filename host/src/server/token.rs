//! The token of a single user: read from a file, or made once.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::error::ServerError;

/// A token that can be guessed is none.
const SHORTEST: usize = 16;

/// What a server keeps of a token.
pub fn sha256(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Where the token is made where no file is named.
pub fn file_beside(store: &Path) -> PathBuf {
    store.with_file_name("serve.token")
}

/// Where the token of the person is that a server made.
pub fn review_file_beside(people: &Path) -> PathBuf {
    people.with_file_name("review.token")
}

/// The token in `file`; where `make`, one of 32 random bytes is written there if there is none, readable by its owner alone.
///
/// # Errors
/// [`ServerError::TokenFile`], [`ServerError::ShortToken`].
pub fn read_or_make(file: &Path, make: bool) -> Result<String, ServerError> {
    let refused = |source| ServerError::TokenFile { path: file.to_owned(), source };
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound && make => {
            write_new(file).map_err(refused)?;
            std::fs::read_to_string(file).map_err(refused)?
        }
        read => read.map_err(refused)?,
    };
    let mode = std::fs::metadata(file).map_err(refused)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!("`{}` can be read by others than its owner: chmod 600 it", file.display());
    }
    let token = text.trim();
    match token.len() >= SHORTEST && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(token.to_owned()),
        false => Err(ServerError::ShortToken { path: file.to_owned() }),
    }
}

/// Whole or not at all; where another server was faster, its token stays.
fn write_new(file: &Path) -> std::io::Result<()> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(std::io::Error::other)?;
    match written(file, &URL_SAFE_NO_PAD.encode(random))?.persist_noclobber(file) {
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    }
}

/// Writes a token that its owner alone can read, in the place of one that is there.
///
/// # Errors
/// [`ServerError::TokenFile`].
pub fn write(file: &Path, token: &str) -> Result<(), ServerError> {
    let written = written(file, token).and_then(|new| new.persist(file).map_err(|error| error.error));
    written.map(drop).map_err(|source| ServerError::TokenFile { path: file.to_owned(), source })
}

fn written(file: &Path, token: &str) -> std::io::Result<tempfile::NamedTempFile> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?; // 0600
    writeln!(new, "{token}")?;
    new.as_file().sync_all()?;
    Ok(new)
}
