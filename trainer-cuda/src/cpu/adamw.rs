//! The optimiser step and the gradient's norm.

use super::Cpu;
use super::elementwise::GRAIN;
use super::parallel::rows;
use super::simd::{LANES, Simd, dispatch};
use crate::device::{AdamW, Trainable};

/// The norm's groups are fixed, so that its f64 sum is too.
pub(super) fn grad_norm(cpu: &Cpu, trainables: &[Trainable<Cpu>]) -> f32 {
    let square = |t: &Trainable<Cpu>| {
        let grad = &t.grad[..t.weight.values().len()];
        cpu.sum(grad.len(), GRAIN, |range| sum_of_squares(cpu.simd, &grad[range]))
    };
    trainables.iter().map(square).sum::<f64>().sqrt() as f32
}

/// One step for every tensor, in the order of `torch.optim.AdamW` (`_single_tensor_adamw`).
pub(super) fn step(cpu: &Cpu, trainables: &mut [Trainable<Cpu>], step: AdamW) {
    let factors = Factors::new(step);
    // A large tensor is cut up; an adapter's many small ones go to the threads whole.
    let is_large = |t: &Trainable<Cpu>| t.weight.values().len() > 4 * GRAIN;
    for t in trainables.iter_mut().filter(|t| is_large(t)) {
        update_tensor(cpu, t, factors);
    }
    let n = trainables.len();
    cpu.for_rows(n, 1, rows(trainables, n, 1), |_, trainables| {
        for t in trainables.into_slice().iter_mut().filter(|t| !is_large(t)) {
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
    fn new(step: AdamW) -> Self {
        let [learning_rate, beta1, beta2, weight_decay] =
            [step.learning_rate, step.beta1, step.beta2, step.weight_decay].map(f64::from);
        Factors {
            grad_scale: step.grad_scale,
            decay: (1.0 - learning_rate * weight_decay) as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: step.beta2,
            one_minus_beta2: (1.0 - beta2) as f32,
            step_size: (learning_rate / (1.0 - beta1.powi(step.step))) as f32,
            bias_correction2_sqrt: (1.0 - beta2.powi(step.step)).sqrt() as f32,
            epsilon: step.epsilon,
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
