//! Our numbers against Hugging Face's: losses, gradients, trajectories and embeddings of every model of the golden set, on
//! the CPU in f32 and on the GPU in bf16 (an emulated one, unless `TUNESMITH_REAL_GPU=1`).
//!
//! Reads the folder named by `TUNESMITH_GOLDEN`, else `tests/fixtures/golden`: one sub-folder a model with `base/`,
//! `adapter_init/`, `ref.json` and `ref.safetensors`. Every number starts from `adapter_init`. Prints a row a model
//! and check, and the worst deviation of every tensor.

mod bench;
mod dpo;
mod encoder;
#[path = "../cuda/libraries.rs"]
mod libraries;
mod set;
mod sft;
