//! Tunesmith: telemetry of LLM agents in, LoRA adapters out. [`pipeline::finetune`] is the whole run.

pub mod approval;
pub mod artefacts;
pub mod authoring;
pub mod cli;
pub mod commands;
pub mod compute;
pub mod config;
pub mod dataset;
pub mod error;
pub mod gpus;
mod http;
pub mod job;
pub mod memory;
pub mod people;
pub mod phoenix;
pub mod pipeline;
pub mod plugins;
pub mod progress;
pub mod remote;
pub mod report;
pub mod review;
pub mod run_dir;
pub mod runs;
pub mod server;
pub mod synthetic;
pub mod telemetry;
pub mod tenants;

pub use error::HostError;
