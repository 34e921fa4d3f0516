//! SwiGLU.

use trainer_cuda::device::Device;

use crate::support::{Random, UNIT, assert_near, on_every_device, output, take, wide};

/// Width and tokens: single values, and buffers that no vector and no task divides.
pub(crate) const SHAPES: [[usize; 2]; 3] = [[1, 1], [5, 3], [515, 123]];

fn silu(gate: f64) -> f64 {
    gate / (1.0 + (-gate).exp())
}

/// Gates in -20..20, and far outside what the exponential can hold.
fn inputs(len: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut random = Random(30);
    let (mut gate, up, dy) = (random.values(len), random.values(len), random.values(len));
    gate[..len].iter_mut().for_each(|gate| *gate *= 20.0);
    for (gate, extreme) in gate[..len].iter_mut().zip([0.0, 100.0, -100.0, 1e30, -1e30]) {
        *gate = extreme;
    }
    (gate, up, dy)
}

#[test]
fn forward_follows_the_equation() {
    for [width, n_tokens] in SHAPES {
        let len = width * n_tokens;
        let (gate, up, _) = inputs(len);
        let want: Vec<f64> = wide(&gate, len).iter().zip(wide(&up, len)).map(|(&gate, up)| silu(gate) * up).collect();
        for result in on_every_device(|cpu| {
            let mut y = output(len);
            cpu.swiglu_forward(&mut y, &gate, &up, width, n_tokens);
            vec![take(y, len)]
        }) {
            // The exponential's 2 ulp (4 units), then sum, quotient and two products; where it is clamped the result is
            // below 1e-38 times the gate (1e30 at most here).
            assert_near("y", &result[0], &want, |i| 9.0 * UNIT * want[i].abs() + 1e-7);
        }
    }
}

#[test]
fn backward_is_the_derivative_and_gives_y_again() {
    for [width, n_tokens] in SHAPES {
        let len = width * n_tokens;
        let (gate, up, dy) = inputs(len);
        let d_silu = |g: f64| (silu(g + 1e-6) - silu(g - 1e-6)) / 2e-6;
        let at = |f: &dyn Fn(f64, f64, f64) -> f64| {
            let (gate, up, dy) = (wide(&gate, len), wide(&up, len), wide(&dy, len));
            (0..len).map(|i| f(gate[i], up[i], dy[i])).collect::<Vec<f64>>()
        };
        // Differences with a step of 1e-6 mean nothing at 1e30; the slope there is 1 or 0.
        let slope = |g: f64| if g.abs() > 1e3 { f64::from(g > 0.0) } else { d_silu(g) };
        let (want_gate, want_up) = (at(&|g, up, dy| dy * up * slope(g)), at(&|g, _, dy| dy * silu(g)));
        for result in on_every_device(|cpu| {
            let (mut d_gate, mut d_up, mut y, mut y_again) = (output(len), output(len), output(len), output(len));
            cpu.swiglu_forward(&mut y, &gate, &up, width, n_tokens);
            cpu.swiglu_backward(&mut d_gate, &mut d_up, &mut y_again, &dy, &gate, &up, width, n_tokens);
            assert_eq!(take(y_again, len), take(y, len), "y again, bit for bit");
            vec![take(d_gate, len), take(d_up, len)]
        }) {
            // The slope's terms reach 20 (g * (1 - s) at g = -20 times s = 2e-9 is small; at 20, 1 - s has lost its bits):
            // 20 * 2^-24 = 1.2e-6 absolute.
            assert_near("d_gate", &result[0], &want_gate, |_| 2e-6);
            assert_near("d_up", &result[1], &want_up, |i| 9.0 * UNIT * want_up[i].abs() + 1e-7);
        }
    }
}
