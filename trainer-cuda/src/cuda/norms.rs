//! RMSNorm and LayerNorm; see `rms_norm.cu` and `layer_norm.cu`.

use super::Cuda;
use super::launch::{Source, columns, rows_in_registers, source};
use super::memory::{Act, Buffer};
use super::weights::Weight;

static RMS_NORM: Source = source!("rms_norm");
static LAYER_NORM: Source = source!("layer_norm");

/// How many rows of `width` a token has: its heads, or one.
fn rows_per_token(act: &Act, width: usize) -> usize {
    assert!(act.width.is_multiple_of(width), "rows of {width} in tokens of {}", act.width);
    act.width / width
}

impl Cuda {
    pub(super) fn rms_norm(&self, y: &Act, rstd: &Buffer<f32>, x: &Act, weight: &Weight, eps: f32, n_rows: usize) {
        let (width, per_token) = (weight.cols, rows_per_token(x, weight.cols));
        x.assert_holds("x", n_rows.div_ceil(per_token), width);
        y.assert_holds("y", n_rows.div_ceil(per_token), width);
        let launch = self.kernel(&RMS_NORM, "rms_norm_forward").act(y).buffer(rstd).act(x).buffer(weight.vector());
        let launch = launch.int(n_rows).int(per_token).int(width).float(eps);
        launch.launch(rows_in_registers(n_rows, width));
    }

    pub(super) fn rms_norm_gradient(
        &self,
        dx: &Act,
        d_weight: Option<&Buffer<f32>>,
        y: Option<&Act>,
        dy: &Act,
        x: &Act,
        rstd: &Buffer<f32>,
        weight: &Weight,
        residual: Option<&Act>,
        n_rows: usize,
    ) {
        let (width, per_token) = (weight.cols, rows_per_token(x, weight.cols));
        x.assert_holds("x", n_rows.div_ceil(per_token), width);
        dx.assert_holds("dx", n_rows.div_ceil(per_token), width);
        let launch = self.kernel(&RMS_NORM, "rms_norm_backward").act(dx).act_or_null(y).act(dy).act(x).buffer(rstd);
        let launch = launch.buffer(weight.vector()).act_or_null(residual).int(n_rows).int(per_token).int(width);
        launch.launch(rows_in_registers(n_rows, width));
        if let Some(d_weight) = d_weight {
            let launch =
                self.kernel(&RMS_NORM, "rms_norm_backward_weight").buffer(d_weight).act(dy).act(x).buffer(rstd);
            let launch = launch.address(self.workspace.get()).address(self.counters.get());
            launch.int(n_rows).int(per_token).int(width).launch(columns(n_rows, width));
        }
    }

    pub(super) fn layer_norm(
        &self,
        y: &Act,
        mean: &Buffer<f32>,
        rstd: &Buffer<f32>,
        x: &Act,
        [weight, bias]: [&Weight; 2],
        eps: f32,
        n_tokens: usize,
    ) {
        let width = weight.cols;
        x.assert_holds("x", n_tokens, width);
        y.assert_holds("y", n_tokens, width);
        let launch = self.kernel(&LAYER_NORM, "layer_norm_forward").act(y).buffer(mean).buffer(rstd).act(x);
        let launch = launch.buffer(weight.vector()).buffer(bias.vector()).int(n_tokens).int(width).float(eps);
        launch.launch(rows_in_registers(n_tokens, width));
    }

    pub(super) fn layer_norm_gradient(
        &self,
        dx: &Act,
        parameters: Option<[&Buffer<f32>; 2]>,
        y: Option<&Act>,
        dy: &Act,
        x: &Act,
        [mean, rstd]: [&Buffer<f32>; 2],
        [weight, bias]: [&Weight; 2],
        n_tokens: usize,
    ) {
        let width = weight.cols;
        x.assert_holds("x", n_tokens, width);
        dx.assert_holds("dx", n_tokens, width);
        let launch = self.kernel(&LAYER_NORM, "layer_norm_backward").act(dx).act_or_null(y).act(dy).act(x);
        let launch = launch.buffer(mean).buffer(rstd).buffer(weight.vector()).buffer(bias.vector());
        let launch = launch.int(n_tokens).int(width);
        launch.launch(rows_in_registers(n_tokens, width));
        if let Some([d_weight, d_bias]) = parameters {
            let launch = self.kernel(&LAYER_NORM, "layer_norm_backward_weight").buffer(d_weight).buffer(d_bias);
            let launch = launch.act(dy).act(x).buffer(mean).buffer(rstd);
            let launch = launch.address(self.workspace.get()).address(self.counters.get());
            launch.int(n_tokens).int(width).launch(columns(n_tokens, width));
        }
    }
}
