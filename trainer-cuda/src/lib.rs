//! LoRA training by hand-written forward and backward passes over a small [`device::Device`].
//!
//! Read in this order: [`batch`] (a batch is a prefix forest), [`decoder::block`] (one block as two lists of device calls),
//! [`decoder`] and [`encoder`] (the models around the blocks), [`method`] (SFT, DPO, triplets), [`trainer`] (the loop),
//! [`ranks`] (the loop on several processes).
//! [`device`] is the contract that a device fulfils.

pub mod adapter;
mod allocator;
pub mod atomic_file;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod cuda;
pub mod decoder;
pub mod device;
mod distance;
pub mod dropout;
pub mod encode;
pub mod encoder;
pub mod error;
pub mod estimate;
pub mod formats;
pub mod generator;
pub mod linear;
pub mod loader;
pub mod merge;
pub mod method;
pub mod optimizer;
pub mod plan;
pub mod ranks;
pub mod rope;
pub mod schedule;
pub mod trainer;

pub use error::{Result, TrainerError};
