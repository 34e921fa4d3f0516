//! Operations on each value by itself: SwiGLU, GELU, dropout, rotary positions.

use crate::support::{On, Random, Results, Tolerance, assert_parity, cpu, gpu};
use trainer_cuda::device::{AttentionShape, Device, Dropout};

/// Tokens and width: odd ones, whole vectors, one value.
const SHAPES: [(usize, usize); 4] = [(123, 515), (64, 1536), (5, 8), (1, 1)];

fn swiglu<D: Device>(device: &D, (n_tokens, width): (usize, usize)) -> Results {
    let (on, mut random) = (On::new(device), Random(1));
    let mut act = || random.values(n_tokens * width).iter().map(|x| 4.0 * x).collect::<Vec<_>>();
    let (gate, up) = (on.act(&act(), width), on.act(&act(), width));
    let dy = on.act(&act(), width);
    let mut y = on.out(n_tokens, width);
    device.swiglu_forward(&mut y, &gate, &up, width, n_tokens);
    let (mut d_gate, mut d_up, mut again) = (on.out(n_tokens, width), on.out(n_tokens, width), on.out(n_tokens, width));
    device.swiglu_backward(&mut d_gate, &mut d_up, &mut again, &dy, &gate, &up, width, n_tokens);
    let y = on.read(&y);
    assert_eq!(y, on.read(&again), "the backward pass has the same y");
    vec![("y", y), ("d_gate", on.read(&d_gate)), ("d_up", on.read(&d_up))]
}

#[test]
fn swiglus_agree() {
    let cuda = gpu(&[], &[]);
    for shape in SHAPES {
        let case = format!("swiglu {shape:?}");
        assert_parity(&case, &swiglu(&cuda, shape), &swiglu(&cpu(), shape), |_| Tolerance::ROUNDED);
    }
}

fn gelu<D: Device>(device: &D, (n_tokens, width): (usize, usize)) -> Results {
    let (on, mut random) = (On::new(device), Random(2));
    // Up to 32: beyond 5.5 the tail is no longer fitted.
    let mut act = || {
        let values = random.values(n_tokens * width).into_iter().enumerate();
        values.map(|(i, x)| [1.0, 4.0, 32.0][i % 3] * x).collect::<Vec<_>>()
    };
    let (x, dy) = (on.act(&act(), width), on.act(&act(), width));
    let (mut y, mut dx, mut again) = (on.out(n_tokens, width), on.out(n_tokens, width), on.out(n_tokens, width));
    device.gelu_forward(&mut y, &x, width, n_tokens);
    device.gelu_backward(&mut dx, &mut again, &dy, &x, width, n_tokens);
    let y = on.read(&y);
    assert_eq!(y, on.read(&again), "the backward pass has the same y");
    vec![("y", y), ("dx", on.read(&dx))]
}

#[test]
fn gelus_agree() {
    let cuda = gpu(&[], &[]);
    for shape in SHAPES {
        assert_parity(&format!("gelu {shape:?}"), &gelu(&cuda, shape), &gelu(&cpu(), shape), |_| Tolerance::ROUNDED);
    }
}

/// The seed of the second module.
const SEED: [u32; 2] = [0x9e37_79b9, 0x85eb_ca6b];

fn dropout<D: Device>(device: &D, (n_tokens, width): (usize, usize), probability: f32) -> Results {
    let (on, mut random) = (On::new(device), Random(3));
    let x = on.act(&random.values(n_tokens * width), width);
    let dy = on.act(&random.values(n_tokens * width), width);
    let mut y = on.out(n_tokens, width);
    let mut dx = on.in_place(&random.values(n_tokens * width), width);
    let seeds = on.index(&[1, 2, SEED[0], SEED[1], 5, 6]);
    let dropout = || Dropout { probability, seeds: &seeds, module: 1 };
    device.dropout_forward(&mut y, &x, dropout(), width, n_tokens);
    device.dropout_backward(&mut dx, &dy, dropout(), width, n_tokens);
    vec![("y", on.read(&y)), ("dx", on.read(&dx))]
}

/// A probability at whose threshold lies the hash of one of `n` activations, which is kept then.
fn probability_of_a_hash(n: usize) -> f32 {
    let mix = |z: u64| {
        let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let key = mix(u64::from(SEED[1]) << 32 | u64::from(SEED[0]));
    let hashes = (0..n as u64 / 2).map(|pair| mix(key.wrapping_add(pair.wrapping_mul(0x9e37_79b9_7f4a_7c15))) as u32);
    // As an f32 of 24 bits, without a rounding.
    let hash = hashes.filter(|hash| hash % 256 == 0).max().expect("a hash that is such a number");
    (f64::from(hash) / 2f64.powi(32)) as f32
}

#[test]
fn dropouts_agree() {
    let cuda = gpu(&[], &[]);
    let (n_tokens, width) = SHAPES[0];
    let cases =
        SHAPES.map(|shape| (shape, 0.3)).into_iter().chain([(SHAPES[0], probability_of_a_hash(n_tokens * width))]);
    for (shape, probability) in cases {
        let case = format!("dropout {shape:?} of {probability}");
        let (gpu, cpu) = (dropout(&cuda, shape, probability), dropout(&cpu(), shape, probability));
        assert_parity(&case, &gpu, &cpu, |_| Tolerance::ROUNDED);
        let zeros = |results: &Results| results[0].1.iter().map(|&y| y == 0.0).collect::<Vec<_>>();
        assert!(zeros(&gpu) == zeros(&cpu), "{case}: the same values are dropped");
    }
}

fn rope<D: Device>(device: &D, shape: AttentionShape) -> Results {
    let (on, mut random) = (On::new(device), Random(4));
    let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
    let (q_width, k_width, max_position) = (heads * head_dim, kv_heads * head_dim, 50);
    let (q, k) = (random.values(n_tokens * q_width), random.values(n_tokens * k_width));
    let (mut q, mut k) = (on.in_place(&q, q_width), on.in_place(&k, k_width));
    let position = on.index(&random.indices(n_tokens, max_position));
    let angles: Vec<f32> = (0..max_position * head_dim / 2).map(|i| i as f32 * 0.37).collect();
    let cos = on.f32_input(&angles.iter().map(|x| x.cos()).collect::<Vec<_>>());
    let sin = on.f32_input(&angles.iter().map(|x| x.sin()).collect::<Vec<_>>());
    device.rope_forward(&mut q, &mut k, &position, &cos, &sin, shape);
    let mut results = vec![("q", on.read(&q)), ("k", on.read(&k))];
    let (mut dq, mut dk) = (
        on.in_place(&random.values(n_tokens * q_width), q_width),
        on.in_place(&random.values(n_tokens * k_width), k_width),
    );
    device.rope_backward(&mut dq, &mut dk, &position, &cos, &sin, shape);
    results.extend([("dq", on.read(&dq)), ("dk", on.read(&dk))]);
    results
}

#[test]
fn rotations_agree() {
    let cuda = gpu(&[], &[]);
    // The last heads are no whole vectors.
    for (n_tokens, heads, kv_heads, head_dim) in
        [(37, 9, 3, 64), (5, 4, 2, 128), (3, 4, 4, 12), (9, 3, 1, 6), (7, 2, 1, 24)]
    {
        let shape = AttentionShape { n_tokens, heads, kv_heads, head_dim };
        let case = format!("rope {shape:?}");
        assert_parity(&case, &rope(&cuda, shape), &rope(&cpu(), shape), |_| Tolerance::ROUNDED);
    }
}
