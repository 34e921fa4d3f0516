//! Rows that have labels, out of and back into all rows; see `rows.cu`.

use super::Cuda;
use super::launch::{Source, octets, source};
use super::memory::{Act, Buffer};

static ROWS: Source = source!("rows");

impl Cuda {
    pub(super) fn gather(&self, y: &Act, x: &Act, rows: &Buffer<u32>, hidden: usize, n_rows: usize, n_tokens: usize) {
        y.assert_holds("y", n_rows, hidden);
        x.assert_holds("x", n_tokens, hidden);
        let launch = self.kernel(&ROWS, "gather_rows").act(y).act(x).buffer(rows);
        launch.int(n_rows).int(n_tokens).int(hidden).launch(octets(n_rows, hidden));
    }

    pub(super) fn scatter(
        &self,
        dx: &Act,
        dy: &Act,
        rows: &Buffer<u32>,
        hidden: usize,
        n_rows: usize,
        n_tokens: usize,
    ) {
        dx.assert_holds("dx", n_tokens, hidden);
        dy.assert_holds("dy", n_rows, hidden);
        let launch = self.kernel(&ROWS, "scatter_rows").act(dx).act(dy).buffer(rows);
        launch.int(n_rows).int(n_tokens).int(hidden).launch(octets(n_tokens, hidden));
    }
}
