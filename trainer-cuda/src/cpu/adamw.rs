//! The end of a step: the gradient's norm, and AdamW.

use super::Cpu;
use super::elementwise::GRAIN;
use super::parallel::rows;
use super::simd::{LANES, Simd, dispatch};
use crate::device::{AdamW, LOG_COLUMNS, SUMS, StepState, Trainable};

/// The norm's groups are fixed, so that its f64 sum is too.
fn grad_norm(cpu: &Cpu, trained: &[Trainable<Cpu>]) -> f32 {
    let square = |t: &Trainable<Cpu>| {
        let grad = &t.grad[..t.weight.values().len()];
        cpu.sum(grad.len(), GRAIN, |range| sum_of_squares(cpu.simd, &grad[range]))
    };
    trained.iter().map(square).sum::<f64>().sqrt() as f32
}

pub(super) fn end_step(cpu: &Cpu, state: &mut StepState<Cpu>, trained: &[Trainable<Cpu>]) {
    let grad_norm = grad_norm(cpu, trained);
    let (max_grad_norm, row) = (state.scalars[0], state.scalars[1] as usize);
    let clip = if max_grad_norm > 0.0 { (max_grad_norm / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
    let finite = state.sums[0].is_finite() && grad_norm.is_finite();
    state.control[0] = clip; // never scales up
    if !finite {
        state.control[1] = 1.0;
    }
    let log = &mut state.log[row * LOG_COLUMNS..][..LOG_COLUMNS];
    log[..SUMS].copy_from_slice(&state.sums[..SUMS]);
    log[SUMS] = f64::from(grad_norm);
    state.sums.fill(0.0);
}

/// One step for every tensor, in the order of `torch.optim.AdamW` (`_single_tensor_adamw`).
pub(super) fn step(cpu: &Cpu, trained: &mut [Trainable<Cpu>], state: &StepState<Cpu>, constants: AdamW) {
    let [clip, halted] = [state.control[0], state.control[1]];
    if halted != 0.0 {
        return;
    }
    let factors = Factors::new(clip, &state.scalars, constants);
    // A large tensor is cut up; an adapter's many small ones go to the threads whole.
    let is_large = |t: &Trainable<Cpu>| t.weight.values().len() > 4 * GRAIN;
    for t in trained.iter_mut().filter(|t| is_large(t)) {
        update_tensor(cpu, t, factors);
    }
    let n = trained.len();
    cpu.for_rows(n, 1, rows(trained, n, 1), |_, trained| {
        for t in trained.into_slice().iter_mut().filter(|t| !is_large(t)) {
            update_tensor(cpu, t, factors);
        }
    });
}

fn update_tensor(cpu: &Cpu, t: &mut Trainable<Cpu>, factors: Factors) {
    let weight = t.weight.values_mut();
    let len = weight.len();
    let state = (rows(weight, len, 1), rows(&mut t.exp_avg, len, 1), rows(&mut t.exp_avg_sq, len, 1));
    cpu.for_rows(len, GRAIN, state, |range, (weight, exp_avg, exp_avg_sq)| {
        let (weight, exp_avg, exp_avg_sq) = (weight.into_slice(), exp_avg.into_slice(), exp_avg_sq.into_slice());
        update(cpu.simd, weight, exp_avg, exp_avg_sq, &t.grad[range], factors);
    });
}

/// What every element needs, computed in f64 as Python does and rounded once.
#[derive(Clone, Copy)]
struct Factors {
    grad_scale: f32,
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    bias_correction2_sqrt: f32,
    epsilon: f32,
}

impl Factors {
    fn new(grad_scale: f32, scalars: &[f32], constants: AdamW) -> Self {
        let AdamW { beta1, beta2, epsilon } = constants;
        Factors {
            grad_scale,
            decay: scalars[2],
            one_minus_beta1: (1.0 - f64::from(beta1)) as f32,
            beta2,
            one_minus_beta2: (1.0 - f64::from(beta2)) as f32,
            step_size: scalars[3],
            bias_correction2_sqrt: scalars[4],
            epsilon,
        }
    }
}

dispatch! { fn update = update_simd(
    weight: &mut [f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
    grad: &[f32],
    factors: Factors,
) }

#[inline(always)]
fn update_simd<S: Simd>(weight: &mut [f32], exp_avg: &mut [f32], exp_avg_sq: &mut [f32], grad: &[f32], f: Factors) {
    for (((weight, m), v), grad) in weight.iter_mut().zip(exp_avg).zip(exp_avg_sq).zip(grad) {
        let grad = grad * f.grad_scale;
        *weight *= f.decay;
        *m += f.one_minus_beta1 * (grad - *m);
        *v = *v * f.beta2 + f.one_minus_beta2 * grad * grad;
        *weight -= f.step_size * (*m / (v.sqrt() / f.bias_correction2_sqrt + f.epsilon));
    }
}

dispatch! { fn sum_of_squares = sum_of_squares_simd(values: &[f32]) -> f64 }

#[inline(always)]
fn sum_of_squares_simd<S: Simd>(values: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}
