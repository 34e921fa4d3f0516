//! The optimiser step and the gradient's norm.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{AdamW, Device, Trainable};

use crate::support::{Random, UNIT, assert_near, on_every_device, take, weight, wide};

fn trainable(cpu: &Cpu, values: &[f32], rows: usize, cols: usize, grad: Vec<f32>) -> Trainable<Cpu> {
    let state = || [vec![0.0; rows * cols], grad[rows * cols..].to_vec()].concat();
    let (exp_avg, exp_avg_sq) = (state(), state());
    Trainable { name: "w".into(), weight: weight(cpu, values, rows, cols), grad, exp_avg, exp_avg_sq }
}

const STEP: AdamW = AdamW {
    learning_rate: 0.01,
    beta1: 0.875,
    beta2: 0.96875,
    epsilon: 1e-8,
    weight_decay: 0.125,
    grad_scale: 0.5,
    step: 1,
};

#[test]
fn three_steps_equal_torch() {
    // torch 2 AdamW(lr=0.01, betas=(0.875, 0.96875), eps=0.0625, weight_decay=0.125), gradients halved as clipping would.
    let gradients = [[0.25, -2.0, 0.001, 1.0], [0.5, 1.5, -0.002, 1.0], [-0.75, 0.125, 0.004, -3.0]];
    let want_weight = [0.48482972383499146, -1.2349965572357178, 2.988642454147339, -0.007464583497494459];
    let want_avg = [-0.007568359375, -0.005859375, 0.0001884765806607902, -0.0849609375];
    let want_avg_sq = [0.006744861602783203, 0.046478271484375, 1.6260530344425206e-07, 0.08521270751953125];
    for result in on_every_device(|cpu| {
        let mut tensors = [trainable(cpu, &[0.5, -1.25, 3.0, 0.0078125], 1, 4, vec![0.0; 4])];
        for (i, gradient) in gradients.iter().enumerate() {
            cpu.write_f32(&mut tensors[0].grad, gradient);
            cpu.adamw_step(&mut tensors, AdamW { epsilon: 0.0625, step: i as i32 + 1, ..STEP });
        }
        let [t] = tensors;
        vec![cpu.read_weight(&t.weight), t.exp_avg, t.exp_avg_sq]
    }) {
        // Weights reach 3.0, whose last bit is 2.4e-7; moments are the same operations, fused or not.
        assert_near("weight", &result[0], &want_weight, |i| 4.0 * UNIT * want_weight[i].abs().max(0.01));
        assert_near("exp_avg", &result[1], &want_avg, |i| 4.0 * UNIT * want_avg[i].abs());
        assert_near("exp_avg_sq", &result[2], &want_avg_sq, |i| 4.0 * UNIT * want_avg_sq[i].abs());
    }
}

#[test]
fn a_step_updates_every_tensor_and_nothing_behind_it() {
    let shapes = [(1, 1), (123, 515), (8, 576), (3, 7)];
    let mut random = Random(80);
    let tensors: Vec<_> =
        shapes.iter().map(|(rows, cols)| (random.values(rows * cols), random.values(rows * cols))).collect();
    for result in on_every_device(|cpu| {
        let build = |((rows, cols), (w, grad)): (_, &(Vec<f32>, _))| trainable(cpu, w, rows, cols, Vec::clone(grad));
        let mut trainables: Vec<_> = shapes.into_iter().zip(&tensors).map(build).collect();
        cpu.adamw_step(&mut trainables, STEP);
        let results = trainables.into_iter().zip(shapes).flat_map(|(t, (rows, cols))| {
            let n = rows * cols;
            [cpu.read_weight(&t.weight), take(t.exp_avg, n), take(t.exp_avg_sq, n)]
        });
        results.collect()
    }) {
        for (i, ((rows, cols), (w, grad))) in shapes.iter().zip(&tensors).enumerate() {
            let n = rows * cols;
            let (w, grad) = (wide(w, n), wide(grad, n));
            // In the first step both corrected moments are the gradient's: a step of lr against its sign.
            let want: Vec<f64> = (0..n).map(|j| w[j] * (1.0 - 0.01 * 0.125) - 0.01 * grad[j].signum()).collect();
            // Four roundings at 1 (decay, its product, step, difference); where |grad / 2| is 1e-6, epsilon's 1e-8
            // takes 1% of the step.
            let tolerance = |j: usize| 4.0 * UNIT + 0.01 * 1e-8 / (grad[j].abs() / 2.0 + 1e-8);
            assert_near("weight", &result[3 * i], &want, tolerance);
            let want_avg: Vec<f64> = grad.iter().map(|g| g / 2.0 * 0.125).collect();
            assert_near("exp_avg", &result[3 * i + 1], &want_avg, |j| 2.0 * UNIT * want_avg[j].abs());
        }
    }
}

#[test]
fn grad_norm_is_over_all_tensors() {
    let shapes = [(123, 515), (1, 1), (8, 576)];
    let mut random = Random(81);
    let gradients: Vec<_> = shapes.iter().map(|(rows, cols)| random.values(rows * cols)).collect();
    let squares =
        |(grad, (rows, cols)): (&Vec<f32>, &(usize, usize))| wide(grad, rows * cols).iter().map(|g| g * g).sum::<f64>();
    let want = gradients.iter().zip(&shapes).map(squares).sum::<f64>().sqrt();
    for result in on_every_device(|cpu| {
        let build =
            |(grad, &(rows, cols)): (&Vec<f32>, &(usize, usize))| trainable(cpu, grad, rows, cols, grad.clone());
        let trainables: Vec<_> = gradients.iter().zip(&shapes).map(build).collect();
        vec![vec![cpu.grad_norm(&trainables), cpu.grad_norm(&[])]]
    }) {
        // Summed in f64: one rounding to f32 is all.
        assert_near("norm", &result[0], &[want, 0.0], |i| [UNIT * want, 0.0][i]);
    }
}

#[test]
fn grad_norm_of_huge_gradients_is_finite() {
    let cpu = Cpu::new(Some(1));
    let norm = cpu.grad_norm(&[trainable(&cpu, &[0.0; 2], 1, 2, vec![3e30, 4e30])]);
    assert_eq!(norm, 5e30);
}
