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

    /// Overwrites what [`HeadNorms::forward`] wrote by the gradients of `q` and `k`, `=`; those of the weights `+=`.
    pub fn backward<'a>(
        &self,
        device: &D,
        trained: &mut [Trainable<D>],
        heads: &'a mut HeadScratch<D>,
        dq: &D::Act, // [n_tokens, heads, head_dim], of the normalised queries
        dk: &D::Act, // [n_tokens, kv_heads, head_dim]
        q: &D::Act,  // [n_tokens, heads, head_dim], before the norm
        k: &D::Act,  // [n_tokens, kv_heads, head_dim]
        shape: AttentionShape,
    ) -> (&'a D::Act, &'a D::Act) {
        let (q_rows, k_rows) = (shape.n_tokens * shape.heads, shape.n_tokens * shape.kv_heads);
        device.zero_act(&mut heads.q, q_rows * shape.head_dim);
        self.q.with_grad(trained, |weight, d_weight| {
            device.rms_norm_backward(&mut heads.q, d_weight, dq, q, &heads.rstd_q, weight, q_rows);
        });
        device.zero_act(&mut heads.k, k_rows * shape.head_dim);
        self.k.with_grad(trained, |weight, d_weight| {
            device.rms_norm_backward(&mut heads.k, d_weight, dk, k, &heads.rstd_k, weight, k_rows);
        });
        (&heads.q, &heads.k)
    }
}
