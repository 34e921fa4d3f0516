//! RMSNorm and rotary positions.

use trainer_cuda::device::{AttentionShape, Device};

use crate::support::{
    Random, UNIT, assert_close, assert_near, dot, gradient, on_every_device, output, sum, take, weight, wide,
};

const EPS: f32 = 1e-5;

fn rms_norm(x: &[f64], weight: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let hidden = weight.len();
    let rstd = |x: &[f64]| 1.0 / (dot(x, x) / hidden as f64 + f64::from(EPS)).sqrt();
    let rstds: Vec<f64> = x.chunks(hidden).map(rstd).collect();
    (x.iter().enumerate().map(|(i, x)| x * rstds[i / hidden] * weight[i % hidden]).collect(), rstds)
}

#[test]
fn rms_norm_forward_follows_the_equation() {
    for (n, hidden) in [(1, 1), (123, 515), (1, 576), (40, 576)] {
        let mut random = Random(20);
        let (x, w) = (random.values(n * hidden), random.values(hidden));
        let (want, rstds) = rms_norm(&wide(&x, n * hidden), &wide(&w, hidden));
        for result in on_every_device(|cpu| {
            let (mut y, mut rstd) = (output(n * hidden), output(n));
            cpu.rms_norm_forward(&mut y, &mut rstd, &x, &weight(cpu, &w, 1, hidden), EPS, n);
            vec![take(y, n * hidden), take(rstd, n)]
        }) {
            // Each lane adds hidden / 16 squares, then four tree levels, a division, a root: 40 roundings at most,
            // halved by the root.
            assert_near("rstd", &result[1], &rstds, |i| 20.0 * UNIT * rstds[i]);
            assert_near("y", &result[0], &want, |i| 24.0 * UNIT * want[i].abs());
        }
    }
}

#[test]
fn rms_norm_backward_is_the_gradient_beside_a_residual_and_gives_y_again() {
    for (n, hidden) in [(1, 1), (3, 37), (60, 33)] {
        let mut random = Random(21);
        let (x, w, dy) = (random.values(n * hidden), random.values(hidden), random.values(n * hidden));
        let (residual, d_weight) = (random.values(n * hidden), random.values(hidden));
        let (x64, w64, dy64) = (wide(&x, n * hidden), wide(&w, hidden), wide(&dy, n * hidden));
        let loss = |x: &[f64], w: &[f64]| dot(&rms_norm(x, w).0, &dy64);
        let alone = gradient(&x64, |x| loss(x, &w64));
        let want_x = sum(&alone, &wide(&residual, n * hidden));
        let want_w = sum(&gradient(&w64, |w| loss(&x64, w)), &wide(&d_weight, hidden));
        for result in on_every_device(|cpu| {
            let (w, mut y, mut rstd) = (weight(cpu, &w, 1, hidden), output(n * hidden), output(n));
            cpu.rms_norm_forward(&mut y, &mut rstd, &x, &w, EPS, n);
            let (mut dx, mut d_weight, mut y_again) = (output(n * hidden), d_weight.clone(), output(n * hidden));
            let (grad, again) = (Some(&mut d_weight), Some(&mut y_again));
            cpu.rms_norm_backward(&mut dx, grad, again, &dy, &x, &rstd, &w, Some(&residual), n);
            let mut dx_alone = output(n * hidden);
            cpu.rms_norm_backward(&mut dx_alone, None, None, &dy, &x, &rstd, &w, None, n);
            assert_eq!(take(y_again, n * hidden), take(y, n * hidden), "y again, bit for bit");
            vec![take(dx, n * hidden), take(d_weight, hidden), take(dx_alone, n * hidden)]
        }) {
            // Sums of 60 values of order 1 in f32: 60 roundings of 6e-8 at worst.
            assert_close("dx", &result[0], &want_x, 4e-6);
            assert_close("d_weight", &result[1], &want_w, 4e-6);
            if hidden > 1 {
                assert_close("dx without a residual", &result[2], &alone, 4e-6);
            } else {
                // What epsilon leaves of the gradient of a row of one value: 1e-5 of two terms that cancel.
                assert_near("dx without a residual", &result[2], &alone, |_| 4e-6);
            }
        }
    }
}

#[test]
fn rms_norm_backward_is_the_same_with_a_frozen_weight_and_on_many_threads() {
    let (n, hidden) = (123, 515);
    let mut random = Random(22);
    let (x, w, dy, residual) =
        (random.values(n * hidden), random.values(hidden), random.values(n * hidden), random.values(n * hidden));
    on_every_device(|cpu| {
        let (w, mut y, mut rstd) = (weight(cpu, &w, 1, hidden), output(n * hidden), output(n));
        cpu.rms_norm_forward(&mut y, &mut rstd, &x, &w, EPS, n);
        let run = |d_weight: Option<&mut Vec<f32>>, y_again: Option<&mut Vec<f32>>| {
            let mut dx = output(n * hidden);
            cpu.rms_norm_backward(&mut dx, d_weight, y_again, &dy, &x, &rstd, &w, Some(&residual), n);
            take(dx, n * hidden)
        };
        let (mut d_weight, mut y_again) = (vec![0.0; hidden], output(n * hidden));
        let trained = run(Some(&mut d_weight), Some(&mut y_again));
        assert_eq!(run(None, None), trained);
        assert_eq!(take(y_again, n * hidden), take(y, n * hidden), "y again, bit for bit");
        vec![trained, d_weight]
    });
}

fn rope_shape(n_tokens: usize, heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { n_tokens, heads, kv_heads, head_dim }
}

#[test]
fn rope_pairs_each_element_with_the_one_half_a_head_away() {
    // Two heads of four at position 1, whose angles are 90 and 180 degrees: (a, b) -> (-b, a) and (-a, -b). Keys have one.
    for result in on_every_device(|cpu| {
        let (mut q, mut k) = (vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], vec![1.0, 2.0, 3.0, 4.0]);
        let (cos, sin) = (vec![1.0, 1.0, 0.0, -1.0], vec![0.0, 0.0, 1.0, 0.0]);
        cpu.rope_forward(&mut q, &mut k, &vec![1], &cos, &sin, rope_shape(1, 2, 1, 4));
        vec![q, k]
    }) {
        assert_eq!(result[0], [-3.0, -2.0, 1.0, -4.0, -7.0, -6.0, 5.0, -8.0]);
        assert_eq!(result[1], [-3.0, -2.0, 1.0, -4.0]);
    }
}

#[test]
fn rope_backward_is_the_transpose_for_queries_and_keys() {
    for (n, heads, kv_heads, head_dim) in [(1, 1, 1, 2), (123, 3, 1, 10), (60, 9, 3, 64)] {
        let mut random = Random(23);
        let [q_len, k_len] = [heads, kv_heads].map(|heads| n * heads * head_dim);
        let half = head_dim / 2;
        let position: Vec<u32> = (0..n).map(|_| random.below(50) as u32).collect();
        let angle = |i: usize| (i / half) as f64 * 0.3f64.powi((i % half) as i32);
        let cos: Vec<f32> = (0..50 * half).map(|i| angle(i).cos() as f32).collect();
        let sin: Vec<f32> = (0..50 * half).map(|i| angle(i).sin() as f32).collect();
        let [q, dq, k, dk] = [q_len, q_len, k_len, k_len].map(|len| random.values(len));
        let shape = rope_shape(n, heads, kv_heads, head_dim);
        for result in on_every_device(|cpu| {
            let [mut rotated_q, mut back_q, mut rotated_k, mut back_k] = [&q, &dq, &k, &dk].map(Vec::clone);
            cpu.rope_forward(&mut rotated_q, &mut rotated_k, &position, &cos, &sin, shape);
            cpu.rope_backward(&mut back_q, &mut back_k, &position, &cos, &sin, shape);
            vec![take(rotated_q, q_len), take(back_q, q_len), take(rotated_k, k_len), take(back_k, k_len)]
        }) {
            for (len, x, dy, result) in [(q_len, &q, &dq, &result[..2]), (k_len, &k, &dk, &result[2..])] {
                let (y, dx) = (wide(&result[0], len), wide(&result[1], len));
                let [forward, backward] = [dot(&y, &wide(dy, len)), dot(&wide(x, len), &dx)];
                // Both sides sum `len` products with three roundings each.
                let bound = 3.0 * UNIT * len as f64;
                assert!((forward - backward).abs() < bound, "<R x, dy> {forward}, <x, R' dy> {backward}");
                let [before, after] = [dot(&wide(x, len), &wide(x, len)), dot(&y, &y)];
                assert!((before / after - 1.0).abs() < 1e-6, "a rotation keeps the length");
            }
        }
    }
}
