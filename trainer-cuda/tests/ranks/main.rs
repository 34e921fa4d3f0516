//! Training on several ranks gives what training on one gives.
//!
//! In `threads.rs` the ranks are threads of this process, which share everything but MPI with real ones; in `processes.rs`
//! they are processes that MPI joins, in `gpus.rs` processes that NCCL joins.

#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

mod gpus;
#[path = "../cuda/libraries.rs"]
mod libraries;
mod processes;
mod run;
#[path = "../small/mod.rs"]
mod small;
mod threads;
