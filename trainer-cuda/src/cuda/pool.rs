//! From tokens to embeddings; see `pool.cu`.

use super::Cuda;
use super::launch::{Grid, Source, octets, rows_in_registers, source};
use super::memory::{Act, Buffer};

static POOL: Source = source!("pool");

impl Cuda {
    pub(super) fn mean_pool(&self, y: &Act, x: &Act, offsets: &Buffer<u32>, hidden: usize, n_segments: usize) {
        y.assert_holds("y", n_segments, hidden);
        let launch = self.kernel(&POOL, "mean_pool_forward").act(y).act(x).buffer(offsets);
        launch.int(n_segments).int(hidden).launch(Grid::new([hidden.div_ceil(32), n_segments, 1], 256));
    }

    pub(super) fn mean_pool_gradient(
        &self,
        dx: &Act,
        dy: &Act,
        offsets: &Buffer<u32>,
        hidden: usize,
        n_segments: usize,
        n_tokens: usize,
    ) {
        dx.assert_holds("dx", n_tokens, hidden);
        let launch = self.kernel(&POOL, "mean_pool_backward").act(dx).act(dy).buffer(offsets);
        launch.int(n_segments).int(n_tokens).int(hidden).launch(octets(n_tokens, hidden));
    }

    pub(super) fn normalize(&self, y: &Act, norm: &Buffer<f32>, x: &Act, dim: usize, n: usize) {
        y.assert_holds("y", n, dim);
        x.assert_holds("x", n, dim);
        let launch = self.kernel(&POOL, "l2_normalize_forward").act(y).buffer(norm).act(x);
        launch.int(n).int(dim).launch(rows_in_registers(n, dim));
    }

    pub(super) fn normalize_gradient(&self, dx: &Act, dy: &Act, y: &Act, norm: &Buffer<f32>, dim: usize, n: usize) {
        dx.assert_holds("dx", n, dim);
        dy.assert_holds("dy", n, dim);
        let launch = self.kernel(&POOL, "l2_normalize_backward").act(dx).act(dy).act(y).buffer(norm);
        launch.int(n).int(dim).launch(rows_in_registers(n, dim));
    }
}
