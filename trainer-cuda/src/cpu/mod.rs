//! The CPU device: threads and SIMD, f32 throughout.
