//! The whole path, through the real binary, as its users meet it: what they do, what they see, what is left on disk.
//!
//! These tests are a target of the `tunesmith` package although they lie here: cargo tells only a package's own
//! tests where its binary is, and so it is always the one just built, whatever the profile or the target folder.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

mod adapters;
mod bad_configuration;
mod bad_models;
mod bad_plugins;
mod bad_telemetry;
mod conversations;
mod embedding;
mod generating;
mod gpu;
mod gpu_faults;
mod home;
mod hygiene;
mod json_output;
mod killed;
mod memory;
mod merging;
mod phoenix_faults;
mod preferences;
mod quick_start;
mod reproducible;
mod resumed;
mod spans;
mod telemetry;
mod tenants_formatter;
mod triplets;
