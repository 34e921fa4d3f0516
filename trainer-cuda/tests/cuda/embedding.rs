//! Token embeddings.

use crate::support::{On, Random, Results, Tolerance, assert_parity, cpu, gpu};
use trainer_cuda::device::Device;

fn embedding<D: Device>(device: &D, (n_tokens, hidden, n_tables): (usize, usize, usize)) -> Results {
    let (on, mut random, vocab) = (On::new(device), Random(5), 41);
    let tables: Vec<_> = (0..n_tables)
        .map(|_| (on.index(&random.indices(n_tokens, vocab)), on.matrix(&random.values(vocab * hidden), vocab, hidden)))
        .collect();
    let tables: Vec<_> = tables.iter().map(|(ids, table)| (ids, table)).collect();
    let mut y = on.out(n_tokens, hidden);
    device.embedding_forward(&mut y, &tables, n_tokens);
    let dy = on.act(&random.values(n_tokens * hidden), hidden);
    let mut d_table = on.f32(&random.values(vocab * hidden));
    device.embedding_backward(&mut d_table, &dy, tables[0].0, hidden, n_tokens);
    vec![("y", on.read(&y)), ("d_table", on.read_f32(&d_table, vocab * hidden))]
}

#[test]
fn embeddings_agree() {
    let cuda = gpu(&[], &[]);
    // Each token of the vocabulary comes up several times, up to ten blocks of 128 apart; rows of more than one block.
    for shape in [(123, 515, 1), (1300, 20, 1), (40, 64, 3), (1, 8, 2), (9, 1032, 1)] {
        assert_parity(&format!("embedding {shape:?}"), &embedding(&cuda, shape), &embedding(&cpu(), shape), |name| {
            if name == "y" { Tolerance::ROUNDED } else { Tolerance::F32 }
        });
    }
}
