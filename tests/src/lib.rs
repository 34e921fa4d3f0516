//! Tests of the repository itself, in `tests/`; this crate has no code of its own.
//!
//! The end-to-end tests of the binary are in `end_to_end/`, a target of the `tunesmith` package.
