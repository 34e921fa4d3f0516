//! LayerNorm.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;

use crate::support::{
    Random, UNIT, assert_close, assert_near, dot, gradient, on_every_device, output, sum, take, weight, wide,
};

const EPS: f32 = 1e-12; // BERT's

/// y, mean, rstd
fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64]) -> [Vec<f64>; 3] {
    let hidden = weight.len();
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let means: Vec<f64> = x.chunks(hidden).map(mean).collect();
    let centred: Vec<f64> = x.iter().enumerate().map(|(i, x)| x - means[i / hidden]).collect();
    let rstd = |x: &[f64]| 1.0 / (dot(x, x) / hidden as f64 + f64::from(EPS)).sqrt();
    let rstds: Vec<f64> = centred.chunks(hidden).map(rstd).collect();
    let y = |(i, x): (usize, &f64)| x * rstds[i / hidden] * weight[i % hidden] + bias[i % hidden];
    [centred.iter().enumerate().map(y).collect(), means, rstds]
}

struct Inputs {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

fn inputs(seed: u64, n: usize, hidden: usize) -> Inputs {
    let mut random = Random(seed);
    let (x, dy) = (random.values(n * hidden), random.values(n * hidden));
    Inputs { x, weight: random.values(hidden), bias: random.values(hidden), dy }
}

/// y, mean, rstd
fn forward(cpu: &Cpu, inputs: &Inputs, n: usize, hidden: usize) -> [Vec<f32>; 3] {
    let (w, b) = (weight(cpu, &inputs.weight, 1, hidden), weight(cpu, &inputs.bias, 1, hidden));
    let (mut y, mut mean, mut rstd) = (output(n * hidden), output(n), output(n));
    cpu.layer_norm_forward(&mut y, &mut mean, &mut rstd, &inputs.x, &w, &b, EPS, n);
    [take(y, n * hidden), take(mean, n), take(rstd, n)]
}

#[test]
fn forward_follows_the_equation() {
    for (n, hidden) in [(123, 515), (1, 384), (40, 768), (5, 2)] {
        let inputs = inputs(80, n, hidden);
        let bias = wide(&inputs.bias, hidden);
        let want = layer_norm(&wide(&inputs.x, n * hidden), &wide(&inputs.weight, hidden), &bias);
        for result in on_every_device(|cpu| forward(cpu, &inputs, n, hidden).to_vec()) {
            // Sums of values of order 1 in 16 lanes: hidden / 16 + 4 roundings, 52 at most, of a sum below hidden / 2.
            assert_near("mean", &result[1], &want[1], |_| 26.0 * UNIT);
            let error = |row: usize| 60.0 * UNIT * want[2][row].max(1.0);
            assert_near("rstd", &result[2], &want[2], |i| error(i) * want[2][i]);
            assert_near("y", &result[0], &want[0], |i| {
                2.0 * error(i / hidden) * (want[0][i] - bias[i % hidden]).abs().max(1.0)
            });
        }
    }
}

#[test]
fn a_large_mean_costs_no_more_than_its_own_rounding() {
    // Around 1000 with a deviation of 0.5; mean(x^2) - mean^2 in f32 would be off by 0.06 in 0.25.
    let (n, hidden) = (7, 384);
    let mut inputs = inputs(81, n, hidden);
    inputs.x[..n * hidden].iter_mut().for_each(|x| *x += 1000.0);
    let bias = wide(&inputs.bias, hidden);
    let want = layer_norm(&wide(&inputs.x, n * hidden), &wide(&inputs.weight, hidden), &bias);
    for result in on_every_device(|cpu| forward(cpu, &inputs, n, hidden).to_vec()) {
        // 28 roundings at most of sums up to 1000 shift every value alike: 1.7e-3 at worst, a tenth of that as a rule.
        assert_near("y", &result[0], &want[0], |_| 4e-4);
        assert_near("rstd", &result[2], &want[2], |i| 1e-6 * want[2][i]);
    }
}

#[test]
fn backward_is_the_gradient_of_forward() {
    for (n, hidden) in [(3, 37), (60, 33), (4, 3)] {
        let inputs = inputs(82, n, hidden);
        let mut random = Random(83);
        let (d_weight, d_bias) = (random.values(hidden), random.values(hidden));
        let (x, w, b) = (wide(&inputs.x, n * hidden), wide(&inputs.weight, hidden), wide(&inputs.bias, hidden));
        let dy = wide(&inputs.dy, n * hidden);
        let loss = |x: &[f64], w: &[f64], b: &[f64]| dot(&layer_norm(x, w, b)[0], &dy);
        let want_x = gradient(&x, |x| loss(x, &w, &b));
        let want_w = sum(&gradient(&w, |w| loss(&x, w, &b)), &wide(&d_weight, hidden));
        let want_b = sum(&gradient(&b, |b| loss(&x, &w, b)), &wide(&d_bias, hidden));
        for result in on_every_device(|cpu| {
            let [y, mean, rstd] = forward(cpu, &inputs, n, hidden);
            let (w, b) = (weight(cpu, &inputs.weight, 1, hidden), weight(cpu, &inputs.bias, 1, hidden));
            let (mut dx, mut d_weight, mut d_bias) = (output(n * hidden), d_weight.clone(), d_bias.clone());
            let mut y_again = output(n * hidden);
            let (grad_w, grad_b, again) = (Some(&mut d_weight), Some(&mut d_bias), Some(&mut y_again));
            cpu.layer_norm_backward(&mut dx, grad_w, grad_b, again, &inputs.dy, &inputs.x, &mean, &rstd, &w, &b, n);
            assert_eq!(take(y_again, n * hidden), y, "y again, bit for bit");
            vec![take(dx, n * hidden), take(d_weight, hidden), take(d_bias, hidden)]
        }) {
            // Sums of 60 values of order 1 in f32: 60 roundings of 6e-8 at worst.
            assert_close("dx", &result[0], &want_x, 4e-6);
            assert_close("d_weight", &result[1], &want_w, 4e-6);
            assert_close("d_bias", &result[2], &want_b, 4e-6);
        }
    }
}

#[test]
fn backward_is_the_same_with_frozen_parameters_and_on_many_threads() {
    let (n, hidden) = (123, 515);
    let inputs = inputs(84, n, hidden);
    on_every_device(|cpu| {
        let [y, mean, rstd] = forward(cpu, &inputs, n, hidden);
        let (w, b) = (weight(cpu, &inputs.weight, 1, hidden), weight(cpu, &inputs.bias, 1, hidden));
        let run = |d_weight: Option<&mut Vec<f32>>, d_bias: Option<&mut Vec<f32>>, y: Option<&mut Vec<f32>>| {
            let mut dx = output(n * hidden);
            cpu.layer_norm_backward(&mut dx, d_weight, d_bias, y, &inputs.dy, &inputs.x, &mean, &rstd, &w, &b, n);
            take(dx, n * hidden)
        };
        let (mut d_weight, mut d_bias, mut y_again) = (vec![0.0; hidden], vec![0.0; hidden], output(n * hidden));
        let trained = run(Some(&mut d_weight), Some(&mut d_bias), Some(&mut y_again));
        assert_eq!(run(None, None, None), trained);
        assert_eq!(take(y_again, n * hidden), y, "y again, bit for bit");
        vec![trained, d_weight, d_bias]
    });
}
