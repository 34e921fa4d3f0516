//! People decide in a real browser, and watch what comes of it: see `lib.rs` for what these tests need.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

mod barriers;
mod chromium;
mod journey;
mod pages;
mod served;
