//! Attention within segments: what each sequence alone would give.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{AttentionShape, Device, Visibility};

use crate::attention::reference;
use crate::attention_gradient::{Inputs, backward, equations, inputs};
use crate::forests;
use crate::support::{Random, assert_close, on_every_device, output, take, wide};

/// Start and end of each token's segment.
fn bounds(lengths: &[usize]) -> (Vec<u32>, Vec<u32>) {
    let starts = lengths.iter().scan(0, |next, len| Some(std::mem::replace(next, *next + len)));
    lengths
        .iter()
        .zip(starts)
        .flat_map(|(&len, start)| std::iter::repeat_n((start as u32, (start + len) as u32), len))
        .unzip()
}

/// The mask of segments, over what a longer forest left there.
fn mask(cpu: &Cpu, (segment_start, segment_end): &(Vec<u32>, Vec<u32>)) -> <Cpu as Device>::Mask {
    let mut mask = forests::mask(cpu, &forests::chain(segment_start.len() + 5));
    cpu.write_mask(&mut mask, Visibility::Segments { segment_start, segment_end });
    mask
}

/// One token, sequences shorter and longer than a block of 16 and a tile of 48, MiniLM's heads, the widest head.
fn cases() -> Vec<(Vec<usize>, AttentionShape)> {
    let case = |lengths: Vec<usize>, heads, kv_heads, head_dim| {
        let shape = AttentionShape { n_tokens: lengths.iter().sum(), heads, kv_heads, head_dim };
        (lengths, shape)
    };
    let mut random = Random(110);
    vec![
        case(vec![1], 1, 1, 1),
        case(vec![1, 2, 16, 1, 1, 1, 15, 49], 2, 2, 5),
        case((0..30).map(|_| 1 + random.below(20)).collect(), 12, 12, 32),
        case(vec![130, 7, 64], 4, 2, 33),
        case(vec![16, 32, 48], 2, 1, 256),
    ]
}

/// The part of a `[n_tokens, width]` buffer that belongs to each segment.
fn split<'a>(buffer: &'a [f32], lengths: &'a [usize], width: usize) -> impl Iterator<Item = &'a [f32]> {
    let mut rest = buffer;
    lengths.iter().map(move |len| {
        let (segment, after) = rest.split_at(len * width);
        rest = after;
        segment
    })
}

#[test]
fn forward_is_dense_attention_of_each_sequence_alone() {
    for (lengths, shape) in cases() {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let Inputs { q, k, v, .. } = inputs(111, n_tokens * q_width, n_tokens * kv_width);
        let parts = split(&q, &lengths, q_width).zip(split(&k, &lengths, kv_width)).zip(split(&v, &lengths, kv_width));
        let [mut want_o, mut want_lse] = [const { Vec::new() }; 2];
        for (((q, k), v), &n_tokens) in parts.zip(&lengths) {
            let [q, k, v] = [q, k, v].map(|part| wide(part, part.len()));
            let [o, lse] = reference(&q, &k, &v, |_, _| true, AttentionShape { n_tokens, ..shape });
            want_o.extend(o);
            want_lse.extend(lse);
        }
        let bounds = bounds(&lengths);
        for result in on_every_device(|cpu| {
            let (mut o, mut lse) = (output(n_tokens * q_width), output(n_tokens * heads));
            cpu.attention_forward(&mut o, &mut lse, &q, &k, &v, &mask(cpu, &bounds), shape);
            vec![take(o, n_tokens * q_width), take(lse, n_tokens * heads)]
        }) {
            // Scores of order 1 with up to 256 products: 1e-6; then a convex sum.
            assert_close("o", &result[0], &want_o, 2e-6);
            assert_close("lse", &result[1], &want_lse, 2e-6);
        }
    }
}

#[test]
fn backward_is_that_of_each_sequence_alone() {
    for (lengths, shape) in cases() {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let all = inputs(112, n_tokens * q_width, n_tokens * kv_width);
        let mut want = [const { Vec::new() }; 4];
        let queries = split(&all.q, &lengths, q_width).zip(split(&all.d_o, &lengths, q_width));
        let keys = split(&all.k, &lengths, kv_width).zip(split(&all.v, &lengths, kv_width));
        for (((q, d_o), (k, v)), &n_tokens) in queries.zip(keys).zip(&lengths) {
            let [q, k, v, d_o] = [q, k, v, d_o].map(<[f32]>::to_vec);
            let alone = equations(&Inputs { q, k, v, d_o }, |_, _| true, AttentionShape { n_tokens, ..shape });
            want.iter_mut().zip(alone).for_each(|(want, part)| want.extend(part));
        }
        let bounds = bounds(&lengths);
        for result in on_every_device(|cpu| backward(cpu, &all, &mask(cpu, &bounds), shape)) {
            for (name, (got, want)) in ["dq", "dk", "dv", "delta"].iter().zip(result.iter().zip(&want)) {
                if want.iter().all(|x| x.abs() < 1e-12) {
                    // One token: dp = delta up to rounding.
                    assert!(got.iter().all(|x| x.abs() < 2e-6), "{name}: expected zero");
                } else {
                    assert_close(name, got, want, 5e-6);
                }
            }
        }
    }
}

#[test]
fn a_token_of_another_segment_changes_no_bit() {
    let lengths = [20, 5, 40, 1, 30];
    let shape = AttentionShape { n_tokens: 96, heads: 2, kv_heads: 1, head_dim: 16 };
    let Inputs { q, k, v, .. } = inputs(113, 96 * 32, 96 * 16);
    let bounds = bounds(&lengths);
    for changed in [0, 22, 40, 65, 95] {
        let (mut other_k, mut other_v) = (k.clone(), v.clone());
        other_k[changed * 16..][..16].fill(3.0);
        other_v[changed * 16..][..16].fill(-3.0);
        for result in on_every_device(|cpu| {
            let run = |k, v| {
                let (mut o, mut lse) = (output(96 * 32), output(192));
                cpu.attention_forward(&mut o, &mut lse, &q, k, v, &mask(cpu, &bounds), shape);
                o
            };
            vec![run(&k, &v), run(&other_k, &other_v)]
        }) {
            for token in 0..96 {
                let row = token * 32..(token + 1) * 32;
                let together = bounds.0[token] == bounds.0[changed];
                assert_eq!(result[0][row.clone()] == result[1][row], !together, "token {token}, changed {changed}");
            }
        }
    }
}

fn write(start: Vec<u32>, end: Vec<u32>) {
    mask(&Cpu::new(Some(1)), &(start, end));
}

#[test]
#[should_panic(expected = "segments that do not follow each other up to the end of the batch")]
fn overlapping_segments_are_refused() {
    write(vec![0, 0, 1], vec![2, 2, 3]);
}

#[test]
#[should_panic(expected = "segments that do not follow each other up to the end of the batch")]
fn a_segment_past_the_batch_is_refused() {
    write(vec![0, 0, 2], vec![2, 2, 4]);
}
