//! LoRA training by hand-written forward and backward passes over a small [`device::Device`].

pub mod config;
pub mod cpu;
pub mod device;
pub mod error;
pub mod formats;

pub use error::{Result, TrainerError};
