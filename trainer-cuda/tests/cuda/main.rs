//! Every operation of the CUDA device against the CPU device.

mod adamw;
mod attention;
mod child;
mod cross_entropy;
mod elementwise;
mod embedding;
mod libraries;
mod linear;
mod losses;
mod norms;
mod own_products;
mod planted;
mod pool;
mod rows;
mod support;
mod uploads;
