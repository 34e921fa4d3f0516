//! One block of a decoder on the tokens that follow a cached sequence: the forward list of `block.rs`, with the keys
//! and values of earlier tokens read from the cache, and nothing kept for a backward pass.

use crate::decoder::block::Block;
use crate::device::{Device, Trainable};
use crate::generator::buffers::{LayerCache, StepBuffers};
use crate::linear::Pass;

impl<D: Device> Block<D> {
    /// `step.x = block(step.x)` for the tokens of `pass` after `n_past` cached ones; their keys and values join the cache.
    pub fn decode(
        &self,
        pass: &Pass<'_, D>,
        trained: &[Trainable<D>],
        step: &mut StepBuffers<D>,
        cache: &mut LayerCache<D>,
        n_past: usize,
    ) {
        let (device, shape, n_tokens) = (pass.device, pass.shape, pass.shape.n_tokens);
        let (linear, eps) = (&self.linear, self.rms_norm_eps);
        let StepBuffers { x, x_mid, normed, rstd, q, k, v, heads: head_scratch, attn, gate, up, mlp, h, .. } = step;
        let (position, cos, sin) = (&step.position, &step.rope_cos, &step.rope_sin);
        let key_width = shape.kv_heads * shape.head_dim;
        let [intermediate, _] = linear.gate_up.out_features;

        device.rms_norm_forward(normed, rstd, x, self.attn_norm.weight(trained), eps, n_tokens);
        linear.qkv.forward(pass, trained, [q, k, v], &mut h.qkv, &mut None, normed, None);
        let (q, k) = match (&self.head_norms, head_scratch) {
            (Some(norms), Some(out)) => norms.forward(device, trained, out, q, k, eps, shape),
            _ => (q, k),
        };
        device.rope_forward(q, k, position, cos, sin, shape);
        device.append_rows(&mut cache.k, k, n_past, key_width, n_tokens);
        device.append_rows(&mut cache.v, v, n_past, key_width, n_tokens);
        device.attention_cached(attn, q, &cache.k, &cache.v, n_past, shape);
        linear.o.forward(pass, trained, [x_mid], &mut h.o, &mut None, attn, Some(x));

        device.rms_norm_forward(normed, rstd, x_mid, self.mlp_norm.weight(trained), eps, n_tokens);
        linear.gate_up.forward(pass, trained, [gate, up], &mut h.gate_up, &mut None, normed, None);
        device.swiglu_forward(mlp, gate, up, intermediate, n_tokens);
        linear.down.forward(pass, trained, [x], &mut h.down, &mut None, mlp, Some(x_mid));
    }
}
