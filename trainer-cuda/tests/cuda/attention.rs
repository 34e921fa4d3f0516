//! Attention over forests, segments and caches.

use crate::support::{BF16, On, Random, Results, SUM, Tolerance, assert_parity, cpu, gpu};
use trainer_cuda::device::{AttentionShape, Device, Visibility};

/// Who sees whom.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// One sequence.
    Chain,
    /// A trunk with branches and branches of those, at random: one time in so many a few levels are closed.
    Forest(usize),
    /// A trunk, then many branches of a token or a few.
    Fan,
    /// Each token's subtree ends one before that of the token before: every boundary of every rectangle of scores.
    Ladder,
    /// Sequences one behind the other, each seen as a whole; their lengths, again and again.
    Segments(&'static [usize]),
}

impl Rule {
    /// Where the subtree of each token ends; or where its segment begins and ends.
    fn mask(self, random: &mut Random, n_tokens: usize) -> (Option<Vec<u32>>, Vec<u32>) {
        let mut ends = vec![n_tokens as u32; n_tokens];
        match self {
            Rule::Chain => {}
            Rule::Ladder => {
                for (t, end) in ends.iter_mut().enumerate() {
                    *end = if t < n_tokens / 2 { n_tokens - t } else { t + 1 } as u32;
                }
            }
            Rule::Fan => {
                let mut start = 3;
                while start < n_tokens {
                    let end = (start + 1 + random.below(4)).min(n_tokens);
                    ends[start..end].fill(end as u32);
                    start = end;
                }
            }
            // In depth-first order: the next token hangs at any of those above the last one.
            Rule::Forest(rarity) => {
                let mut open: Vec<usize> = Vec::new();
                for t in 0..n_tokens {
                    if random.below(rarity) == 0 {
                        for _ in 0..random.below(open.len() + 1) {
                            if let Some(closed) = open.pop() {
                                ends[closed] = t as u32;
                            }
                        }
                    }
                    open.push(t);
                }
            }
            Rule::Segments(lengths) => {
                let mut starts = vec![0; n_tokens];
                let mut start = 0;
                for length in lengths.iter().cycle() {
                    let end = (start + length).min(n_tokens);
                    starts[start..end].fill(start as u32);
                    ends[start..end].fill(end as u32);
                    start = end;
                    if end == n_tokens {
                        break;
                    }
                }
                return (Some(starts), ends);
            }
        }
        (None, ends)
    }
}

/// Queries are between plus and minus `largest_query`.
fn attention<D: Device>(device: &D, rule: Rule, shape: AttentionShape, largest_query: f32) -> Results {
    let (on, mut random) = (On::new(device), Random(9));
    let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
    let (q_width, k_width) = (heads * head_dim, kv_heads * head_dim);
    let mut mask = device.alloc_mask(n_tokens);
    let (starts, ends) = rule.mask(&mut random, n_tokens);
    let visibility = match &starts {
        Some(starts) => Visibility::Segments { segment_start: starts, segment_end: &ends },
        None => Visibility::Forest { subtree_end: &ends },
    };
    device.write_mask(&mut mask, visibility);
    let q: Vec<f32> = random.values(n_tokens * q_width).iter().map(|x| largest_query * x).collect();
    let (k, v) = (random.values(n_tokens * k_width), random.values(n_tokens * k_width));
    let (q, k, v) = (on.act(&q, q_width), on.act(&k, k_width), on.act(&v, k_width));
    let (mut o, mut lse) = (on.out(n_tokens, q_width), on.f32_out(n_tokens * heads));
    device.attention_forward(&mut o, &mut lse, &q, &k, &v, &mask, shape);

    let d_o = on.act(&random.values(n_tokens * q_width), q_width);
    let (mut dq, mut dk, mut dv) = (on.out(n_tokens, q_width), on.out(n_tokens, k_width), on.out(n_tokens, k_width));
    let mut delta = on.f32_out(n_tokens * heads);
    device.attention_backward(&mut dq, &mut dk, &mut dv, &mut delta, &d_o, &o, &lse, &q, &k, &v, &mask, shape);
    vec![
        ("o", on.read(&o)),
        ("lse", on.read_f32(&lse, n_tokens * heads)),
        ("dq", on.read(&dq)),
        ("dk", on.read(&dk)),
        ("dv", on.read(&dv)),
    ]
}

/// Probabilities and their derivatives are rounded to bf16 for the tensor cores, as are `o` and with it `delta`: errors of
/// 2^-9 each, that add up over a row as their signs fall.
fn tolerance(name: &str) -> Tolerance {
    match name {
        "lse" => Tolerance::F32,
        "o" => Tolerance { relative: BF16, of_largest: BF16 },
        _ => Tolerance { relative: BF16, of_largest: 2.0 * BF16 },
    }
}

#[track_caller]
fn agree(rule: Rule, sizes: &[(usize, usize, usize, usize)]) {
    let cuda = gpu(&[], &[]);
    for &(n_tokens, heads, kv_heads, head_dim) in sizes {
        let shape = AttentionShape { n_tokens, heads, kv_heads, head_dim };
        let case = format!("attention {rule:?} {shape:?}");
        assert_parity(&case, &attention(&cuda, rule, shape, 2.0), &attention(&cpu(), rule, shape, 2.0), tolerance);
    }
}

#[test]
fn attention_over_one_sequence_agrees() {
    agree(Rule::Chain, &[(128, 6, 2, 32), (1, 1, 1, 32), (65, 4, 2, 20), (70, 2, 1, 7)]);
}

#[test]
fn attention_of_large_scores_agrees() {
    let cuda = gpu(&[], &[]);
    // Hundreds: no f32 holds their powers of two.
    let shape = AttentionShape { n_tokens: 70, heads: 1, kv_heads: 1, head_dim: 32 };
    let [gpu, cpu] = [attention(&cuda, Rule::Chain, shape, 512.0), attention(&cpu(), Rule::Chain, shape, 512.0)];
    assert_parity("attention of large scores", &gpu, &cpu, tolerance);
}

#[test]
fn attention_over_a_forest_agrees() {
    agree(Rule::Forest(12), &[(200, 2, 1, 12)]);
    agree(Rule::Forest(3), &[(130, 3, 1, 32)]);
    agree(Rule::Fan, &[(200, 1, 1, 32)]);
    agree(Rule::Ladder, &[(150, 1, 1, 32)]);
}

#[test]
fn attention_over_more_tiles_than_a_warp_looks_at_at_once_agrees() {
    agree(Rule::Forest(50), &[(2200, 1, 1, 8)]);
}

#[test]
fn attention_over_segments_agrees() {
    agree(Rule::Segments(&[1, 70, 3, 17, 128, 40]), &[(259, 2, 2, 32)]);
}

#[test]
fn attention_where_one_query_of_a_rectangle_sees_what_the_others_do_not_agrees() {
    // The first or the last one of 16 queries forward, of 32 backward, of a tile of 64.
    for lengths in [&[159, 41], &[145, 55], &[129, 71], &[63, 66]] {
        agree(Rule::Segments(lengths), &[(lengths.iter().sum(), 2, 1, 32)]);
    }
}

#[test]
fn attention_of_wide_heads_agrees() {
    agree(Rule::Chain, &[(123, 6, 2, 64), (64, 2, 2, 128)]);
    agree(Rule::Forest(12), &[(300, 3, 1, 64), (131, 4, 2, 96)]);
    agree(Rule::Segments(&[1, 70, 3, 17, 128, 40]), &[(70, 3, 3, 64)]);
}

fn cached<D: Device>(device: &D, n_past: usize, shape: AttentionShape, sharpness: f32) -> Results {
    let (on, mut random) = (On::new(device), Random(10));
    let AttentionShape { n_tokens: n_new, heads, kv_heads, head_dim } = shape;
    let (q_width, k_width, n) = (heads * head_dim, kv_heads * head_dim, n_past + n_new);
    let q: Vec<f32> = random.values(n_new * q_width).iter().map(|x| sharpness * x).collect();
    let q = on.act(&q, q_width);
    let (k, v) = (on.act(&random.values(n * k_width), k_width), on.act(&random.values(n * k_width), k_width));
    let mut o = on.out(n_new, q_width);
    device.attention_cached(&mut o, &q, &k, &v, n_past, shape);
    vec![("o", on.read(&o))]
}

#[test]
fn attention_over_a_cache_agrees() {
    let cuda = gpu(&[], &[]);
    for (n_past, n_tokens, heads, kv_heads, head_dim) in [
        (0, 1, 2, 1, 64),
        (100, 1, 9, 3, 64),
        (300, 5, 4, 2, 128),
        (33, 3, 2, 2, 20),
        (700, 3, 2, 1, 256),
        (40, 2, 2, 1, 7),
        // Keys that fill up the turn of a warp.
        (61, 4, 2, 1, 8),
    ] {
        // Scores of a few units; and of hundreds and thousands, whose powers of two no f32 holds.
        for sharpness in [1.0, 256.0, 4096.0] {
            let shape = AttentionShape { n_tokens, heads, kv_heads, head_dim };
            let case = format!("attention_cached after {n_past} {shape:?} of queries times {sharpness}");
            let [gpu, cpu] = [cached(&cuda, n_past, shape, sharpness), cached(&cpu(), n_past, shape, sharpness)];
            assert_parity(&case, &gpu, &cpu, |_| Tolerance {
                of_largest: SUM * sharpness.sqrt(),
                ..Tolerance::ROUNDED
            });
        }
    }
}
