//! Every operation of the CPU device: forward against a naive f64 reference, backward against central differences of
//! that reference, at every SIMD level, with one, two and three threads bit for bit.

mod adamw;
mod attention;
mod attention_cached;
mod attention_gradient;
mod attention_segments;
mod cross_entropy;
mod device;
mod dropout;
mod forests;
mod gelu;
mod layer_norm;
mod linear;
mod lora;
mod losses;
mod norm;
mod pool;
mod rows;
mod storages;
mod support;
mod swiglu;
