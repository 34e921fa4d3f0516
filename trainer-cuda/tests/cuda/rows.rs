//! Rows in and out: gathering, scattering, caches, a product with a matrix that stands alone.

use crate::support::{On, Random, Results, Tolerance, assert_parity, cpu, gpu};
use trainer_cuda::device::Device;

fn rows<D: Device>(device: &D, (n_tokens, hidden): (usize, usize)) -> Results {
    let (on, mut random) = (On::new(device), Random(6));
    // Every third token has a label; the last two rows are padding, but where the tokens are an even number.
    let padding = if n_tokens % 2 == 0 { 0 } else { 2 };
    let labelled = (0..n_tokens).filter(|t| t % 3 == 1).chain(std::iter::repeat_n(n_tokens, padding));
    let labelled: Vec<u32> = labelled.map(|t| t as u32).collect();
    let n_rows = labelled.len();
    let index = on.index(&labelled);
    let x = on.act(&random.values(n_tokens * hidden), hidden);
    let mut y = on.out(n_rows, hidden);
    device.gather_rows(&mut y, &x, &index, hidden, n_rows, n_tokens);
    let dy = on.act(&random.values(n_rows * hidden), hidden);
    let mut dx = on.out(n_tokens, hidden);
    device.scatter_rows(&mut dx, &dy, &index, hidden, n_rows, n_tokens);
    let (mut cache, at) = (on.out(n_tokens + 7, hidden), 5);
    device.append_rows(&mut cache, &x, at, hidden, n_tokens);
    vec![("y", on.read(&y)), ("dx", on.read(&dx)), ("cache", on.read(&cache))]
}

#[test]
fn gathered_and_scattered_rows_are_the_same() {
    let cuda = gpu(&[], &[]);
    for shape in [(123, 515), (64, 576), (2, 8), (7, 3)] {
        assert_parity(&format!("rows {shape:?}"), &rows(&cuda, shape), &rows(&cpu(), shape), |_| Tolerance::EXACT);
    }
}

fn projection<D: Device>(device: &D, (n_rows, out, hidden): (usize, usize, usize)) -> Results {
    let (on, mut random) = (On::new(device), Random(7));
    let weight = on.matrix(&random.values(out * hidden), out, hidden);
    let x = on.act(&random.values(n_rows * hidden), hidden);
    let mut y = on.out(n_rows, out);
    device.project(&mut y, &x, &weight, n_rows);
    vec![("y", on.read(&y))]
}

#[test]
fn projections_agree() {
    let cuda = gpu(&[], &[]);
    // The last: more than eight rows of whole tiles of our own product.
    for shape in [(3, 130, 515), (1, 49, 64), (129, 257, 96), (1152, 256, 8)] {
        let case = format!("project {shape:?}");
        assert_parity(&case, &projection(&cuda, shape), &projection(&cpu(), shape), |_| Tolerance::ROUNDED);
    }
}
