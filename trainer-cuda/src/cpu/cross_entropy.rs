//! The vocabulary projection with its softmax, chunk by chunk.

use super::elementwise::GRAIN;
use super::exp::exp;
use super::parallel::{Ragged, rows};
use super::simd::{LANES, Simd, dispatch};
use super::{Cpu, Matrix, linear};
use crate::device::{CrossEntropyGrad, EdgeBuffers};

/// Logits per partial result: a block's sum is f32 (32 terms a lane), the sum of blocks f64.
const BLOCK: usize = 512;

pub(super) fn linear_cross_entropy(
    cpu: &Cpu,
    logprob: &mut [f32],
    argmax: &mut [u32],
    logits: &mut [f32],
    x: &[f32],
    head: &Matrix,
    edges: &EdgeBuffers<Cpu>,
    n_rows: usize,
    chunk_rows: usize,
    mut grad: Option<CrossEntropyGrad<'_, Cpu>>,
) {
    let (vocab, hidden) = (head.rows, head.cols);
    let edge_start = &edges.edge_start[..=n_rows];
    for first in (0..n_rows).step_by(chunk_rows) {
        let n = chunk_rows.min(n_rows - first);
        let x = &x[first * hidden..][..n * hidden];
        linear::forward(cpu, logits, x, head, n);

        let offsets = &edge_start[first..=first + n];
        let logprob = Ragged { data: &mut logprob[offsets[0] as usize..offsets[n] as usize], offsets };
        let buffers = (rows(logits, n, vocab), rows(&mut argmax[first..], n, 1), logprob);
        let d_logprob = grad.as_ref().map(|grad| grad.d_logprob.as_slice());
        cpu.for_rows(n, GRAIN.div_ceil(vocab), buffers, |_, (logits, argmax, logprob)| {
            let (offsets, mut logprob) = (logprob.offsets, logprob.data);
            let row_logits = logits.into_slice().chunks_exact_mut(vocab);
            for ((logits, argmax), edge) in row_logits.zip(argmax.into_slice()).zip(offsets.windows(2)) {
                let edge = edge[0] as usize..edge[1] as usize;
                let row_logprob;
                (row_logprob, logprob) = logprob.split_at_mut(edge.len());
                let targets = &edges.edge_target[edge.clone()];
                *argmax = row(cpu.simd, logits, row_logprob, targets, d_logprob.map(|d| &d[edge])) as u32;
            }
        });

        if let Some(grad) = &mut grad {
            linear::backward_input(cpu, &mut grad.d_x[first * hidden..], logits, head, n, false);
            if let Some(d_head) = &mut grad.d_head {
                linear::backward_weight(cpu, d_head, logits, x, vocab, hidden, n);
            }
        }
    }
}

dispatch! { fn row = row_simd(
    logits: &mut [f32],
    logprob: &mut [f32],
    targets: &[u32],
    d_logprob: Option<&[f32]>,
) -> usize }

/// Scores the edges of one row and, with `d_logprob`, turns its logits into their gradient. Returns the argmax.
#[inline(always)]
fn row_simd<S: Simd>(logits: &mut [f32], logprob: &mut [f32], targets: &[u32], d_logprob: Option<&[f32]>) -> usize {
    let (argmax, max) = first_max::<S>(logits);
    for (logprob, &target) in logprob.iter_mut().zip(targets) {
        *logprob = logits[target as usize];
    }
    let sum = exponentials::<S>(logits, max);
    let lse = f64::from(max) + sum.ln();
    for logprob in logprob {
        *logprob = (f64::from(*logprob) - lse) as f32;
    }
    if let Some(d_logprob) = d_logprob {
        let total: f64 = d_logprob.iter().map(|&d| f64::from(d)).sum();
        let scale = (-total / sum) as f32;
        for d_logit in logits.iter_mut() {
            *d_logit *= scale;
        }
        for (&d, &target) in d_logprob.iter().zip(targets) {
            logits[target as usize] += d;
        }
    }
    argmax
}

/// The first index of the largest value, and that value.
#[inline(always)]
fn first_max<S: Simd>(logits: &[f32]) -> (usize, f32) {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (mut start, mut max) = (0, f32::NEG_INFINITY);
    for (block, values) in logits.chunks(BLOCK).enumerate() {
        let (whole, rest) = values.as_chunks::<LANES>();
        let lanes = whole.iter().fold(S::splat(max), |lanes, values| S::max(lanes, S::load(values)));
        let block_max = S::to_array(lanes).into_iter().chain(rest.iter().copied()).fold(max, larger);
        if block_max > max {
            (start, max) = (block * BLOCK, block_max);
        }
    }
    // Not found where a NaN was compared: the loss is NaN then, and the argmax means nothing.
    let within = logits[start..].iter().position(|&x| x == max).unwrap_or(0);
    (start + within, max)
}

/// Replaces each logit by `e^(logit - max)` and returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(logits: &mut [f32], max: f32) -> f64 {
    let mut total = 0.0;
    for values in logits.chunks_mut(BLOCK) {
        let (whole, rest) = values.as_chunks_mut::<LANES>();
        let mut sum = S::splat(0.0);
        for values in whole {
            let e = exp::<S>(S::sub(S::load(values), S::splat(max)));
            S::store(values, e);
            sum = S::add(sum, e);
        }
        S::write(rest, exp::<S>(S::sub(S::read(rest), S::splat(max))));
        total += f64::from(S::sum(sum)) + rest.iter().map(|&e| f64::from(e)).sum::<f64>();
    }
    total
}
