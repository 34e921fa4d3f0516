//! One block of Llama, Qwen2 or Qwen3, forward and backward, as two straight lists of device calls.
//!
//! Backward recomputes the two normalised inputs, the MLP's product and normalised heads instead of keeping them.
//! Gradient rule: parameters `+=`, activations `=`, the residual stream `+=`.

use crate::decoder::buffers::{BatchBuffers, LayerActivations, Scratch};
use crate::decoder::head_norm::HeadNorms;
use crate::device::{AttentionMask, AttentionShape, Device, Trainable};
use crate::linear::{Linear, Parameter, PerModule};

/// The parameters of one block.
pub struct Block<D: Device> {
    /// `input_layernorm`
    pub attn_norm: Parameter<D>, // [1, hidden]
    /// `post_attention_layernorm`
    pub mlp_norm: Parameter<D>, // [1, hidden]
    /// `self_attn.q_norm` and `self_attn.k_norm`, where the model has them.
    pub head_norms: Option<HeadNorms<D>>,
    /// The seven linear layers.
    pub linear: PerModule<Linear<D>>,
    /// Epsilon of every norm.
    pub rms_norm_eps: f32,
}

impl<D: Device> Block<D> {
    /// `x_out = block(x)`, keeping in `act` what [`Block::backward`] reads; that alone where `x_out` is `None`.
    pub fn forward(
        &self,
        device: &D,
        trained: &[Trainable<D>],
        x: &D::Act, // [n_tokens, hidden]
        act: &mut LayerActivations<D>,
        x_out: Option<&mut D::Act>, // [n_tokens, hidden]
        scratch: &mut Scratch<D>,
        batch: &BatchBuffers<D>,
        shape: AttentionShape,
    ) {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        let (linear, eps) = (&self.linear, self.rms_norm_eps);
        let Scratch { normed, proj, mlp, lora, heads: head_scratch, .. } = scratch;
        let (position, cos, sin) = (&batch.position, &batch.rope_cos, &batch.rope_sin);
        let hidden_len = n_tokens * linear.o.out_features;

        device.rms_norm_forward(normed, &mut act.rstd_attn, x, self.attn_norm.weight(trained), eps, n_tokens);
        linear.q.forward(device, trained, &mut act.q, &mut act.lora.q, lora, normed, n_tokens);
        linear.k.forward(device, trained, &mut act.k, &mut act.lora.k, lora, normed, n_tokens);
        linear.v.forward(device, trained, &mut act.v, &mut act.lora.v, lora, normed, n_tokens);
        let (q, k) = match (&self.head_norms, head_scratch) {
            (Some(norms), Some(out)) => norms.forward(device, trained, out, &act.q, &act.k, eps, shape),
            _ => (&mut act.q, &mut act.k),
        };
        device.rope_forward(q, position, cos, sin, heads, head_dim, n_tokens);
        device.rope_forward(k, position, cos, sin, kv_heads, head_dim, n_tokens);
        let mask = AttentionMask::Forest { subtree_end: &batch.subtree_end };
        device.attention_forward(&mut act.attn, &mut act.lse, q, k, &act.v, mask, shape);
        linear.o.forward(device, trained, proj, &mut act.lora.o, lora, &act.attn, n_tokens);
        device.add(&mut act.x_mid, x, proj, hidden_len);

        device.rms_norm_forward(normed, &mut act.rstd_mlp, &act.x_mid, self.mlp_norm.weight(trained), eps, n_tokens);
        linear.gate.forward(device, trained, &mut act.gate, &mut act.lora.gate, lora, normed, n_tokens);
        linear.up.forward(device, trained, &mut act.up, &mut act.lora.up, lora, normed, n_tokens);
        device.swiglu_forward(mlp, &act.gate, &act.up, n_tokens * linear.gate.out_features);
        let Some(x_out) = x_out else {
            return linear.down.forward_h(device, trained, &mut act.lora.down, lora, mlp, n_tokens);
        };
        linear.down.forward(device, trained, proj, &mut act.lora.down, lora, mlp, n_tokens);
        device.add(x_out, &act.x_mid, proj, hidden_len);
    }

    /// Turns `scratch.dx`, the gradient of the block's output, into that of its input `x`.
    pub fn backward(
        &self,
        device: &D,
        trained: &mut [Trainable<D>],
        x: &D::Act, // [n_tokens, hidden]
        act: &mut LayerActivations<D>,
        scratch: &mut Scratch<D>,
        batch: &BatchBuffers<D>,
        shape: AttentionShape,
    ) {
        let AttentionShape { n_tokens, heads, kv_heads, head_dim } = shape;
        let (linear, eps) = (&self.linear, self.rms_norm_eps);
        let (position, cos, sin) = (&batch.position, &batch.rope_cos, &batch.rope_sin);
        let intermediate_len = n_tokens * linear.gate.out_features;
        let Scratch { normed, mlp, dx, d_normed, d_attn, dq, dk, dv, delta, d_mlp, d_gate, d_up, lora, .. } = scratch;
        let head_scratch = &mut scratch.heads;

        device.swiglu_forward(mlp, &act.gate, &act.up, intermediate_len);
        linear.down.backward(device, trained, d_mlp, lora, dx, mlp, &act.lora.down, n_tokens, false);
        device.swiglu_backward(d_gate, d_up, d_mlp, &act.gate, &act.up, intermediate_len);
        device.rms_norm_forward(normed, &mut act.rstd_mlp, &act.x_mid, self.mlp_norm.weight(trained), eps, n_tokens);
        linear.gate.backward(device, trained, d_normed, lora, d_gate, normed, &act.lora.gate, n_tokens, false);
        linear.up.backward(device, trained, d_normed, lora, d_up, normed, &act.lora.up, n_tokens, true);
        self.mlp_norm.with_grad(trained, |weight, d_weight| {
            device.rms_norm_backward(dx, d_weight, d_normed, &act.x_mid, &act.rstd_mlp, weight, n_tokens);
        });

        linear.o.backward(device, trained, d_attn, lora, dx, &act.attn, &act.lora.o, n_tokens, false);
        let (q, k) = match (&self.head_norms, &mut *head_scratch) {
            (Some(norms), Some(out)) => {
                let (q, k) = norms.forward(device, trained, out, &act.q, &act.k, eps, shape);
                device.rope_forward(q, position, cos, sin, heads, head_dim, n_tokens);
                device.rope_forward(k, position, cos, sin, kv_heads, head_dim, n_tokens);
                (&*q, &*k)
            }
            _ => (&act.q, &act.k),
        };
        let mask = AttentionMask::Forest { subtree_end: &batch.subtree_end };
        device.attention_backward(dq, dk, dv, delta, d_attn, &act.attn, &act.lse, q, k, &act.v, mask, shape);
        device.rope_backward(dq, position, cos, sin, heads, head_dim, n_tokens);
        device.rope_backward(dk, position, cos, sin, kv_heads, head_dim, n_tokens);
        let (dq, dk) = match (&self.head_norms, head_scratch) {
            (Some(norms), Some(out)) => norms.backward(device, trained, out, dq, dk, &act.q, &act.k, shape),
            _ => (&*dq, &*dk),
        };
        device.rms_norm_forward(normed, &mut act.rstd_attn, x, self.attn_norm.weight(trained), eps, n_tokens);
        linear.q.backward(device, trained, d_normed, lora, dq, normed, &act.lora.q, n_tokens, false);
        linear.k.backward(device, trained, d_normed, lora, dk, normed, &act.lora.k, n_tokens, true);
        linear.v.backward(device, trained, d_normed, lora, dv, normed, &act.lora.v, n_tokens, true);
        self.attn_norm.with_grad(trained, |weight, d_weight| {
            device.rms_norm_backward(dx, d_weight, d_normed, x, &act.rstd_attn, weight, n_tokens);
        });
    }
}
