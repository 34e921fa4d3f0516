//! The passes through an encoder, as calls of its blocks: what a device records and replays.

use super::buffers::EncoderBuffers;
use super::parameters::{Embeddings, Parameters};
use crate::config::{Pooling, TripletConfig};
use crate::device::{AttentionShape, Device, Trainable};
use crate::linear::{Parameter, Pass, Updates};
use crate::optimizer::Optimizer;

/// Parameters, buffers, and what trains them.
pub(super) struct Network<D: Device> {
    pub(super) parameters: Parameters<D>,
    pub(super) trained: Vec<Trainable<D>>,
    pub(super) optimizer: Optimizer<D>,
    pub(super) buffers: EncoderBuffers<D>,
    pub(super) hidden_size: usize,
    pub(super) pooling: Pooling,
    pub(super) normalize: bool,
}

impl<D: Device> Network<D> {
    /// The embedding of each segment.
    pub(super) fn embed(&mut self, device: &D, shape: AttentionShape, n_segments: usize) {
        self.forward(&Pass { device, updates: Updates::On, shape }, n_segments);
    }

    /// Where the embeddings are.
    pub(super) fn embeddings(&self) -> &D::Act {
        let pool = &self.buffers.pool;
        if self.normalize { &pool.scaled } else { &pool.pooled }
    }

    /// Forward and backward.
    pub(super) fn train(
        &mut self,
        device: &D,
        config: TripletConfig,
        [first, last]: [bool; 2],
        dropout: f32,
        shape: AttentionShape,
        n_segments: usize,
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
        self.forward(&pass, n_segments);
        self.loss(device, config, n_segments);
        self.backward(&pass, n_segments);
        if last {
            self.optimizer.end_step(device, &mut self.trained);
        }
        self.buffers.dropout_seeds = seeds;
    }

    fn forward(&mut self, pass: &Pass<'_, D>, n_segments: usize) {
        self.embed_tokens(pass.device, pass.shape.n_tokens);
        let EncoderBuffers { layers, x_final, scratch, batch, .. } = &mut self.buffers;
        for (index, block) in self.parameters.blocks.iter().enumerate() {
            let (before, after) = layers.split_at_mut(index + 1);
            let x_out = after.first_mut().map_or(&mut *x_final, |next| &mut next.x);
            block.forward(pass, &self.trained, &mut before[index], x_out, scratch, batch);
        }
        self.pool(pass.device, n_segments, pass.shape.n_tokens);
    }

    fn backward(&mut self, pass: &Pass<'_, D>, n_segments: usize) {
        self.pool_backward(pass.device, n_segments, pass.shape.n_tokens);
        let EncoderBuffers { layers, scratch, batch, .. } = &mut self.buffers;
        for (block, act) in self.parameters.blocks.iter().zip(layers.iter()).rev() {
            block.backward(pass, &mut self.trained, act, scratch, batch);
        }
        self.embed_tokens_backward(pass.device, pass.shape.n_tokens);
    }

    /// Input of the first block: the normalised sum of word, token type and position, added in transformers' order.
    fn embed_tokens(&mut self, device: &D, n_tokens: usize) {
        let (trained, Embeddings { word, token_type, position, norm }) = (&self.trained, &self.parameters.embeddings);
        let EncoderBuffers { layers, embeddings, x_final, batch, .. } = &mut self.buffers;
        let words = [(&batch.token_ids, word.weight(trained)), (&batch.token_type, token_type.weight(trained))];
        let places = position.as_ref().map(|position| (&batch.position, position.weight(trained)));
        let tables: Vec<_> = words.into_iter().chain(places).collect();
        device.embedding_forward(&mut embeddings.x, &tables, n_tokens);
        let x_first = layers.first_mut().map_or(x_final, |layer| &mut layer.x);
        norm.forward(device, trained, x_first, embeddings, n_tokens);
    }

    /// From `scratch.dx`, the gradient of the first block's input, to the tables, where they are trained.
    fn embed_tokens_backward(&mut self, device: &D, n_tokens: usize) {
        let Embeddings { word, token_type, position, norm } = &self.parameters.embeddings;
        let Parameter::Trained(_) = word else { return };
        let (trained, hidden) = (&mut self.trained, self.hidden_size);
        let EncoderBuffers { embeddings, scratch, batch, .. } = &mut self.buffers;
        let d_sum = &mut scratch.d_mlp_sum;
        norm.backward(device, trained, d_sum, None, &scratch.dx, embeddings, n_tokens);
        let tables = [
            (Some(word), &batch.token_ids),
            (Some(token_type), &batch.token_type),
            (position.as_ref(), &batch.position),
        ];
        for (table, rows) in tables {
            if let Some(&Parameter::Trained(index)) = table {
                device.embedding_backward(&mut trained[index].grad, d_sum, rows, hidden, n_tokens);
            }
        }
    }

    fn pool(&mut self, device: &D, n_segments: usize, n_tokens: usize) {
        let hidden = self.hidden_size;
        let EncoderBuffers { x_final, pool, batch, .. } = &mut self.buffers;
        let (pooled, offsets) = (&mut pool.pooled, &batch.offsets);
        match self.pooling {
            Pooling::Mean => device.mean_pool_forward(pooled, x_final, offsets, hidden, n_segments),
            Pooling::Cls => device.gather_rows(pooled, x_final, offsets, hidden, n_segments, n_tokens),
        }
        if self.normalize {
            device.l2_normalize_forward(&mut pool.scaled, &mut pool.norm, pooled, hidden, n_segments);
        }
    }

    fn loss(&mut self, device: &D, config: TripletConfig, n_segments: usize) {
        let (state, hidden) = (&mut self.optimizer.state, self.hidden_size);
        let EncoderBuffers { pool, triplets, .. } = &mut self.buffers;
        let (d_embeddings, embeddings) = match self.normalize {
            true => (&mut pool.d_scaled, &pool.scaled),
            false => (&mut pool.d_pooled, &pool.pooled),
        };
        device.triplet_loss(state, d_embeddings, embeddings, triplets, config, hidden, n_segments);
    }

    fn pool_backward(&mut self, device: &D, n_segments: usize, n_tokens: usize) {
        let hidden = self.hidden_size;
        let EncoderBuffers { scratch, pool, batch, .. } = &mut self.buffers;
        if self.normalize {
            let (d_pooled, d_scaled) = (&mut pool.d_pooled, &pool.d_scaled);
            device.l2_normalize_backward(d_pooled, d_scaled, &pool.scaled, &pool.norm, hidden, n_segments);
        }
        let (dx, d_pooled, offsets) = (&mut scratch.dx, &pool.d_pooled, &batch.offsets);
        match self.pooling {
            Pooling::Mean => device.mean_pool_backward(dx, d_pooled, offsets, hidden, n_segments, n_tokens),
            Pooling::Cls => device.scatter_rows(dx, d_pooled, offsets, hidden, n_segments, n_tokens),
        }
    }
}
