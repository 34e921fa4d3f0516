//! Where files lie that machines hand each other: a folder, a bucket, a container, a web server's folder. One API for all, by address.

mod error;
mod failure;
mod open;
mod store;

pub use error::ArtefactError;
pub(crate) use open::{retry, with_s3_option};
pub use store::{ArtefactStore, Entry};
