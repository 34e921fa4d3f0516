//! Tunesmith: telemetry of LLM agents in, LoRA adapters out.

pub mod dataset;
pub mod plugins;
pub mod telemetry;
