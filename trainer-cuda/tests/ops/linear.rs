//! Linear layers, and with them the matrix product in all three layouts.

use trainer_cuda::device::Device;

use crate::support::{Random, UNIT, assert_near, gradient, on_every_device, output, sum, take, weight, wide};

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
            cpu.linear_forward(&mut y, &x, &weight(cpu, &w, out, inp), None, n_tokens);
            vec![take(y, n_tokens * out)]
        }) {
            assert_near("y", &result[0], &want, rounding(inp, &magnitude));
        }
    }
}

#[test]
fn backward_input_is_the_product_and_accumulates_where_asked() {
    for [n_tokens, out, inp] in SHAPES {
        let mut random = Random(2);
        let (dy, w, before) = (random.values(n_tokens * out), random.values(out * inp), random.values(n_tokens * inp));
        let (want, magnitude) =
            product([n_tokens, inp, out], |t, o| dy[t * out + o].into(), |o, i| w[o * inp + i].into());
        for result in on_every_device(|cpu| {
            let (mut dx, mut dx_sum) = (output(n_tokens * inp), before.clone());
            cpu.linear_backward_input(&mut dx, &dy, &weight(cpu, &w, out, inp), n_tokens, false);
            cpu.linear_backward_input(&mut dx_sum, &dy, &weight(cpu, &w, out, inp), n_tokens, true);
            vec![take(dx, n_tokens * inp), take(dx_sum, n_tokens * inp)]
        }) {
            assert_near("dx", &result[0], &want, rounding(out, &magnitude));
            let want_sum = sum(&want, &wide(&before, n_tokens * inp));
            assert_near("dx +=", &result[1], &want_sum, rounding(out, &magnitude));
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
        cpu.linear_backward_input(&mut dx, &dy, &weight(cpu, &w, out, inp), n_tokens, false);
        cpu.linear_backward_weight(&mut d_weight, &dy, &x, out, inp, n_tokens);
        vec![take(dx, n_tokens * inp), d_weight]
    }) {
        // Five products of magnitude 1, six roundings: 4e-7.
        assert_near("dx", &result[0], &gradient(&x64, |x| loss(x, &w64)), |_| 1e-6);
        assert_near("d_weight", &result[1], &gradient(&w64, |w| loss(&x64, w)), |_| 1e-6);
    }
}
