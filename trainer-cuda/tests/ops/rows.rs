//! Operations that move or add rows: exact.

use trainer_cuda::device::Device;

use crate::support::{Random, on_every_device, output, take, weight};

#[test]
fn add_is_the_sum() {
    for len in [1, 123 * 515] {
        let mut random = Random(40);
        let (x, residual) = (random.values(len), random.values(len));
        let want: Vec<f32> = (0..len).map(|i| x[i] + residual[i]).collect();
        for result in on_every_device(|cpu| {
            let mut y = output(len);
            cpu.add(&mut y, &x, &residual, len);
            vec![take(y, len)]
        }) {
            assert_eq!(result[0], want);
        }
    }
}

#[test]
fn embedding_forward_copies_rows() {
    let (n, vocab, hidden) = (123, 31, 515);
    let mut random = Random(41);
    let table = random.values(vocab * hidden);
    let ids: Vec<u32> = (0..n + 4).map(|_| random.below(vocab) as u32).collect();
    let want: Vec<f32> = ids[..n].iter().flat_map(|&id| &table[id as usize * hidden..][..hidden]).copied().collect();
    for result in on_every_device(|cpu| {
        let mut y = output(n * hidden);
        cpu.embedding_forward(&mut y, &ids, &weight(cpu, &table, vocab, hidden), n);
        vec![take(y, n * hidden)]
    }) {
        assert_eq!(result[0], want);
    }
}

#[test]
fn embedding_backward_adds_up_repeated_tokens() {
    for result in on_every_device(|cpu| {
        let mut d_table = vec![1.0, 1.0, 2.0, 2.0, 3.0, 3.0];
        cpu.embedding_backward(
            &mut d_table,
            &vec![0.5, 1.5, 8.0, 9.0, 0.25, 0.75, 99.0, 99.0],
            &vec![2, 0, 2, 1],
            2,
            3,
        );
        vec![d_table]
    }) {
        assert_eq!(result[0], [9.0, 10.0, 2.0, 2.0, 3.75, 5.25]);
    }
}

#[test]
fn gather_and_scatter_are_transposes() {
    let (n, hidden) = (123, 515);
    let listed: Vec<usize> = (0..n).filter(|t| t % 3 == 1 || *t == 122).collect();
    let mut random = Random(42);
    let (x, dy) = (random.values(n * hidden), random.values(listed.len() * hidden));
    let rows: Vec<u32> = listed.iter().map(|&t| t as u32).chain([0; 3]).collect();
    let mut want_dx = vec![0.0; n * hidden];
    for (r, &t) in listed.iter().enumerate() {
        want_dx[t * hidden..][..hidden].copy_from_slice(&dy[r * hidden..][..hidden]);
    }
    let want_y: Vec<f32> = listed.iter().flat_map(|&t| &x[t * hidden..][..hidden]).copied().collect();
    for result in on_every_device(|cpu| {
        let (mut y, mut dx) = (output(listed.len() * hidden), output(n * hidden));
        cpu.gather_rows(&mut y, &x, &rows, hidden, listed.len());
        cpu.scatter_rows(&mut dx, &dy, &rows, hidden, listed.len(), n);
        vec![take(y, listed.len() * hidden), take(dx, n * hidden)]
    }) {
        assert_eq!(result[0], want_y);
        assert_eq!(result[1], want_dx);
    }
}

#[test]
fn scatter_of_no_rows_is_zero() {
    for result in on_every_device(|cpu| {
        let mut dx = output(6);
        cpu.scatter_rows(&mut dx, &vec![], &vec![], 2, 0, 3);
        vec![take(dx, 6)]
    }) {
        assert_eq!(result[0], [0.0; 6]);
    }
}
