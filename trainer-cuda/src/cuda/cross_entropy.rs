//! The vocabulary projection with its softmax, chunk by chunk; see `cross_entropy.cu`.

use super::Cuda;
use super::launch::{Grid, Source, source};
use super::memory::{Act, Buffer};
use super::products::{Layout, Product};
use super::weights::Weight;
use crate::device::{CrossEntropyGrad, EdgeBuffers};

static CROSS_ENTROPY: Source = source!("cross_entropy");

impl Cuda {
    pub(super) fn score_rows(
        &self,
        logprob: &Buffer<f32>,
        argmax: &Buffer<u32>,
        logits: &Act,
        x: &Act,
        head: &Weight,
        edges: &EdgeBuffers<Self>,
        n_rows: usize,
        chunk_rows: usize,
        mut grad: Option<CrossEntropyGrad<'_, Self>>,
    ) {
        let (vocab, hidden, matrix) = (head.rows, head.cols, head.matrix());
        x.assert_holds("x", n_rows, hidden);
        logits.assert_holds("logits", chunk_rows.min(n_rows), vocab);
        let of_logits = (logits.address, logits.stride);
        for first in (0..n_rows).step_by(chunk_rows) {
            let n = chunk_rows.min(n_rows - first);
            let row = |act: &Act| (act.address + (2 * first * act.stride) as u64, act.stride);
            self.multiply(
                "linear_cross_entropy",
                Product {
                    layout: Layout::Tn,
                    shape: [n, vocab, hidden],
                    a: row(x),
                    b: matrix,
                    c: None,
                    bias: None,
                    d: of_logits,
                },
            );
            self.kernel(&CROSS_ENTROPY, "cross_entropy")
                .act(logits)
                .buffer(logprob)
                .address(argmax.address() + 4 * first as u64)
                .buffer(&edges.edge_start)
                .buffer(&edges.edge_target)
                .address(grad.as_ref().map_or(0, |grad| grad.d_logprob.address()))
                .int(first)
                .int(vocab)
                .launch(Grid::new([n, 1, 1], (32 * vocab.div_ceil(256)).min(1024)));
            let Some(grad) = &mut grad else { continue };
            self.multiply(
                "linear_cross_entropy, backward",
                Product {
                    layout: Layout::Nn,
                    shape: [n, hidden, vocab],
                    a: of_logits,
                    b: matrix,
                    c: None,
                    bias: None,
                    d: row(grad.d_x),
                },
            );
            if let Some(d_head) = &grad.d_head {
                let d_head = (d_head.address(), hidden);
                self.multiply(
                    "linear_cross_entropy, weight",
                    Product {
                        layout: Layout::Nt,
                        shape: [vocab, hidden, n],
                        a: of_logits,
                        b: row(x),
                        c: Some(d_head),
                        bias: None,
                        d: d_head,
                    },
                );
            }
        }
    }
}
