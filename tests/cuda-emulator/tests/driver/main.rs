//! The driver: devices, memory, streams, graphs, modules, matrix products; through cudarc, as the trainer uses it.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

#[path = "../common/mod.rs"]
mod common;

mod blas;
mod capture_errors;
mod devices;
mod graphs;
mod memory;
mod modules;
mod streams;
