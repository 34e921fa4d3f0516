//! Mean pooling and normalisation to length 1.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;

use crate::support::{Random, UNIT, assert_close, assert_near, dot, gradient, on_every_device, output, take, wide};

/// Segments of 0 to 40 rows: first, last and in between some are empty.
fn offsets(seed: u64, n_segments: usize) -> Vec<u32> {
    let mut random = Random(seed);
    let mut offsets = vec![0];
    for segment in 0..n_segments {
        let rows = if segment % 5 == 0 || segment + 1 == n_segments { 0 } else { random.below(40) };
        offsets.push(offsets[segment] + rows as u32);
    }
    offsets
}

#[test]
fn mean_pool_is_the_mean_and_backward_its_transpose() {
    for (offsets, hidden, padding) in [
        (vec![0, 1], 1, 0),
        (offsets(100, 31), 37, 0),
        (offsets(101, 57), 515, 50),
        (vec![0, 300], 384, 1),
        (vec![0, 0], 3, 2),
    ] {
        // Rows of padding are behind the last segment.
        let (n_segments, n_tokens) = (offsets.len() - 1, offsets[offsets.len() - 1] as usize + padding);
        let mut random = Random(102);
        let (x, dy) = (random.values(n_tokens * hidden), random.values(n_segments * hidden));
        let (mut want_y, mut want_dx) = (vec![0.0; n_segments * hidden], vec![0.0; n_tokens * hidden]);
        for s in 0..n_segments {
            let rows = offsets[s] as usize..offsets[s + 1] as usize;
            for (t, d) in rows.clone().flat_map(|t| (0..hidden).map(move |d| (t, d))) {
                want_y[s * hidden + d] += f64::from(x[t * hidden + d]) / rows.len() as f64;
                want_dx[t * hidden + d] = f64::from(dy[s * hidden + d]) / rows.len() as f64;
            }
        }
        // Entries behind the batch are not read.
        let offsets = [offsets, vec![0; 5]].concat();
        for result in on_every_device(|cpu| {
            let (mut y, mut dx) = (output(n_segments * hidden), output(n_tokens * hidden));
            cpu.mean_pool_forward(&mut y, &x, &offsets, hidden, n_segments);
            cpu.mean_pool_backward(&mut dx, &dy, &offsets, hidden, n_segments, n_tokens);
            vec![take(y, n_segments * hidden), take(dx, n_tokens * hidden)]
        }) {
            // Random signs: a sum of 300 stays below 60, each of its roundings below 32 UNIT; then the mean.
            assert_near("y", &result[0], &want_y, |_| 32.0 * UNIT);
            assert_near("dx", &result[1], &want_dx, |i| 2.0 * UNIT * want_dx[i].abs());
        }
    }
}

#[test]
#[should_panic(expected = "segments that do not follow each other from 0")]
fn descending_offsets_are_refused() {
    Cpu::new(Some(1)).mean_pool_forward(&mut vec![0.0; 2], &vec![0.0; 3], &vec![0, 3, 2], 1, 2);
}

fn normalize(x: &[f64], dim: usize) -> Vec<f64> {
    x.chunks(dim).flat_map(|x| x.iter().map(|v| v / dot(x, x).sqrt().max(1e-12))).collect()
}

#[test]
fn l2_normalize_divides_by_the_length_and_backward_is_its_gradient() {
    for (n, dim) in [(1, 1), (1, 384), (11, 37), (123, 515)] {
        let mut random = Random(103);
        let (x, dy) = (random.values(n * dim), random.values(n * dim));
        let (x64, dy64) = (wide(&x, n * dim), wide(&dy, n * dim));
        let want_y = normalize(&x64, dim);
        let want_norm: Vec<f64> = x64.chunks(dim).map(|x| dot(x, x).sqrt()).collect();
        // Row by row: the others do not depend on it.
        let rows = x64.chunks(dim).zip(dy64.chunks(dim));
        let want_dx: Vec<f64> =
            rows.take(11).flat_map(|(x, dy)| gradient(x, |x| dot(&normalize(x, dim), dy))).collect();
        for result in on_every_device(|cpu| {
            let (mut y, mut norm, mut dx) = (output(n * dim), output(n), output(n * dim));
            cpu.l2_normalize_forward(&mut y, &mut norm, &x, dim, n);
            cpu.l2_normalize_backward(&mut dx, &dy, &y, &norm, dim, n);
            vec![take(y, n * dim), take(norm, n), take(dx, n * dim)]
        }) {
            // 515 / 16 squares a lane, four tree levels, halved by the root.
            assert_near("norm", &result[1], &want_norm, |i| 20.0 * UNIT * want_norm[i]);
            assert_near("y", &result[0], &want_y, |i| 22.0 * UNIT * want_y[i].abs());
            let checked = want_dx.len();
            let largest = dy64.iter().fold(0.0, |a: f64, dy| a.max(dy.abs())) / want_norm[0];
            assert_near("dx", &result[2][..checked], &want_dx, |_| 4e-6 * largest);
        }
    }
}

#[test]
fn a_row_shorter_than_the_limit_is_divided_by_the_limit() {
    // As torch.nn.functional.normalize gives it: y = x / 1e-12, and the length is a constant in the gradient.
    for result in on_every_device(|cpu| {
        let (mut y, mut norm, mut dx) = (output(4), output(2), output(4));
        cpu.l2_normalize_forward(&mut y, &mut norm, &vec![0.0, 0.0, 3e-13, -4e-13], 2, 2);
        cpu.l2_normalize_backward(&mut dx, &vec![1.0, 2.0, 3.0, -5.0], &y, &norm, 2, 2);
        vec![take(y, 4), take(norm, 2), take(dx, 4)]
    }) {
        assert_close("y", &result[0], &[0.0, 0.0, 0.3, -0.4], 1e-6);
        assert_close("norm", &result[1], &[0.0, 5e-13], 1e-6);
        assert_close("dx", &result[2], &[1e12, 2e12, 3e12, -5e12], 1e-6);
    }
}
