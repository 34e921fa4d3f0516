//! The first failure of a device: everything after it does nothing, as on the GPU itself.

use crate::{Result, TrainerError};
use cudarc::driver::DriverError;
use std::cell::RefCell;

/// Remembers it.
#[derive(Default)]
pub(super) struct Failure(RefCell<Option<(String, String)>>);

impl Failure {
    /// True once something failed.
    pub(super) fn is_set(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// `operation` gave `message`; a failure that came before stays.
    pub(super) fn set(&self, operation: &str, message: String) {
        self.0.borrow_mut().get_or_insert_with(|| (operation.to_owned(), message));
    }

    /// The value, or a remembered failure.
    pub(super) fn catch<T>(&self, operation: &str, result: Result<T, DriverError>) -> Option<T> {
        result.map_err(|error| self.set(operation, message(error))).ok()
    }

    pub(super) fn check(&self) -> Result<()> {
        match &*self.0.borrow() {
            None => Ok(()),
            Some((operation, message)) => {
                Err(TrainerError::Cuda { operation: operation.clone(), message: message.clone() })
            }
        }
    }
}

/// The driver's words for an error.
pub(super) fn message(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", error.0),
    }
}
