//! The end of a step; see `adamw.cu`.

use super::Cuda;
use super::launch::{Grid, Source, quads, source};
use super::weights::Optimizer;
use crate::device::{AdamW, StepState};

static ADAMW: Source = source!("adamw");

impl Cuda {
    pub(super) fn norm_and_log(&self, state: &StepState<Self>, optimizer: &Optimizer) {
        let n_values = optimizer.n_values;
        // As many blocks as the size asks for, so that the order of the sum depends on it alone.
        let blocks = n_values.div_ceil(4096).clamp(1, 1024);
        self.kernel(&ADAMW, "grad_norm")
            .buffer(&state.sums)
            .buffer(&state.control)
            .buffer(&state.log)
            .buffer(&state.scalars)
            .address(optimizer.grads)
            .size(n_values)
            .address(self.workspace.get())
            .address(self.counters.get())
            .launch(Grid::new([blocks, 1, 1], 256));
    }

    pub(super) fn update(&self, optimizer: &Optimizer, state: &StepState<Self>, constants: AdamW) {
        let AdamW { beta1, beta2, epsilon } = constants;
        let n_values = optimizer.n_values;
        self.kernel(&ADAMW, "adamw")
            .address(optimizer.values)
            .address(optimizer.exp_avg)
            .address(optimizer.exp_avg_sq)
            .address(optimizer.grads)
            .buffer(&state.control)
            .buffer(&state.scalars)
            .by_value(optimizer.images)
            .size(n_values)
            .float(beta1)
            .float(beta2)
            .float(epsilon)
            .launch(quads(n_values));
    }
}
