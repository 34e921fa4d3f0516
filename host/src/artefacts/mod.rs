//! Where files lie that machines hand each other: a folder, a bucket, a container, a web server's folder. One API for all, by address.

mod error;
mod store;

pub use error::ArtefactError;
pub use store::{ArtefactStore, Entry};
