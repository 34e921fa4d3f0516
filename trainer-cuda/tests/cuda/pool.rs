//! From tokens to embeddings: the mean of each segment, and unit length.

use crate::support::{On, Random, Results, Tolerance, assert_parity, cpu, gpu};
use trainer_cuda::device::Device;

fn pool<D: Device>(device: &D, (lengths, hidden): (&[u32], usize)) -> Results {
    let (on, mut random) = (On::new(device), Random(8));
    let offsets: Vec<u32> = [0]
        .into_iter()
        .chain(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }))
        .collect();
    // Two rows behind the last segment.
    let (n_segments, n_tokens) = (lengths.len(), *offsets.last().expect("an end") as usize + 2);
    let offsets = on.index(&offsets);
    let x = on.act(&random.values(n_tokens * hidden), hidden);
    let mut y = on.out(n_segments, hidden);
    device.mean_pool_forward(&mut y, &x, &offsets, hidden, n_segments);
    let dy = on.act(&random.values(n_segments * hidden), hidden);
    let mut dx = on.out(n_tokens, hidden);
    device.mean_pool_backward(&mut dx, &dy, &offsets, hidden, n_segments, n_tokens);

    vec![("mean", on.read(&y)), ("d_mean", on.read(&dx))]
}

/// Forward of values of up to `scale`, a power of two; backward of rows that are said to be `length` long, half and one and a
/// half of it.
fn normalize<D: Device>(device: &D, (n, dim): (usize, usize), scale: f32, length: f32) -> Results {
    let (on, mut random) = (On::new(device), Random(21));
    let x = on.act(&random.values(n * dim).iter().map(|x| x * scale).collect::<Vec<_>>(), dim);
    let (mut unit, mut norm) = (on.out(n, dim), on.f32_out(n));
    device.l2_normalize_forward(&mut unit, &mut norm, &x, dim, n);
    let d_unit = on.act(&random.values(n * dim), dim);
    // Of one and the same unit vector: the GPU's is rounded.
    let unit_again = on.act(&random.values(n * dim), dim);
    let norms = on.f32_input(&(0..n).map(|row| [1.0, 0.5, 1.5][row % 3] * length).collect::<Vec<_>>());
    let mut d_x = on.out(n, dim);
    device.l2_normalize_backward(&mut d_x, &d_unit, &unit_again, &norms, dim, n);
    vec![("unit", on.read(&unit)), ("norm", on.read_f32(&norm, n)), ("d_unit", on.read(&d_x))]
}

#[test]
fn unit_lengths_agree() {
    let cuda = gpu(&[], &[]);
    // The shortest that counts is 1e-12.
    let tiny = 2f32.powi(-41);
    for (shape, scale, length) in [
        ((5, 515), 1.0, 2.0),
        ((4, 9), tiny, 1e-12),
        ((3, 2048), 0.25, 1.0),
        ((2, 16_384), 1.0, 9.0),
        ((2, 8), 0.0, 0.0),
    ] {
        let case = format!("l2_normalize {shape:?} of {scale}");
        let [gpu, cpu] = [normalize(&cuda, shape, scale, length), normalize(&cpu(), shape, scale, length)];
        assert_parity(&case, &gpu, &cpu, |name| if name == "norm" { Tolerance::F32 } else { Tolerance::ROUNDED });
    }
}

#[test]
fn pooling_agrees() {
    let cuda = gpu(&[], &[]);
    for (lengths, hidden) in [(&[7, 1, 0, 300, 64][..], 515), (&[3, 2], 384), (&[1], 9), (&[40, 9], 1100)] {
        let case = format!("pool {lengths:?} of {hidden}");
        let (gpu, cpu) = (pool(&cuda, (lengths, hidden)), pool(&cpu(), (lengths, hidden)));
        assert_parity(&case, &gpu, &cpu, |_| Tolerance::ROUNDED);
    }
}
