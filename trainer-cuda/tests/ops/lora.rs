//! The low-rank path.

use trainer_cuda::device::Device;

use crate::linear::product;
use crate::support::{Random, assert_close, dot, gradient, on_every_device, output, sum, take, weight, wide};

/// Tokens, out, in, rank.
const SHAPES: [[usize; 4]; 5] = [[123, 515, 77, 8], [1, 64, 48, 1], [130, 33, 600, 16], [600, 20, 30, 4], [9, 5, 7, 3]];
const SCALING: f32 = 1.75;
/// Two chained sums of at most 600 products each, relative to the largest result: measured 1e-6 at most.
const TOLERANCE: f64 = 5e-6;

/// `x a^T` and `scaling * h b^T`.
fn reference([n, out, inp, rank]: [usize; 4], x: &[f64], a: &[f64], b: &[f64]) -> [Vec<f64>; 2] {
    let (h, _) = product([n, rank, inp], |t, i| x[t * inp + i], |i, r| a[r * inp + i]);
    let (y, _) = product([n, out, rank], |t, r| h[t * rank + r], |r, o| f64::from(SCALING) * b[o * rank + r]);
    [h, y]
}

#[test]
fn forward_adds_to_the_linear_layer() {
    for shape @ [n, out, inp, rank] in SHAPES {
        let mut random = Random(10);
        let (x, a, b) = (random.values(n * inp), random.values(rank * inp), random.values(out * rank));
        let before = random.values(n * out);
        let [h, y] = reference(shape, &wide(&x, n * inp), &wide(&a, rank * inp), &wide(&b, out * rank));
        for result in on_every_device(|cpu| {
            let (mut y, mut h) = (before.clone(), output(n * rank));
            let (a, b) = (weight(cpu, &a, rank, inp), weight(cpu, &b, out, rank));
            cpu.lora_forward(&mut y, &mut h, &x, &a, &b, SCALING, n);
            vec![take(h, n * rank), take(y, n * out)]
        }) {
            assert_close("h", &result[0], &h, TOLERANCE);
            assert_close("y", &result[1], &sum(&y, &wide(&before, n * out)), TOLERANCE);
        }
    }
}

#[test]
fn h_alone_is_that_of_the_forward_pass_bit_for_bit() {
    for [n, out, inp, rank] in SHAPES {
        let mut random = Random(12);
        let (x, a, b) = (random.values(n * inp), random.values(rank * inp), random.values(out * rank));
        on_every_device(|cpu| {
            let (a, b) = (weight(cpu, &a, rank, inp), weight(cpu, &b, out, rank));
            let (mut y, mut h, mut h_alone) = (output(n * out), output(n * rank), output(n * rank));
            cpu.lora_forward(&mut y, &mut h, &x, &a, &b, SCALING, n);
            cpu.lora_down(&mut h_alone, &x, &a, n);
            let (h, h_alone) = (take(h, n * rank), take(h_alone, n * rank));
            assert!(h == h_alone, "{n} tokens, rank {rank}");
            vec![h]
        });
    }
}

#[test]
fn backward_accumulates_the_products() {
    for [n, out, inp, rank] in SHAPES {
        let mut random = Random(11);
        let (x, a, b) = (random.values(n * inp), random.values(rank * inp), random.values(out * rank));
        let (dy, h) = (random.values(n * out), random.values(n * rank));
        let (dx, d_a, d_b) = (random.values(n * inp), random.values(rank * inp), random.values(out * rank));
        let scaling = f64::from(SCALING);
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let [x64, a64, b64, dy64, h64] = [&x, &a, &b, &dy, &h].map(|values| wide(values));
        let (d_h, _) = product([n, rank, out], |t, o| scaling * dy64[t * out + o], |o, r| b64[o * rank + r]);
        let (want_b, _) = product([out, rank, n], |o, t| scaling * dy64[t * out + o], |t, r| h64[t * rank + r]);
        let (want_a, _) = product([rank, inp, n], |r, t| d_h[t * rank + r], |t, i| x64[t * inp + i]);
        let (want_x, _) = product([n, inp, rank], |t, r| d_h[t * rank + r], |r, i| a64[r * inp + i]);
        for result in on_every_device(|cpu| {
            let (mut dx, mut d_a, mut d_b, mut d_h) = (dx.clone(), d_a.clone(), d_b.clone(), output(n * rank));
            let (a, b) = (weight(cpu, &a, rank, inp), weight(cpu, &b, out, rank));
            cpu.lora_backward(&mut dx, &mut d_a, &mut d_b, &mut d_h, &dy, &x, &h, &a, &b, SCALING, n);
            vec![take(d_h, n * rank), take(d_b, out * rank), take(d_a, rank * inp), take(dx, n * inp)]
        }) {
            assert_close("d_h", &result[0], &d_h, TOLERANCE);
            assert_close("d_b", &result[1], &sum(&want_b, &wide(&d_b)), TOLERANCE);
            assert_close("d_a", &result[2], &sum(&want_a, &wide(&d_a)), TOLERANCE);
            assert_close("dx", &result[3], &sum(&want_x, &wide(&dx)), TOLERANCE);
        }
    }
}

#[test]
fn backward_is_the_gradient_of_forward() {
    let shape @ [n, out, inp, rank] = [3, 5, 4, 2];
    let mut random = Random(12);
    let (x, a, b) = (random.values(n * inp), random.values(rank * inp), random.values(out * rank));
    let dy = random.values(n * out);
    let (x64, a64, b64) = (wide(&x, n * inp), wide(&a, rank * inp), wide(&b, out * rank));
    let loss = |x: &[f64], a: &[f64], b: &[f64]| dot(&reference(shape, x, a, b)[1], &wide(&dy, n * out));
    for result in on_every_device(|cpu| {
        let (mut y, mut h, mut d_h) = (vec![0.0; n * out], output(n * rank), output(n * rank));
        let (mut dx, mut d_a, mut d_b) = (vec![0.0; n * inp], vec![0.0; rank * inp], vec![0.0; out * rank]);
        let (a, b) = (weight(cpu, &a, rank, inp), weight(cpu, &b, out, rank));
        cpu.lora_forward(&mut y, &mut h, &x, &a, &b, SCALING, n);
        cpu.lora_backward(&mut dx, &mut d_a, &mut d_b, &mut d_h, &dy, &x, &h, &a, &b, SCALING, n);
        vec![dx, d_a, d_b]
    }) {
        assert_close("dx", &result[0], &gradient(&x64, |x| loss(x, &a64, &b64)), TOLERANCE);
        assert_close("d_a", &result[1], &gradient(&a64, |a| loss(&x64, a, &b64)), TOLERANCE);
        assert_close("d_b", &result[2], &gradient(&b64, |b| loss(&x64, &a64, b)), TOLERANCE);
    }
}
