//! Linear layers, and with them the matrix product in all three layouts.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{Device, Modules};

use crate::support::{Random, UNIT, assert_near, gradient, on_every_device, output, single, sum, take, weight, wide};

/// Tokens, out, in: single elements, shapes that no tile divides, several K blocks (in > 512), more rows than are
/// packed at a time (2048), whole tiles, a thin product whose rows are split over threads.
const SHAPES: [[usize; 3]; 8] = [
    [1, 1, 1],
    [123, 515, 77],
    [7, 49, 1100],
    [2100, 3, 5],
    [48, 96, 64],
    [1, 130, 600],
    [61, 17, 513],
    [1000, 8, 576],
];

/// `[m, k] x [k, n]` from element functions, and the same with absolute values: what rounding errors scale with.
pub(crate) fn product(
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let cell = |i, f: &dyn Fn(f64) -> f64| (0..k).map(|p| f(a(i / n, p) * b(p, i % n))).sum::<f64>();
    ((0..m * n).map(|i| cell(i, &|x| x)).collect(), (0..m * n).map(|i| cell(i, &f64::abs)).collect())
}

/// A sum of `k` products in f32 is off by at most `k` roundings of the sum of absolute values (Higham 2002, eq. 3.5);
/// two more for what it is added to.
pub(crate) fn rounding(k: usize, magnitude: &[f64]) -> impl Fn(usize) -> f64 {
    move |i| (k + 2) as f64 * UNIT * (magnitude[i] + 1.0)
}

#[test]
fn forward_is_the_product() {
    for [n_tokens, out, inp] in SHAPES {
        let mut random = Random(1);
        let (x, w) = (random.values(n_tokens * inp), random.values(out * inp));
        let (want, magnitude) =
            product([n_tokens, out, inp], |t, i| x[t * inp + i].into(), |i, o| w[o * inp + i].into());
        for result in on_every_device(|cpu| {
            let mut y = output(n_tokens * out);
            cpu.linear_forward([&mut y], &x, [None], &single(&weight(cpu, &w, out, inp)), None, n_tokens);
            vec![take(y, n_tokens * out)]
        }) {
            assert_near("y", &result[0], &want, rounding(inp, &magnitude));
        }
    }
}

#[test]
fn backward_input_is_the_product_and_is_added_to_a_residual() {
    for [n_tokens, out, inp] in SHAPES {
        let mut random = Random(2);
        let (dy, w, residual) =
            (random.values(n_tokens * out), random.values(out * inp), random.values(n_tokens * inp));
        let (want, magnitude) =
            product([n_tokens, inp, out], |t, o| dy[t * out + o].into(), |o, i| w[o * inp + i].into());
        for result in on_every_device(|cpu| {
            let (mut dx, mut dx_sum, w) = (output(n_tokens * inp), output(n_tokens * inp), weight(cpu, &w, out, inp));
            cpu.linear_backward_input(&mut dx, [&dy], [None], &single(&w), None, n_tokens);
            cpu.linear_backward_input(&mut dx_sum, [&dy], [None], &single(&w), Some(&residual), n_tokens);
            vec![take(dx, n_tokens * inp), take(dx_sum, n_tokens * inp)]
        }) {
            assert_near("dx", &result[0], &want, rounding(out, &magnitude));
            let want_sum = sum(&want, &wide(&residual, n_tokens * inp));
            assert_near("dx with a residual", &result[1], &want_sum, rounding(out, &magnitude));
        }
    }
}

#[test]
fn backward_weight_accumulates_the_product() {
    for [n_tokens, out, inp] in SHAPES {
        let mut random = Random(3);
        let (dy, x, before) = (random.values(n_tokens * out), random.values(n_tokens * inp), random.values(out * inp));
        let (want, magnitude) =
            product([out, inp, n_tokens], |o, t| dy[t * out + o].into(), |t, i| x[t * inp + i].into());
        for result in on_every_device(|cpu| {
            let mut d_weight = before.clone();
            cpu.linear_backward_weight(&mut d_weight, &dy, &x, out, inp, n_tokens);
            vec![take(d_weight, out * inp)]
        }) {
            let want = sum(&want, &wide(&before, out * inp));
            assert_near("d_weight", &result[0], &want, rounding(n_tokens, &magnitude));
        }
    }
}

#[test]
fn backward_is_the_gradient_of_forward() {
    let [n_tokens, out, inp] = [3, 5, 4];
    let mut random = Random(4);
    let (x, w, dy) = (random.values(n_tokens * inp), random.values(out * inp), random.values(n_tokens * out));
    let loss = |x: &[f64], w: &[f64]| {
        let (y, _) = product([n_tokens, out, inp], |t, i| x[t * inp + i], |i, o| w[o * inp + i]);
        crate::support::dot(&y, &wide(&dy, n_tokens * out))
    };
    let (x64, w64) = (wide(&x, n_tokens * inp), wide(&w, out * inp));
    for result in on_every_device(|cpu| {
        let (mut dx, mut d_weight) = (output(n_tokens * inp), vec![0.0; out * inp]);
        let w = weight(cpu, &w, out, inp);
        cpu.linear_backward_input(&mut dx, [&dy], [None], &single(&w), None, n_tokens);
        cpu.linear_backward_weight(&mut d_weight, &dy, &x, out, inp, n_tokens);
        vec![take(dx, n_tokens * inp), d_weight]
    }) {
        // Five products of magnitude 1, six roundings: 4e-7.
        assert_near("dx", &result[0], &gradient(&x64, |x| loss(x, &w64)), |_| 1e-6);
        assert_near("d_weight", &result[1], &gradient(&w64, |w| loss(&x64, w)), |_| 1e-6);
    }
}

#[test]
fn backward_bias_accumulates_the_sum_over_tokens() {
    for [n_tokens, out, _] in SHAPES {
        let mut random = Random(5);
        let (dy, before) = (random.values(n_tokens * out), random.values(out));
        let (want, magnitude) = product([1, out, n_tokens], |_, _| 1.0, |t, o| dy[t * out + o].into());
        for result in on_every_device(|cpu| {
            let mut d_bias = before.clone();
            cpu.linear_backward_bias(&mut d_bias, &dy, out, n_tokens);
            vec![take(d_bias, out)]
        }) {
            assert_near("d_bias", &result[0], &sum(&want, &wide(&before, out)), rounding(n_tokens, &magnitude));
        }
    }
}

/// Additions are exact, in this order: product, bias, residual.
#[test]
fn a_bias_and_a_residual_are_added_to_the_product() {
    for [n_tokens, out, inp] in SHAPES {
        let mut random = Random(6);
        let (x, w) = (random.values(n_tokens * inp), random.values(out * inp));
        let (bias, residual) = (random.values(out), random.values(n_tokens * out));
        on_every_device(|cpu| {
            let (w, bias_weight) = (weight(cpu, &w, out, inp), weight(cpu, &bias, 1, out));
            let run = |with_bias: bool, residual: Option<&Vec<f32>>| {
                let bias = if with_bias { Some(&bias_weight) } else { None };
                let mut y = output(n_tokens * out);
                let modules = Modules { bias: [bias], ..single(&w) };
                cpu.linear_forward([&mut y], &x, [None], &modules, residual, n_tokens);
                take(y, n_tokens * out)
            };
            let alone = run(false, None);
            let added = |add: &dyn Fn(usize, f32) -> f32| -> Vec<f32> {
                alone.iter().enumerate().map(|(i, &y)| add(i, y)).collect()
            };
            assert!(run(true, None) == added(&|i, y| y + bias[i % out]), "bias, {n_tokens} x {out} x {inp}");
            assert!(run(false, Some(&residual)) == added(&|i, y| y + residual[i]), "residual");
            assert!(run(true, Some(&residual)) == added(&|i, y| y + bias[i % out] + residual[i]), "both");
            let mut projected = output(n_tokens * out);
            cpu.project(&mut projected, &x, &w, n_tokens);
            assert!(take(projected, n_tokens * out) == alone, "a projection is a layer without either");
            vec![alone]
        });
    }
}

#[test]
fn layers_of_one_input_are_what_they_are_alone_and_their_input_has_the_sum_of_their_gradients() {
    let (n_tokens, outs, inp) = (61, [515, 4, 130], 77);
    let mut random = Random(7);
    let (x, residual) = (random.values(n_tokens * inp), random.values(n_tokens * inp));
    let [w, dy, bias] = [inp, n_tokens, 1].map(|rows| outs.map(|out| random.values(rows * out)));
    let (mut want, mut magnitude) = (vec![0.0; n_tokens * inp], vec![0.0; n_tokens * inp]);
    for ((out, w), dy) in outs.into_iter().zip(&w).zip(&dy) {
        let (dx, size) = product([n_tokens, inp, out], |t, o| dy[t * out + o].into(), |o, i| w[o * inp + i].into());
        (want, magnitude) = (sum(&want, &dx), sum(&magnitude, &size));
    }
    let k = outs.iter().sum::<usize>() + outs.len();
    for result in on_every_device(|cpu| {
        let w = [0, 1, 2].map(|i| weight(cpu, &w[i], outs[i], inp));
        let bias = [0, 1, 2].map(|i| weight(cpu, &bias[i], 1, outs[i]));
        let biases = [Some(&bias[0]), None, Some(&bias[2])];
        let modules = Modules { packed: &(), weight: w.each_ref(), bias: biases, low_rank: [const { None }; 3] };
        let mut y = outs.map(|out| output(n_tokens * out));
        cpu.linear_forward(y.each_mut(), &x, [None; 3], &modules, None, n_tokens);
        let mut of_layers = Vec::new();
        for (i, y) in y.into_iter().enumerate() {
            let mut alone = output(n_tokens * outs[i]);
            let layer = Modules { bias: [biases[i]], ..single(&w[i]) };
            cpu.linear_forward([&mut alone], &x, [None], &layer, None, n_tokens);
            of_layers.push(take(y, n_tokens * outs[i]));
            assert!(of_layers[i] == take(alone, n_tokens * outs[i]), "layer {i}");
        }
        let (mut dx, mut dx_sum) = (output(n_tokens * inp), output(n_tokens * inp));
        cpu.linear_backward_input(&mut dx, dy.each_ref(), [None; 3], &modules, None, n_tokens);
        cpu.linear_backward_input(&mut dx_sum, dy.each_ref(), [None; 3], &modules, Some(&residual), n_tokens);
        [vec![take(dx, n_tokens * inp), take(dx_sum, n_tokens * inp)], of_layers].concat()
    }) {
        assert_near("dx", &result[0], &want, rounding(k, &magnitude));
        let want = sum(&want, &wide(&residual, n_tokens * inp));
        assert_near("dx with a residual", &result[1], &want, rounding(k, &magnitude));
    }
}

#[test]
#[should_panic(expected = "a residual is added to a single layer")]
fn a_residual_of_two_layers_is_refused() {
    let cpu = Cpu::new(Some(1));
    let (w, one) = (weight(&cpu, &[1.0], 1, 1), vec![1.0]);
    let modules = Modules { packed: &(), weight: [&w; 2], bias: [None; 2], low_rank: [const { None }; 2] };
    let mut y = [vec![0.0], vec![0.0]];
    cpu.linear_forward(y.each_mut(), &one, [None; 2], &modules, Some(&one), 1);
}
