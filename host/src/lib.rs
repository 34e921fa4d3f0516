//! Tunesmith: telemetry of LLM agents in, LoRA adapters out.

pub mod plugins;
