//! Rotary positions (Su et al. 2021, eq. 34), half-split.

use super::Cpu;
use super::elementwise::GRAIN;
use super::parallel::rows;
use super::simd::{Simd, dispatch};
use crate::device::AttentionShape;

/// Rotates queries and keys by the position's angle times `direction`, 1 or -1.
pub(super) fn rotate_both(
    cpu: &Cpu,
    q: &mut [f32],
    k: &mut [f32],
    position: &[u32],
    cos: &[f32],
    sin: &[f32],
    shape: AttentionShape,
    direction: f32,
) {
    let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
    rotate(cpu, q, position, cos, sin, heads, head_dim, n_tokens, direction);
    rotate(cpu, k, position, cos, sin, kv_heads, head_dim, n_tokens, direction);
}

fn rotate(
    cpu: &Cpu,
    x: &mut [f32],
    position: &[u32],
    cos: &[f32],
    sin: &[f32],
    heads: usize,
    head_dim: usize,
    n_tokens: usize,
    direction: f32,
) {
    let (width, half) = (heads * head_dim, head_dim / 2);
    assert_eq!(head_dim % 2, 0, "head_dim is even");
    cpu.for_rows(n_tokens, GRAIN.div_ceil(width), rows(x, n_tokens, width), |range, x| {
        for (x, &position) in x.into_slice().chunks_exact_mut(width).zip(&position[range]) {
            let at = position as usize * half;
            token(cpu.simd, x, &cos[at..at + half], &sin[at..at + half], direction);
        }
    });
}

dispatch! { fn token = token_simd(x: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) }

#[inline(always)]
fn token_simd<S: Simd>(x: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    for head in x.chunks_exact_mut(2 * cos.len()) {
        let (first, second) = head.split_at_mut(cos.len());
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let sin = direction * sin;
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
