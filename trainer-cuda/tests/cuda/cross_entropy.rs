//! The vocabulary's projection and softmax, in chunks.

use crate::support::{BF16, On, Random, Results, Tolerance, assert_parity, cpu, gpu};
use trainer_cuda::device::{CrossEntropyGrad, Device, EdgeBuffers, Place};

/// Rows, hidden, vocabulary, rows of a chunk.
type Shape = (usize, usize, usize, usize);

/// Logits are whole numbers that bf16 has: both devices see the same ones, many of them equal.
fn cross_entropy<D: Device>(device: &D, (n_rows, hidden, vocab, chunk_rows): Shape, are_negative: bool) -> Results {
    let (on, mut random) = (On::new(device), Random(11));
    let mut digits = |n: usize| (0..n).map(|_| random.below(3) as f32 - 1.0).collect::<Vec<_>>();
    let (mut x, mut head) = (digits(n_rows * hidden), digits(vocab * hidden));
    if are_negative {
        x.fill(1.0);
        head.iter_mut().for_each(|weight| *weight -= 2.0);
    }
    let head = on.trained(&head, vocab, hidden, Place::Matrix);
    let x = on.act(&x, hidden);
    // No edge, one, several; more than a block of 32 threads has at once, with the same targets again and again.
    let counts: Vec<u32> = (0..n_rows).map(|row| [1, 0, 3, 70, 1][row % 5]).collect();
    let starts = counts.iter().scan(0, |end, count| {
        *end += count;
        Some(*end)
    });
    let starts: Vec<u32> = [0].into_iter().chain(starts).collect();
    let n_edges = *starts.last().expect("an end") as usize;
    let mut targets = random.indices(n_edges, vocab);
    for edge in 4..n_edges {
        if edge % 3 != 0 {
            targets[edge] = targets[edge - 1 - edge % 2];
        }
    }
    let edges = EdgeBuffers { edge_start: on.index(&starts), edge_target: on.index(&targets) };
    let (mut logprob, mut argmax) = (on.f32_out(n_edges), on.index(&vec![7; n_rows]));
    let mut logits = on.out(chunk_rows, vocab);
    device.linear_cross_entropy(
        &mut logprob,
        &mut argmax,
        &mut logits,
        &x,
        &head.weight,
        &edges,
        n_rows,
        chunk_rows,
        None,
    );
    let logprob_alone = on.read_f32(&logprob, n_edges);
    let largest: Vec<f32> = device.read_index(&argmax, n_rows).iter().map(|&index| index as f32).collect();

    let d_logprob = on.f32_input(&random.values(n_edges));
    let (mut d_x, mut d_head) = (on.out(n_rows, hidden), on.f32(&random.values(vocab * hidden)));
    let grad = CrossEntropyGrad { d_logprob: &d_logprob, d_x: &mut *d_x, d_head: Some(&mut d_head) };
    device.linear_cross_entropy(
        &mut logprob,
        &mut argmax,
        &mut logits,
        &x,
        &head.weight,
        &edges,
        n_rows,
        chunk_rows,
        Some(grad),
    );
    assert_eq!(logprob_alone, on.read_f32(&logprob, n_edges), "with the gradient and without");
    on.read(&logits); // nothing was written around them
    vec![
        ("logprob", logprob_alone),
        ("argmax", largest),
        ("d_x", on.read(&d_x)),
        ("d_head", on.read_f32(&d_head, vocab * hidden)),
    ]
}

#[track_caller]
fn agree(shape: Shape, are_negative: bool) {
    let (_, hidden, vocab, _) = shape;
    let gpu = cross_entropy(&gpu(&[vocab * hidden], &[]), shape, are_negative);
    let cpu = cross_entropy(&cpu(), shape, are_negative);
    assert_parity(&format!("cross_entropy {shape:?}"), &gpu, &cpu, |name| match name {
        "argmax" => Tolerance::EXACT,
        "logprob" => Tolerance::F32,
        // Gradients of logits are rounded, and summed up.
        _ => Tolerance { relative: BF16, of_largest: BF16 },
    });
}

#[test]
fn cross_entropies_agree() {
    // One chunk and several; a vocabulary for one warp and for three; odd sizes.
    for shape in [(9, 48, 31, 9), (13, 64, 515, 4), (4, 40, 1, 3)] {
        agree(shape, false);
    }
}

#[test]
fn cross_entropies_of_negative_logits_agree() {
    for shape in [(9, 48, 31, 9), (5, 24, 9001, 2)] {
        agree(shape, true);
    }
}

#[test]
fn cross_entropies_of_large_vocabularies_agree() {
    // Two vectors for some of 1,024 threads; two rounds of four.
    agree((5, 24, 9001, 2), false);
    agree((4, 8, 40_001, 3), false);
}
