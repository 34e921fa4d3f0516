//! Linear layers of one input, as one product; the low-rank updates ride in it (see [`PackedLayout`]).
//!
//! [`PackedLayout`]: super::layout::PackedLayout

use super::Cuda;
use super::launch::{Source, columns, source};
use super::memory::{Act, Buffer};
use super::products::{Layout, Product};
use super::weights::{Packed, Weight};
use crate::device::Modules;

static COLUMN_SUM: Source = source!("column_sum");

/// Where the outputs of all modules lie, one beside the other as the matrix has its rows.
pub(super) fn beside(packed: &Packed, acts: &[&Act]) -> (u64, usize) {
    let (first, starts) = (acts[0], &packed.layout.out_start);
    for (act, start) in acts.iter().zip(starts) {
        let expected = first.address + 2 * *start as u64;
        assert!(act.address == expected && act.stride == first.stride, "outputs of one product lie side by side");
    }
    (first.address, first.stride)
}

/// Checks that low-rank values lie behind each row, where the product reads on.
pub(super) fn assert_tail(act: &Act, start: u64, n: usize) {
    assert_eq!(act.tail, start, "low-rank values lie behind the row");
    assert!(act.stride * 2 >= (start - act.address) as usize + 2 * n, "there is room for them");
}

impl Cuda {
    pub(super) fn project_modules<const N: usize>(
        &self,
        y: [&Act; N],
        x: &Act,
        with_updates: bool,
        modules: &Modules<'_, Self, N>,
        residual: Option<&Act>,
        n_tokens: usize,
    ) {
        let (packed, layout) = (modules.packed, &modules.packed.layout);
        let in_features = modules.weight[0].cols;
        x.assert_holds("x", n_tokens, in_features);
        for (y, weight) in y.iter().zip(&modules.weight) {
            y.assert_holds("y", n_tokens, weight.rows);
        }
        assert!(residual.is_none() || N == 1, "a residual is added to a single layer");
        let terms = match with_updates {
            true => {
                assert_tail(x, x.address + 2 * layout.in_padded as u64, layout.rank_padded);
                layout.stride()
            }
            false => in_features,
        };
        // Without neighbours only what counts is written; with them the padding between, which stays zero.
        let out = if N == 1 { modules.weight[0].rows } else { layout.out_padded };
        self.multiply(
            "linear_forward",
            Product {
                layout: Layout::Tn,
                shape: [n_tokens, out, terms],
                a: (x.address, x.stride),
                b: (self.packed_matrix(packed), layout.stride()),
                c: residual.map(|residual| (residual.address, residual.stride)),
                bias: (packed.bias != 0).then_some(packed.bias),
                d: beside(packed, &y),
            },
        );
    }

    pub(super) fn project_back<const N: usize>(
        &self,
        dx: &Act,
        dy: [&Act; N],
        with_updates: bool,
        modules: &Modules<'_, Self, N>,
        residual: Option<&Act>,
        n_tokens: usize,
    ) {
        let (packed, layout) = (modules.packed, &modules.packed.layout);
        let in_features = modules.weight[0].cols;
        dx.assert_holds("dx", n_tokens, in_features);
        let terms = match with_updates {
            true => {
                assert_tail(dy[0], dy[0].address + 2 * layout.out_padded as u64, layout.rank_padded);
                layout.rows()
            }
            false if N == 1 => modules.weight[0].rows,
            false => layout.out_padded,
        };
        self.multiply(
            "linear_backward_input",
            Product {
                layout: Layout::Nn,
                shape: [n_tokens, in_features, terms],
                a: beside(packed, &dy),
                b: (self.packed_matrix(packed), layout.stride()),
                c: residual.map(|residual| (residual.address, residual.stride)),
                bias: None,
                d: (dx.address, dx.stride),
            },
        );
    }

    pub(super) fn weight_gradient(
        &self,
        d_weight: &Buffer<f32>,
        dy: &Act,
        x: &Act,
        [out_features, in_features]: [usize; 2],
        n_tokens: usize,
    ) {
        dy.assert_holds("dy", n_tokens, out_features);
        x.assert_holds("x", n_tokens, in_features);
        let d_weight = (d_weight.address(), in_features);
        self.multiply(
            "linear_backward_weight",
            Product {
                layout: Layout::Nt,
                shape: [out_features, in_features, n_tokens],
                a: (dy.address, dy.stride),
                b: (x.address, x.stride),
                c: Some(d_weight),
                bias: None,
                d: d_weight,
            },
        );
    }

    pub(super) fn bias_gradient(&self, d_bias: &Buffer<f32>, dy: &Act, out_features: usize, n_tokens: usize) {
        dy.assert_holds("dy", n_tokens, out_features);
        self.kernel(&COLUMN_SUM, "column_sum")
            .buffer(d_bias)
            .act(dy)
            .address(self.workspace.get())
            .address(self.counters.get())
            .int(n_tokens)
            .int(out_features)
            .launch(columns(n_tokens, out_features));
    }

    /// A product with a matrix that is not packed.
    pub(super) fn project_alone(&self, y: &Act, x: &Act, weight: &Weight, n_rows: usize) {
        y.assert_holds("y", n_rows, weight.rows);
        x.assert_holds("x", n_rows, weight.cols);
        self.multiply(
            "project",
            Product {
                layout: Layout::Tn,
                shape: [n_rows, weight.rows, weight.cols],
                a: (x.address, x.stride),
                b: weight.matrix(),
                c: None,
                bias: None,
                d: (y.address, y.stride),
            },
        );
    }
}
