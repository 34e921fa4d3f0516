//! RMSNorm of each query and key head, between projection and rotation (Qwen3).

use crate::decoder::buffers::HeadScratch;
use crate::device::{AttentionShape, Device, Trainable};
use crate::linear::Parameter;

/// The weights of both norms.
pub struct HeadNorms<D: Device> {
    /// `self_attn.q_norm`
    pub q: Parameter<D>, // [1, head_dim]
    /// `self_attn.k_norm`
    pub k: Parameter<D>, // [1, head_dim]
}

impl<D: Device> HeadNorms<D> {
    /// Normalises projected queries and keys into `heads` and returns them, not yet rotated. Every head is a row.
    pub fn forward<'a>(
        &self,
        device: &D,
        trained: &[Trainable<D>],
        heads: &'a mut HeadScratch<D>,
        q: &D::Act, // [n_tokens, heads, head_dim]
        k: &D::Act, // [n_tokens, kv_heads, head_dim]
        eps: f32,
        shape: AttentionShape,
    ) -> (&'a mut D::Act, &'a mut D::Act) {
        let (q_rows, k_rows) = (shape.n_tokens * shape.heads, shape.n_tokens * shape.kv_heads);
        device.rms_norm_forward(&mut heads.q, &mut heads.rstd_q, q, self.q.weight(trained), eps, q_rows);
        device.rms_norm_forward(&mut heads.k, &mut heads.rstd_k, k, self.k.weight(trained), eps, k_rows);
        (&mut heads.q, &mut heads.k)
    }

    /// From `heads.dq` and `heads.dk`, the gradients of the normalised heads, to those of the projected ones, `=`; gradients
    /// of the weights `+=`.
    pub fn backward(
        &self,
        device: &D,
        trained: &mut [Trainable<D>],
        heads: &HeadScratch<D>,
        dq: &mut D::Act, // [n_tokens, heads, head_dim]
        dk: &mut D::Act, // [n_tokens, kv_heads, head_dim]
        q: &D::Act,      // [n_tokens, heads, head_dim], before the norm
        k: &D::Act,      // [n_tokens, kv_heads, head_dim]
        shape: AttentionShape,
    ) {
        let (q_rows, k_rows) = (shape.n_tokens * shape.heads, shape.n_tokens * shape.kv_heads);
        self.q.with_grad(trained, |weight, d_weight| {
            device.rms_norm_backward(dq, d_weight, None, &heads.dq, q, &heads.rstd_q, weight, None, q_rows);
        });
        self.k.with_grad(trained, |weight, d_weight| {
            device.rms_norm_backward(dk, d_weight, None, &heads.dk, k, &heads.rstd_k, weight, None, k_rows);
        });
    }
}
