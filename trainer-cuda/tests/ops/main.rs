//! Every operation of the CPU device: forward against a naive f64 reference, backward against central differences of
//! that reference, at every SIMD level, with one, two and three threads bit for bit.

mod adamw;
mod attention;
mod attention_gradient;
mod cross_entropy;
mod device;
mod forests;
mod linear;
mod lora;
mod norm;
mod rows;
mod storages;
mod support;
mod swiglu;
