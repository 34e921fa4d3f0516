//! Attention backward.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{AttentionShape, Device};

use crate::attention::{cases, reference};
use crate::forests;
use crate::support::{Random, assert_close, dot, gradient, on_every_device, output, take, wide};

pub(crate) struct Inputs {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) d_o: Vec<f32>,
}

pub(crate) fn inputs(seed: u64, q_len: usize, kv_len: usize) -> Inputs {
    let mut random = Random(seed);
    Inputs { q: random.values(q_len), k: random.values(kv_len), v: random.values(kv_len), d_o: random.values(q_len) }
}

/// dq, dk, dv, delta.
pub(crate) fn backward(
    cpu: &Cpu,
    inputs: &Inputs,
    mask: &<Cpu as Device>::Mask,
    shape: AttentionShape,
) -> Vec<Vec<f32>> {
    let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
    let (q_len, kv_len) = (n_tokens * heads * head_dim, n_tokens * kv_heads * head_dim);
    let Inputs { q, k, v, d_o } = inputs;
    let (mut o, mut lse) = (output(q_len), output(n_tokens * heads));
    cpu.attention_forward(&mut o, &mut lse, q, k, v, mask, shape);
    let (mut dq, mut dk, mut dv, mut delta) = (output(q_len), output(kv_len), output(kv_len), output(n_tokens * heads));
    cpu.attention_backward(&mut dq, &mut dk, &mut dv, &mut delta, d_o, &o, &lse, q, k, v, mask, shape);
    vec![take(dq, q_len), take(dk, kv_len), take(dv, kv_len), take(delta, n_tokens * heads)]
}

#[test]
fn backward_is_the_gradient_of_forward() {
    for (subtree_end, heads, kv_heads, head_dim) in [
        (forests::chain(1), 1, 1, 2),
        (forests::random(60, 70, 5), 2, 1, 3),
        (forests::comb(50, 3, 9), 1, 1, 4),
        (forests::chain(70), 2, 2, 2),
    ] {
        let n_tokens = subtree_end.len();
        let shape = AttentionShape { n_tokens, heads, kv_heads, head_dim };
        let (q_len, kv_len) = (n_tokens * heads * head_dim, n_tokens * kv_heads * head_dim);
        let inputs = inputs(61, q_len, kv_len);
        let (q, k, v) = (wide(&inputs.q, q_len), wide(&inputs.k, kv_len), wide(&inputs.v, kv_len));
        let d_o = wide(&inputs.d_o, q_len);
        let loss =
            |q: &[f64], k: &[f64], v: &[f64]| dot(&reference(q, k, v, forests::rule(&subtree_end), shape)[0], &d_o);
        let want =
            [gradient(&q, |q| loss(q, &k, &v)), gradient(&k, |k| loss(&q, k, &v)), gradient(&v, |v| loss(&q, &k, v))];
        for result in on_every_device(|cpu| backward(cpu, &inputs, &forests::mask(cpu, &subtree_end), shape)) {
            for (name, (got, want)) in ["dq", "dk", "dv"].iter().zip(result.iter().zip(&want)) {
                // Sums over up to 70 tokens of terms of order 1 / 70; absolute where all are zero (one token).
                assert_close(name, got, want, 5e-6);
            }
        }
    }
}

/// Gradients by the equations of Dao 2023 (FlashAttention-2, section 3.1) over all pairs in f64.
pub(crate) fn equations(inputs: &Inputs, sees: impl Fn(usize, usize) -> bool, shape: AttentionShape) -> [Vec<f64>; 4] {
    let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
    let (q_len, kv_len) = (n_tokens * heads * head_dim, n_tokens * kv_heads * head_dim);
    let (q, k, v) = (wide(&inputs.q, q_len), wide(&inputs.k, kv_len), wide(&inputs.v, kv_len));
    let d_o = wide(&inputs.d_o, q_len);
    let [o, lse] = reference(&q, &k, &v, &sees, shape);
    let scale = 1.0 / (head_dim as f64).sqrt();
    let (mut dq, mut dk, mut dv, mut delta) = (vec![0.0; q_len], vec![0.0; kv_len], vec![0.0; kv_len], Vec::new());
    for (token, head) in (0..n_tokens).flat_map(|token| (0..heads).map(move |head| (token, head))) {
        let row = (token * heads + head) * head_dim;
        let d_row = &d_o[row..][..head_dim];
        delta.push(dot(d_row, &o[row..][..head_dim]));
        for key in (0..n_tokens).filter(|&key| sees(token, key)) {
            let key = (key * kv_heads + head / (heads / kv_heads)) * head_dim;
            let score = dot(&q[row..][..head_dim], &k[key..][..head_dim]) * scale;
            let p = (score - lse[token * heads + head]).exp();
            let ds = p * (dot(d_row, &v[key..][..head_dim]) - delta[token * heads + head]) * scale;
            for d in 0..head_dim {
                dq[row + d] += ds * k[key + d];
                dk[key + d] += ds * q[row + d];
                dv[key + d] += p * d_row[d];
            }
        }
    }
    [dq, dk, dv, delta]
}

#[test]
fn backward_follows_the_equations_at_every_shape() {
    for (subtree_end, shape) in cases() {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        let inputs = inputs(62, n_tokens * heads * head_dim, n_tokens * kv_heads * head_dim);
        let want = equations(&inputs, forests::rule(&subtree_end), shape);
        for result in on_every_device(|cpu| backward(cpu, &inputs, &forests::mask(cpu, &subtree_end), shape)) {
            for (name, (got, want)) in ["dq", "dk", "dv", "delta"].iter().zip(result.iter().zip(&want)) {
                if want.iter().all(|x| x.abs() < 1e-12) {
                    // Every token sees itself alone: dp = delta up to rounding of a 256-product sum.
                    assert!(got.iter().all(|x| x.abs() < 2e-6), "{name}: expected zero");
                } else {
                    assert_close(name, got, want, 5e-6);
                }
            }
        }
    }
}
