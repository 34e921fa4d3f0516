//! SwiGLU (Shazeer 2020): `y = silu(gate) * up`, `silu(g) = g / (1 + e^-g)`.

use super::Cpu;
use super::elementwise::GRAIN;
use super::exp::sigmoid;
use super::parallel::rows;
use super::simd::{LANES, Simd, dispatch};

pub(super) fn forward(cpu: &Cpu, y: &mut [f32], gate: &[f32], up: &[f32], len: usize) {
    cpu.for_rows(len, GRAIN, rows(y, len, 1), |range, y| {
        forward_part(cpu.simd, y.into_slice(), &gate[range.clone()], &up[range]);
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    d_gate: &mut [f32],
    d_up: &mut [f32],
    dy: &[f32],
    gate: &[f32],
    up: &[f32],
    len: usize,
) {
    cpu.for_rows(len, GRAIN, (rows(d_gate, len, 1), rows(d_up, len, 1)), |range, (d_gate, d_up)| {
        let (dy, gate, up) = (&dy[range.clone()], &gate[range.clone()], &up[range]);
        backward_part(cpu.simd, d_gate.into_slice(), d_up.into_slice(), dy, gate, up);
    });
}

dispatch! { fn forward_part = forward_part_simd(y: &mut [f32], gate: &[f32], up: &[f32]) }

#[inline(always)]
fn forward_part_simd<S: Simd>(y: &mut [f32], gate: &[f32], up: &[f32]) {
    for i in (0..y.len()).step_by(LANES) {
        let gate = S::read(&gate[i..]);
        let silu = S::mul(gate, sigmoid::<S>(gate));
        S::write(&mut y[i..], S::mul(silu, S::read(&up[i..])));
    }
}

dispatch! { fn backward_part = backward_part_simd(
    d_gate: &mut [f32],
    d_up: &mut [f32],
    dy: &[f32],
    gate: &[f32],
    up: &[f32],
) }

#[inline(always)]
fn backward_part_simd<S: Simd>(d_gate: &mut [f32], d_up: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
    let one = S::splat(1.0);
    for i in (0..dy.len()).step_by(LANES) {
        let (dy, gate, up) = (S::read(&dy[i..]), S::read(&gate[i..]), S::read(&up[i..]));
        let s = sigmoid::<S>(gate);
        // silu'(g) = s * (1 + g * (1 - s))
        let slope = S::mul(s, S::mul_add(gate, S::sub(one, s), one));
        S::write(&mut d_up[i..], S::mul(dy, S::mul(gate, s)));
        S::write(&mut d_gate[i..], S::mul(S::mul(dy, up), slope));
    }
}
