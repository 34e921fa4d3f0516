//! The passes through a decoder, as calls of its blocks: what a device records and replays.

use super::Loss;
use super::buffers::Buffers;
use super::parameters::Parameters;
use crate::device::{AttentionShape, CrossEntropyGrad, Device, Trainable};
use crate::linear::{Parameter, Pass, Updates};
use crate::optimizer::Optimizer;

/// Parameters, buffers, and what trains them.
pub(super) struct Network<D: Device> {
    pub(super) parameters: Parameters<D>,
    pub(super) trained: Vec<Trainable<D>>,
    pub(super) optimizer: Optimizer<D>,
    pub(super) buffers: Buffers<D>,
    pub(super) hidden_size: usize,
    pub(super) rms_norm_eps: f32,
}

impl<D: Device> Network<D> {
    /// Scores the labelled rows.
    pub(super) fn score(&mut self, device: &D, adapter: bool, shape: AttentionShape, n_rows: usize) {
        let updates = if adapter { Updates::On } else { Updates::Off };
        self.forward(&Pass { device, updates, shape });
        self.head(device, n_rows, shape.n_tokens, false);
    }

    /// Forward and backward. The rows of preferences are projected onto the vocabulary twice, as the gradient of an edge
    /// depends on all scores: 2% of a DPO step of four pairs.
    pub(super) fn train(
        &mut self,
        device: &D,
        loss: Loss<'_>,
        [first, last]: [bool; 2],
        dropout: f32,
        shape: AttentionShape,
        n_rows: usize,
    ) {
        let seeds = self.buffers.dropout_seeds.take();
        let updates = match &seeds {
            Some(seeds) => Updates::Dropped { probability: dropout, seeds },
            None => Updates::On,
        };
        let pass = Pass { device, updates, shape };
        if first {
            self.optimizer.zero_gradients(device, &mut self.trained);
        }
        self.forward(&pass);
        match loss {
            Loss::Weighted { .. } => {
                self.head(device, n_rows, shape.n_tokens, true);
                let (state, batch) = (&mut self.optimizer.state, &self.buffers.batch);
                device.sft_loss(state, &batch.logprob, &batch.d_logprob, &batch.edges, n_rows);
            }
            Loss::Preferences { beta, .. } => {
                self.head(device, n_rows, shape.n_tokens, false);
                let (state, Buffers { batch, pairs, .. }) = (&mut self.optimizer.state, &mut self.buffers);
                if let Some(pairs) = pairs {
                    device.dpo_loss(state, &mut batch.d_logprob, &batch.logprob, pairs, &batch.edges, beta, n_rows);
                }
                self.head(device, n_rows, shape.n_tokens, true);
            }
        }
        self.backward(&pass);
        if last {
            self.optimizer.end_step(device, &mut self.trained);
        }
        self.buffers.dropout_seeds = seeds;
    }

    fn forward(&mut self, pass: &Pass<'_, D>) {
        let Buffers { x, layers, scratch, batch, .. } = &mut self.buffers;
        let table = self.parameters.embedding.weight(&self.trained);
        pass.device.embedding_forward(&mut x[0], &[(&batch.token_ids, table)], pass.shape.n_tokens);
        let n_sets = layers.len();
        for (index, block) in self.parameters.blocks.iter().enumerate() {
            let (before, after) = x.split_at_mut(index + 1);
            let (x, x_out, act) = (&before[index], &mut after[0], &mut layers[index % n_sets]);
            block.forward(pass, &self.trained, x, act, Some(x_out), scratch, batch);
        }
    }

    /// Final norm, projection and loss of the labelled rows; with `backward`, fills `scratch.dx`.
    fn head(&mut self, device: &D, n_rows: usize, n_tokens: usize, backward: bool) {
        let (hidden, trained, eps) = (self.hidden_size, &mut self.trained, self.rms_norm_eps);
        let Buffers { x, scratch, head, batch, .. } = &mut self.buffers;
        let x_final = &x[self.parameters.blocks.len()];
        device.gather_rows(&mut head.x, x_final, &batch.rows, hidden, n_rows, n_tokens);
        let norm = self.parameters.final_norm.weight(trained);
        device.rms_norm_forward(&mut head.normed, &mut head.rstd, &head.x, norm, eps, n_rows);

        let projection = self.parameters.head();
        projection.with_grad(trained, |weight, d_head| {
            let (d_logprob, d_x) = (&batch.d_logprob, &mut head.d_normed);
            let grad = backward.then_some(CrossEntropyGrad { d_logprob, d_x, d_head });
            let (logprob, argmax, logits) = (&mut batch.logprob, &mut batch.argmax, &mut head.logits);
            let (x, edges, chunk_rows) = (&head.normed, &batch.edges, head.chunk_rows);
            device.linear_cross_entropy(logprob, argmax, logits, x, weight, edges, n_rows, chunk_rows, grad);
        });
        if !backward {
            return;
        }
        self.parameters.final_norm.with_grad(trained, |weight, d_weight| {
            let (dx, dy, x) = (&mut head.dx, &head.d_normed, &head.x);
            device.rms_norm_backward(dx, d_weight, None, dy, x, &head.rstd, weight, None, n_rows);
        });
        device.scatter_rows(&mut scratch.dx, &head.dx, &batch.rows, hidden, n_rows, n_tokens);
    }

    fn backward(&mut self, pass: &Pass<'_, D>) {
        let Buffers { x, layers, scratch, batch, .. } = &mut self.buffers;
        let (n_blocks, n_sets) = (self.parameters.blocks.len(), layers.len());
        for (index, block) in self.parameters.blocks.iter().enumerate().rev() {
            let (x, act) = (&x[index], &mut layers[index % n_sets]);
            // The shared set still holds the last block.
            if n_sets < n_blocks && index + 1 < n_blocks {
                block.forward(pass, &self.trained, x, act, None, scratch, batch);
            }
            block.backward(pass, &mut self.trained, x, act, scratch, batch);
        }
        if let Parameter::Trained(index) = self.parameters.embedding {
            let (d_table, n_tokens) = (&mut self.trained[index].grad, pass.shape.n_tokens);
            pass.device.embedding_backward(d_table, &scratch.dx, &batch.token_ids, self.hidden_size, n_tokens);
        }
    }
}
