//! GELU.

use trainer_cuda::device::Device;

use crate::support::{Random, UNIT, assert_near, on_every_device, output, take, wide};
use crate::swiglu::SHAPES;

/// The normal distribution in f64: Taylor's series of erf (Abramowitz & Stegun 7.1.6, all terms positive) near 0, 60
/// levels of the continued fraction of its complement (7.1.14) further out.
fn normal(x: f64) -> f64 {
    let t = x.abs() / 2f64.sqrt();
    let bell = (-t * t).exp() / std::f64::consts::PI.sqrt();
    let tail = if t < 3.0 {
        let (mut term, mut sum) = (t, t);
        for n in 1..100 {
            term *= 2.0 * t * t / f64::from(2 * n + 1);
            sum += term;
        }
        0.5 - bell * sum
    } else {
        bell / 2.0 / (1..=60).rev().fold(t, |below, n| t + f64::from(n) / 2.0 / below)
    };
    if x > 0.0 { 1.0 - tail } else { tail }
}

fn density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// All magnitudes and signs, -8..8, and far outside what the exponential can hold.
fn inputs(len: usize) -> Vec<f32> {
    let mut x = Random(70).values(len);
    for (i, x) in x[..len].iter_mut().enumerate() {
        *x *= if i % 3 == 0 { 2f32.powi(-((i % 64) as i32)) } else { 8.0 };
    }
    for (x, extreme) in x[..len].iter_mut().zip([0.0, 100.0, -100.0, 1e30, -1e30, 5.5, -5.5]) {
        *x = extreme;
    }
    x
}

#[test]
fn the_reference_has_the_tabulated_values() {
    // Abramowitz & Stegun, table 26.1.
    for (x, want) in [(0.0, 0.5), (1.0, 0.841_344_746_068_543), (2.0, 0.977_249_868_051_821)] {
        assert!((normal(x) - want).abs() < 1e-14, "{x}");
    }
    assert!((normal(-6.0) / 9.865_876_450e-10 - 1.0).abs() < 1e-9);
    assert!((normal(4.242_6) - normal(4.242_7)).abs() < 1e-8, "the pieces meet");
}

#[test]
fn forward_follows_the_equation() {
    for [width, n_tokens] in SHAPES {
        let len = width * n_tokens;
        let x = inputs(len);
        let want: Vec<f64> = wide(&x, len).iter().map(|&x| x * normal(x)).collect();
        for result in on_every_device(|cpu| {
            let mut y = output(len);
            cpu.gelu_forward(&mut y, &x, width, n_tokens);
            vec![take(y, len)]
        }) {
            // 5e-8 in Phi (1e-7 in erf); then a product, and above 0 a difference. Where the exponential is clamped
            // 6e-39 is left of it, times 1e30 here.
            assert_near("y", &result[0], &want, |i| {
                let roundings = if x[i] > 0.0 { 2.0 } else { 1.0 };
                5e-8 * f64::from(x[i].abs()).min(8.0) + roundings * UNIT * want[i].abs() + 1e-8
            });
        }
    }
}

#[test]
fn the_negative_tail_keeps_its_relative_accuracy() {
    // With 1 + erf(x / sqrt(2)) in f32 nothing would be left of the tail below -5.4.
    let len = 450;
    let x: Vec<f32> = (0..len).map(|i| -1.0 - i as f32 / 100.0).collect();
    let want: Vec<f64> = x.iter().map(|&x| f64::from(x) * normal(f64::from(x))).collect();
    for result in on_every_device(|cpu| {
        let mut y = output(len);
        cpu.gelu_forward(&mut y, &x, len, 1);
        vec![take(y, len)]
    }) {
        assert_near("y", &result[0], &want, |i| 2e-4 * want[i].abs());
    }
}

#[test]
fn backward_is_the_derivative_and_gives_y_again() {
    for [width, n_tokens] in SHAPES {
        let len = width * n_tokens;
        let (x, dy) = (inputs(len), Random(71).values(len));
        let slope = |x: f64| normal(x) + x * density(x);
        let want: Vec<f64> = wide(&x, len).iter().zip(wide(&dy, len)).map(|(&x, dy)| dy * slope(x)).collect();
        for result in on_every_device(|cpu| {
            let (mut dx, mut y, mut y_again) = (output(len), output(len), output(len));
            cpu.gelu_forward(&mut y, &x, width, n_tokens);
            cpu.gelu_backward(&mut dx, &mut y_again, &dy, &x, width, n_tokens);
            assert_eq!(take(y_again, len), take(y, len), "y again, bit for bit");
            vec![take(dx, len)]
        }) {
            // 5e-8 in Phi; x^2 / 2 rounded, so that the bell is off by x^2 UNIT: at most 3 UNIT of x phi(x) <= 0.25;
            // 4 units of the exponential and two products. 1e-8 where it is clamped, as above.
            assert_near("dx", &result[0], &want, |_| 5e-8 + 4.0 * UNIT + 1e-8);
        }
    }
}

#[test]
fn nan_stays() {
    for result in on_every_device(|cpu| {
        let (mut y, mut dx, mut y_again) = (output(3), output(3), output(3));
        cpu.gelu_forward(&mut y, &vec![1.0, f32::NAN, 0.0], 3, 1);
        cpu.gelu_backward(&mut dx, &mut y_again, &vec![1.0; 3], &vec![1.0, f32::NAN, 0.0], 3, 1);
        vec![take(y, 3), take(dx, 3), take(y_again, 3)]
    }) {
        assert!(result.iter().all(|values| values[1].is_nan()));
        assert_eq!([result[0][2], result[1][2], result[2][2]], [0.0, 0.5, 0.0]);
    }
}
