//! Operations that move or add rows: exact.

use trainer_cuda::device::Device;

use crate::support::{Random, on_every_device, output, take, weight};

#[test]
fn embedding_forward_adds_up_rows_of_one_to_three_tables_in_order() {
    let (n, hidden) = (123, 515);
    let vocabs = [31, 2, 140];
    let mut random = Random(41);
    let tables = vocabs.map(|vocab| random.values(vocab * hidden));
    let rows = vocabs.map(|vocab| (0..n + 4).map(|_| random.below(vocab) as u32).collect::<Vec<u32>>());
    for n_tables in 1..=3 {
        let row = |table: usize, t: usize| &tables[table][rows[table][t] as usize * hidden..][..hidden];
        let added = |t: usize, i: usize| (1..n_tables).fold(row(0, t)[i], |sum, table| sum + row(table, t)[i]);
        let want: Vec<f32> = (0..n).flat_map(|t| (0..hidden).map(move |i| added(t, i))).collect();
        for result in on_every_device(|cpu| {
            let mut y = output(n * hidden);
            let weights: Vec<_> =
                tables.iter().zip(vocabs).map(|(table, vocab)| weight(cpu, table, vocab, hidden)).collect();
            let tables: Vec<_> = rows.iter().zip(&weights).take(n_tables).collect();
            cpu.embedding_forward(&mut y, &tables, n);
            vec![take(y, n * hidden)]
        }) {
            assert_eq!(result[0], want, "{n_tables} tables");
        }
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
fn gather_and_scatter_are_transposes_and_padding_is_no_row() {
    let (n, hidden) = (123, 515);
    let listed: Vec<usize> = (0..n).filter(|t| t % 3 == 1 || *t == 122).collect();
    for padding in [0, 4] {
        let n_rows = listed.len() + padding;
        let mut random = Random(42);
        let (x, dy) = (random.values(n * hidden), random.values(n_rows * hidden));
        // Entries behind the rows are not read.
        let padded = std::iter::repeat_n(n as u32, padding).chain([0; 3]);
        let rows: Vec<u32> = listed.iter().map(|&t| t as u32).chain(padded).collect();
        let mut want_dx = vec![0.0; n * hidden];
        for (r, &t) in listed.iter().enumerate() {
            want_dx[t * hidden..][..hidden].copy_from_slice(&dy[r * hidden..][..hidden]);
        }
        let mut want_y: Vec<f32> = listed.iter().flat_map(|&t| &x[t * hidden..][..hidden]).copied().collect();
        want_y.resize(n_rows * hidden, 0.0);
        for result in on_every_device(|cpu| {
            let (mut y, mut dx) = (output(n_rows * hidden), output(n * hidden));
            cpu.gather_rows(&mut y, &x, &rows, hidden, n_rows, n);
            cpu.scatter_rows(&mut dx, &dy, &rows, hidden, n_rows, n);
            vec![take(y, n_rows * hidden), take(dx, n * hidden)]
        }) {
            assert_eq!(result[0], want_y, "{padding} rows of padding");
            assert_eq!(result[1], want_dx, "{padding} rows of padding");
        }
    }
}

#[test]
fn scatter_of_no_rows_is_zero() {
    for rows in [vec![], vec![3, 3]] {
        for result in on_every_device(|cpu| {
            let mut dx = output(6);
            cpu.scatter_rows(&mut dx, &vec![7.0; 2 * rows.len()], &rows, 2, rows.len(), 3);
            vec![take(dx, 6)]
        }) {
            assert_eq!(result[0], [0.0; 6]);
        }
    }
}
