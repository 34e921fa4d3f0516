//! Reviewing without a browser: how an item is named, and how its text is changed in an editor.

mod editor;
mod error;
mod form;
mod handle;
mod phoenix;

pub use editor::edit;
pub use error::ReviewError;
pub use form::{parse, write};
pub use handle::Handle;
pub use phoenix::{Polled, poll, push};
