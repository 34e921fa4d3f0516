//! LoRA training by hand-written forward and backward passes over a small [`device::Device`].
//!
//! Read in this order: [`batch`] (a batch is a prefix forest), [`block`] (one block as two lists of device calls),
//! [`decoder`] and [`encoder`] (the models around the blocks), [`method`] (SFT, DPO, triplets), [`trainer`] (the loop).
//! [`device`] is the contract that a device fulfils.

pub mod adapter;
pub mod atomic_file;
pub mod batch;
pub mod block;
mod block_decode;
pub mod buffers;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod decoder;
pub mod device;
pub mod dropout;
pub mod encode;
pub mod encoder;
pub mod encoder_block;
pub mod encoder_buffers;
pub mod encoder_names;
pub mod encoder_plan;
pub mod error;
pub mod estimate;
pub mod formats;
pub mod generator;
pub mod generator_buffers;
pub mod head_norm;
pub mod layer_norm;
pub mod linear;
pub mod loader;
pub mod merge;
pub mod method;
mod not_finite;
pub mod plan;
pub mod rope;
pub mod sampling;
pub mod schedule;
pub mod text_batch;
pub mod trainer;

pub use error::{Result, TrainerError};
