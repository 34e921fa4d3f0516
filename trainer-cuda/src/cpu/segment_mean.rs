//! The mean over each segment's rows.

use super::Cpu;
use super::elementwise::GRAIN;
use super::parallel::rows;

pub(super) fn forward(cpu: &Cpu, y: &mut [f32], x: &[f32], offsets: &[u32], hidden: usize) {
    let (n_segments, n_tokens) = checked(offsets);
    let grain = GRAIN.div_ceil(hidden * n_tokens.div_ceil(n_segments.max(1)).max(1));
    cpu.for_rows(n_segments, grain, rows(y, n_segments, hidden), |range, y| {
        for (y, segment) in y.into_slice().chunks_exact_mut(hidden).zip(offsets[range.start..=range.end].windows(2)) {
            y.fill(0.0);
            for x in x[segment[0] as usize * hidden..segment[1] as usize * hidden].chunks_exact(hidden) {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            }
            let scale = reciprocal(segment);
            y.iter_mut().for_each(|y| *y *= scale);
        }
    });
}

pub(super) fn backward(cpu: &Cpu, dx: &mut [f32], dy: &[f32], offsets: &[u32], hidden: usize, n_tokens: usize) {
    let (_, n_pooled) = checked(offsets);
    dx[n_pooled * hidden..n_tokens * hidden].fill(0.0);
    let n_tokens = n_pooled;
    cpu.for_rows(n_tokens, GRAIN.div_ceil(hidden), rows(dx, n_tokens, hidden), |range, dx| {
        // The last segment that starts at or before the row: those before it at the same offset are empty.
        let mut segment = offsets.partition_point(|&start| start as usize <= range.start) - 1;
        for (dx, t) in dx.into_slice().chunks_exact_mut(hidden).zip(range) {
            while offsets[segment + 1] as usize <= t {
                segment += 1;
            }
            let scale = reciprocal(&offsets[segment..]);
            for (dx, dy) in dx.iter_mut().zip(&dy[segment * hidden..][..hidden]) {
                *dx = dy * scale;
            }
        }
    });
}

/// One over the rows of a segment `[start, end]`; of an empty one, a number.
fn reciprocal(segment: &[u32]) -> f32 {
    1.0 / (segment[1] - segment[0]).max(1) as f32
}

/// Segments and tokens.
fn checked(offsets: &[u32]) -> (usize, usize) {
    assert!(offsets[0] == 0 && offsets.is_sorted(), "segments that do not follow each other from 0");
    (offsets.len() - 1, offsets[offsets.len() - 1] as usize)
}
