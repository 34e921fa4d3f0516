//! One block of a decoder on the tokens that follow a cached sequence: the forward list of `block.rs`, with the keys
//! and values of earlier tokens read from the cache, and nothing kept for a backward pass.

use crate::decoder::block::Block;
use crate::device::{AttentionShape, Device, Trainable};
use crate::generator::buffers::{LayerCache, StepBuffers};

impl<D: Device> Block<D> {
    /// `step.x = block(step.x)` for the `shape.n_tokens` tokens after `n_past` cached ones; their keys and values join
    /// the cache.
    pub fn decode(
        &self,
        device: &D,
        trained: &[Trainable<D>],
        step: &mut StepBuffers<D>,
        cache: &mut LayerCache<D>,
        n_past: usize,
        shape: AttentionShape,
    ) {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        let (linear, eps) = (&self.linear, self.rms_norm_eps);
        let StepBuffers { x, x_mid, normed, rstd, q, k, v, heads: head_scratch, attn, proj, gate, up, mlp, h, .. } =
            step;
        let (position, cos, sin) = (&step.position, &step.rope_cos, &step.rope_sin);
        let hidden_len = n_tokens * linear.o.out_features;

        device.rms_norm_forward(normed, rstd, x, self.attn_norm.weight(trained), eps, n_tokens);
        linear.q.infer(device, trained, q, h, normed, n_tokens);
        linear.k.infer(device, trained, k, h, normed, n_tokens);
        linear.v.infer(device, trained, v, h, normed, n_tokens);
        let (q, k) = match (&self.head_norms, head_scratch) {
            (Some(norms), Some(out)) => norms.forward(device, trained, out, q, k, eps, shape),
            _ => (q, k),
        };
        device.rope_forward(q, position, cos, sin, heads, head_dim, n_tokens);
        device.rope_forward(k, position, cos, sin, kv_heads, head_dim, n_tokens);
        device.append_rows(&mut cache.k, k, n_past, kv_heads * head_dim, n_tokens);
        device.append_rows(&mut cache.v, v, n_past, kv_heads * head_dim, n_tokens);
        device.attention_cached(attn, q, &cache.k, &cache.v, n_past, shape);
        linear.o.infer(device, trained, proj, h, attn, n_tokens);
        device.add(x_mid, x, proj, hidden_len);

        device.rms_norm_forward(normed, rstd, x_mid, self.mlp_norm.weight(trained), eps, n_tokens);
        linear.gate.infer(device, trained, gate, h, normed, n_tokens);
        linear.up.infer(device, trained, up, h, normed, n_tokens);
        device.swiglu_forward(mlp, gate, up, n_tokens * linear.gate.out_features);
        linear.down.infer(device, trained, proj, h, mlp, n_tokens);
        device.add(x, x_mid, proj, hidden_len);
    }
}
