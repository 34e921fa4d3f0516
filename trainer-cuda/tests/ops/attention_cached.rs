//! Attention over a cache: the last rows of attention over everything.

use trainer_cuda::device::{AttentionShape, Device};

use crate::attention::reference;
use crate::attention_gradient::{Inputs, inputs};
use crate::forests;
use crate::support::{assert_close, on_every_device, output, take, wide};

/// `n_past`, `n_new`: the first token, sixteen keys and one more or less, several new tokens, prompts.
const STEPS: [(usize, usize); 11] =
    [(0, 1), (1, 1), (14, 1), (15, 1), (16, 1), (200, 1), (15, 3), (0, 4), (0, 70), (37, 20), (120, 3)];

/// The 135M model's heads, widths that no vector divides, a group larger than 8, no groups, the widest head.
const HEADS: [(usize, usize, usize); 6] = [(9, 3, 64), (3, 1, 5), (4, 2, 33), (20, 2, 16), (2, 2, 80), (2, 1, 256)];

#[test]
fn equals_the_last_rows_of_attention_over_everything() {
    for ((n_past, n_new), (heads, kv_heads, head_dim)) in STEPS.into_iter().flat_map(|s| HEADS.map(|h| (s, h))) {
        let n_tokens = n_past + n_new;
        let whole = AttentionShape { n_tokens, heads, kv_heads, head_dim };
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let Inputs { q, k, v, .. } = inputs(120, n_tokens * q_width, n_tokens * kv_width);
        let sees = |query, key| key <= query;
        let [q64, k64, v64] =
            [(&q, q_width), (&k, kv_width), (&v, kv_width)].map(|(values, width)| wide(values, n_tokens * width));
        let want = &reference(&q64, &k64, &v64, sees, whole)[0][n_past * q_width..];
        // A cache with room: what is behind the tokens is not read.
        let [k_cache, v_cache] = [&k, &v].map(|values| [&values[..n_tokens * kv_width], &[f32::NAN; 99]].concat());
        let new_q = q[n_past * q_width..].to_vec();
        for result in on_every_device(|cpu| {
            let mut o = output(n_new * q_width);
            cpu.attention_cached(
                &mut o,
                &new_q,
                &k_cache,
                &v_cache,
                n_past,
                AttentionShape { n_tokens: n_new, ..whole },
            );
            let (mut all, mut lse) = (output(n_tokens * q_width), output(n_tokens * heads));
            let mask = forests::mask(cpu, &forests::chain(n_tokens));
            cpu.attention_forward(&mut all, &mut lse, &q, &k, &v, &mask, whole);
            vec![take(o, n_new * q_width), take(all, n_tokens * q_width)]
        }) {
            // Scores of order 1 with up to 256 products: 1e-6; then a convex sum.
            assert_close("o", &result[0], want, 2e-6);
            assert_close("last rows", &result[0], &wide(&result[1][n_past * q_width..], n_new * q_width), 2e-6);
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let (n_past, shape) = (99, AttentionShape { n_tokens: 1, heads: 2, kv_heads: 1, head_dim: 2 });
    let Inputs { mut q, k, v, .. } = inputs(121, 4, 200);
    q.iter_mut().for_each(|q| *q *= 1e4);
    let at_the_end = [vec![0.0; 99 * 4], wide(&q, 4)].concat();
    let whole = AttentionShape { n_tokens: 100, ..shape };
    let want = &reference(&at_the_end, &wide(&k, 200), &wide(&v, 200), |query, key| key <= query, whole)[0][99 * 4..];
    for result in on_every_device(|cpu| {
        let mut o = output(4);
        cpu.attention_cached(&mut o, &q, &k, &v, n_past, shape);
        vec![take(o, 4)]
    }) {
        // Scores up to 1e4 are rounded to 1e-3 in f32 (three roundings), and with them the exponentials.
        assert_close("o", &result[0], want, 3e-3);
    }
}

#[test]
fn a_nan_in_the_cache_reaches_the_output() {
    let shape = AttentionShape { n_tokens: 1, heads: 1, kv_heads: 1, head_dim: 4 };
    for broken in [0, 20, 39] {
        let Inputs { q, mut k, v, .. } = inputs(122, 4, 160);
        k[broken * 4] = f32::NAN;
        for result in on_every_device(|cpu| {
            let mut o = output(4);
            cpu.attention_cached(&mut o, &q, &k, &v, 39, shape);
            vec![take(o, 4)]
        }) {
            assert!(result[0].iter().all(|o| o.is_nan()), "key {broken}");
        }
    }
}
