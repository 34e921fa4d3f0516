//! Operations on each value by itself; see `swiglu.cu`, `gelu.cu`, `dropout.cu` and `rope.cu`.

use super::Cuda;
use super::launch::{Grid, Source, octets, source};
use super::memory::{Act, Buffer};
use crate::device::{AttentionShape, Dropout};

static SWIGLU: Source = source!("swiglu");
static GELU: Source = source!("gelu");
static DROPOUT: Source = source!("dropout");
static ROPE: Source = source!("rope");

impl Cuda {
    pub(super) fn swiglu(&self, y: &Act, gate: &Act, up: &Act, width: usize, n_tokens: usize) {
        y.assert_holds("y", n_tokens, width);
        gate.assert_holds("gate", n_tokens, width);
        up.assert_holds("up", n_tokens, width);
        let launch = self.kernel(&SWIGLU, "swiglu_forward").act(y).act(gate).act(up);
        launch.int(n_tokens).int(width).launch(octets(n_tokens, width));
    }

    pub(super) fn swiglu_derivative(
        &self,
        d_gate: &Act,
        d_up: &Act,
        y: &Act,
        dy: &Act,
        gate: &Act,
        up: &Act,
        width: usize,
        n_tokens: usize,
    ) {
        d_gate.assert_holds("d_gate", n_tokens, width);
        d_up.assert_holds("d_up", n_tokens, width);
        dy.assert_holds("dy", n_tokens, width);
        let launch = self.kernel(&SWIGLU, "swiglu_backward").act(d_gate).act(d_up).act(y).act(dy).act(gate).act(up);
        launch.int(n_tokens).int(width).launch(octets(n_tokens, width));
    }

    pub(super) fn gelu(&self, y: &Act, x: &Act, width: usize, n_tokens: usize) {
        y.assert_holds("y", n_tokens, width);
        x.assert_holds("x", n_tokens, width);
        let launch = self.kernel(&GELU, "gelu_forward").act(y).act(x);
        launch.int(n_tokens).int(width).launch(octets(n_tokens, width));
    }

    pub(super) fn gelu_derivative(&self, dx: &Act, y: &Act, dy: &Act, x: &Act, width: usize, n_tokens: usize) {
        dx.assert_holds("dx", n_tokens, width);
        y.assert_holds("y", n_tokens, width);
        dy.assert_holds("dy", n_tokens, width);
        let launch = self.kernel(&GELU, "gelu_backward").act(dx).act(y).act(dy).act(x);
        launch.int(n_tokens).int(width).launch(octets(n_tokens, width));
    }

    /// `dropout_forward` (`y =`) or `dropout_backward` (`y +=`).
    pub(super) fn drop(
        &self,
        name: &'static str,
        y: &Act,
        x: &Act,
        dropout: Dropout<'_, Self>,
        width: usize,
        n_tokens: usize,
    ) {
        let Dropout { probability, seeds, module } = dropout;
        assert!((0.0..1.0).contains(&probability), "a dropout probability of {probability}");
        y.assert_holds("y", n_tokens, width);
        x.assert_holds("x", n_tokens, width);
        let launch = self.kernel(&DROPOUT, name).act(y).act(x).buffer(seeds).int(module).float(probability);
        launch.int(n_tokens).int(width).launch(octets(n_tokens, width));
    }

    /// Rotates by the position's angle times `direction`, 1 or -1.
    pub(super) fn rotate(
        &self,
        q: &Act,
        k: &Act,
        position: &Buffer<u32>,
        cos: &Buffer<f32>,
        sin: &Buffer<f32>,
        shape: AttentionShape,
        direction: f32,
    ) {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        assert_eq!(head_dim % 2, 0, "head_dim is even");
        q.assert_holds("q", n_tokens, heads * head_dim);
        k.assert_holds("k", n_tokens, kv_heads * head_dim);
        let launch = self.kernel(&ROPE, "rope").act(q).act(k).buffer(position).buffer(cos).buffer(sin);
        let threads = n_tokens * (heads + kv_heads) * head_dim.div_ceil(16);
        let launch = launch.int(n_tokens).int(heads).int(kv_heads).int(head_dim).float(direction);
        launch.launch(Grid::new([threads.div_ceil(256), 1, 1], 256));
    }
}
