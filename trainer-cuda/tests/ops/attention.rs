//! Attention forward, and who sees whom.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{AttentionShape, Device, Visibility};

use crate::forests;
use crate::support::{Random, assert_close, dot, on_every_device, output, take, wide};

/// Output and log sum exp, all pairs of a query and a key that `sees` allows.
pub(crate) fn reference(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    sees: impl Fn(usize, usize) -> bool,
    shape: AttentionShape,
) -> [Vec<f64>; 2] {
    let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
    let (mut o, mut lse) = (Vec::new(), Vec::new());
    for (token, head) in (0..n_tokens).flat_map(|token| (0..heads).map(move |head| (token, head))) {
        let query = &q[(token * heads + head) * head_dim..][..head_dim];
        let row = |key: usize| (key * kv_heads + head / (heads / kv_heads)) * head_dim;
        let visible: Vec<usize> = (0..n_tokens).filter(|&key| sees(token, key)).collect();
        let score = |key| dot(query, &k[row(key)..][..head_dim]) / (head_dim as f64).sqrt();
        let scores: Vec<f64> = visible.iter().map(|&key| score(key)).collect();
        let max = scores.iter().fold(f64::MIN, |a, &b| a.max(b));
        let total = max + scores.iter().map(|score| (score - max).exp()).sum::<f64>().ln();
        lse.push(total);
        let weighted =
            |d| visible.iter().zip(&scores).map(|(&key, score)| (score - total).exp() * v[row(key) + d]).sum();
        o.extend((0..head_dim).map(weighted).collect::<Vec<f64>>());
    }
    [o, lse]
}

/// One token, one key head for three, widths that no vector divides, the 135M model's heads, the widest head; paths
/// longer than a tile of 48 keys, branches shorter and longer than a block of 16 queries, padding.
pub(crate) fn cases() -> Vec<(Vec<u32>, AttentionShape)> {
    let case = |subtree_end: Vec<u32>, heads, kv_heads, head_dim| {
        let shape = AttentionShape { n_tokens: subtree_end.len(), heads, kv_heads, head_dim };
        (subtree_end, shape)
    };
    vec![
        case(forests::chain(1), 1, 1, 1),
        case(forests::chain(17), 3, 1, 5),
        case(forests::chain(200), 9, 3, 64),
        case(forests::random(50, 123, 11), 3, 1, 10),
        case(forests::random(51, 300, 0), 4, 4, 33),
        case(forests::comb(70, 9, 5), 6, 2, 16),
        case(forests::comb(3, 4, 60), 2, 1, 8),
        case(forests::random(52, 40, 40), 2, 1, 256),
    ]
}

#[test]
fn forward_follows_the_rule() {
    for (subtree_end, shape) in cases() {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        let (q_len, kv_len) = (n_tokens * heads * head_dim, n_tokens * kv_heads * head_dim);
        let mut random = Random(53);
        let (q, k, v) = (random.values(q_len), random.values(kv_len), random.values(kv_len));
        let [want_o, want_lse] =
            reference(&wide(&q, q_len), &wide(&k, kv_len), &wide(&v, kv_len), forests::rule(&subtree_end), shape);
        for result in on_every_device(|cpu| {
            let (mut o, mut lse) = (output(q_len), output(n_tokens * heads));
            cpu.attention_forward(&mut o, &mut lse, &q, &k, &v, &forests::mask(cpu, &subtree_end), shape);
            vec![take(o, q_len), take(lse, n_tokens * heads)]
        }) {
            // Scores of order 1 with up to 256 products: 1e-6; then a convex sum.
            assert_close("o", &result[0], &want_o, 2e-6);
            assert_close("lse", &result[1], &want_lse, 2e-6);
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = AttentionShape { n_tokens: 60, heads: 1, kv_heads: 1, head_dim: 2 };
    let mut random = Random(54);
    let (mut q, k, v) = (random.values(120), random.values(120), random.values(120));
    q[..120].iter_mut().for_each(|q| *q *= 1e4);
    let subtree_end = forests::random(55, 60, 3);
    let [want_o, want_lse] =
        reference(&wide(&q, 120), &wide(&k, 120), &wide(&v, 120), forests::rule(&subtree_end), shape);
    for result in on_every_device(|cpu| {
        let (mut o, mut lse) = (output(120), output(60));
        cpu.attention_forward(&mut o, &mut lse, &q, &k, &v, &forests::mask(cpu, &subtree_end), shape);
        vec![take(o, 120), take(lse, 60)]
    }) {
        // Scores up to 1e4 are rounded to 1e-3 in f32 (three roundings), and with them the exponentials.
        assert_close("o", &result[0], &want_o, 3e-3);
        assert_close("lse", &result[1], &want_lse, 1e-6);
    }
}

#[test]
fn a_token_outside_the_path_changes_no_bit() {
    let subtree_end = forests::random(56, 150, 9);
    let shape = AttentionShape { n_tokens: 150, heads: 2, kv_heads: 1, head_dim: 16 };
    let mut random = Random(57);
    let (q, k, v) = (random.values(150 * 32), random.values(150 * 16), random.values(150 * 16));
    for changed in [0, 20, 77, 149] {
        let (mut other_k, mut other_v) = (k.clone(), v.clone());
        other_k[changed * 16..][..16].fill(3.0);
        other_v[changed * 16..][..16].fill(-3.0);
        for result in on_every_device(|cpu| {
            let run = |k, v| {
                let (mut o, mut lse) = (output(150 * 32), output(300));
                cpu.attention_forward(&mut o, &mut lse, &q, k, v, &forests::mask(cpu, &subtree_end), shape);
                o
            };
            vec![run(&k, &v), run(&other_k, &other_v)]
        }) {
            for token in 0..150 {
                let sees = changed <= token && token < subtree_end[changed] as usize;
                let row = token * 32..(token + 1) * 32;
                assert_eq!(result[0][row.clone()] == result[1][row], !sees, "token {token}, changed {changed}");
            }
        }
    }
}

#[test]
fn padding_sees_itself_alone() {
    let shape = AttentionShape { n_tokens: 20, heads: 1, kv_heads: 1, head_dim: 4 };
    let mut random = Random(58);
    let (q, k, v) = (random.values(80), random.values(80), random.values(80));
    for result in on_every_device(|cpu| {
        let (mut o, mut lse) = (output(80), output(20));
        let mask = forests::mask(cpu, &forests::random(59, 20, 6));
        cpu.attention_forward(&mut o, &mut lse, &q, &k, &v, &mask, shape);
        vec![take(o, 80)]
    }) {
        assert_eq!(result[0][14 * 4..], v[14 * 4..80]);
    }
}

fn refused(subtree_end: &[u32]) {
    let cpu = Cpu::new(Some(1));
    cpu.write_mask(&mut cpu.alloc_mask(2), Visibility::Forest { subtree_end });
}

#[test]
#[should_panic(expected = "a subtree that ends before its root or past the batch")]
fn a_subtree_that_ends_before_its_root_is_refused() {
    refused(&[2, 0]);
}

#[test]
#[should_panic(expected = "a subtree that ends before its root or past the batch")]
fn a_subtree_that_ends_past_the_batch_is_refused() {
    refused(&[2, 3]);
}

#[test]
#[should_panic(expected = "tokens of the mask")]
fn a_mask_of_another_batch_is_refused() {
    let (cpu, values) = (Cpu::new(Some(1)), vec![0.0; 3]);
    let shape = AttentionShape { n_tokens: 2, heads: 1, kv_heads: 1, head_dim: 1 };
    let mask = forests::mask(&cpu, &forests::chain(3));
    cpu.attention_forward(&mut vec![0.0; 3], &mut vec![0.0; 3], &values, &values, &values, &mask, shape);
}
