//! In place of `library.rs` where nothing was built.

use std::path::Path;

use crate::{LoadError, Symbols};

pub(crate) fn folder() -> Option<&'static Path> {
    None
}

pub(crate) fn folder_without_blas() -> Option<&'static Path> {
    None
}

pub(crate) fn open(_folder: &Path, _libraries: &[&str]) -> Result<&'static Symbols, LoadError> {
    Err(LoadError::Platform)
}
