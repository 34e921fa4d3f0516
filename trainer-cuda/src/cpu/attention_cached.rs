//! Attention of new tokens over a cache of keys and values.

use super::Cpu;
use super::attention::{self, KeyMask};
use super::attention_kernels::forward_block;
use super::parallel::rows;
use super::simd::LANES;
use crate::device::AttentionShape;

pub(super) fn forward(
    cpu: &Cpu,
    o: &mut [f32],
    q: &[f32],
    k_cache: &[f32],
    v_cache: &[f32],
    n_past: usize,
    shape: AttentionShape,
) {
    attention::check_heads(shape);
    let AttentionShape { n_tokens: n_new, heads, head_dim, .. } = shape;
    cpu.for_rows(n_new, LANES, rows(o, n_new, heads * head_dim), |range, o| {
        let out = o.into_slice().chunks_mut(LANES * heads * head_dim);
        for (start, o) in range.step_by(LANES).zip(out) {
            forward_block(cpu.simd, o, None, q, k_cache, v_cache, KeyMask::Cached { n_past }, start, shape);
        }
    });
}
