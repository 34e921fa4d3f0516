//! One block of Llama, Qwen2 or Qwen3, forward and backward, as two straight lists of device calls.
//!
//! Backward recomputes the two normalised inputs, the MLP's product and normalised heads instead of keeping them. Each
//! half ends with one call for the gradients of its parameters: by then all that they are made of lies in buffers.
//! Gradient rule: parameters `+=`, activations `=`; the residual stream's gradient goes from `dx` to `dx_mid` and back.

use crate::decoder::buffers::{BatchBuffers, HeadScratch, LayerActivations, Scratch};
use crate::decoder::head_norm::HeadNorms;
use crate::decoder::modules::BlockLinear;
use crate::device::{Device, Trainable};
use crate::linear::{GradientInputs, Parameter, Pass};

/// The parameters of one block.
pub struct Block<D: Device> {
    /// `input_layernorm`
    pub attn_norm: Parameter<D>, // [1, hidden]
    /// `post_attention_layernorm`
    pub mlp_norm: Parameter<D>, // [1, hidden]
    /// `self_attn.q_norm` and `self_attn.k_norm`, where the model has them.
    pub head_norms: Option<HeadNorms<D>>,
    /// The seven linear layers.
    pub linear: BlockLinear<D>,
    /// Epsilon of every norm.
    pub rms_norm_eps: f32,
}

impl<D: Device> Block<D> {
    /// `x_out = block(x)`, keeping in `act` what [`Block::backward`] reads; that alone where `x_out` is `None`.
    pub fn forward(
        &self,
        pass: &Pass<'_, D>,
        trained: &[Trainable<D>],
        x: &D::Act, // [n_tokens, hidden]
        act: &mut LayerActivations<D>,
        x_out: Option<&mut D::Act>, // [n_tokens, hidden]
        scratch: &mut Scratch<D>,
        batch: &BatchBuffers<D>,
    ) {
        let (device, shape, n_tokens) = (pass.device, pass.shape, pass.shape.n_tokens);
        let (linear, eps, h) = (&self.linear, self.rms_norm_eps, &mut act.h);
        let Scratch { normed, mlp, dropped, heads: head_scratch, .. } = scratch;
        let (position, cos, sin) = (&batch.position, &batch.rope_cos, &batch.rope_sin);
        let [intermediate, _] = linear.gate_up.out_features;

        device.rms_norm_forward(normed, &mut act.rstd_attn, x, self.attn_norm.weight(trained), eps, n_tokens);
        let qkv = [&mut act.q, &mut act.k, &mut act.v];
        linear.qkv.forward(pass, trained, qkv, &mut h.qkv, dropped, normed, None);
        let (q, k) = match (&self.head_norms, head_scratch) {
            (Some(norms), Some(out)) => norms.forward(device, trained, out, &act.q, &act.k, eps, shape),
            _ => (&mut act.q, &mut act.k),
        };
        device.rope_forward(q, k, position, cos, sin, shape);
        device.attention_forward(&mut act.attn, &mut act.lse, q, k, &act.v, &batch.mask, shape);
        linear.o.forward(pass, trained, [&mut act.x_mid], &mut h.o, dropped, &act.attn, Some(x));

        device.rms_norm_forward(normed, &mut act.rstd_mlp, &act.x_mid, self.mlp_norm.weight(trained), eps, n_tokens);
        let gate_up = [&mut act.gate, &mut act.up];
        linear.gate_up.forward(pass, trained, gate_up, &mut h.gate_up, dropped, normed, None);
        device.swiglu_forward(mlp, &act.gate, &act.up, intermediate, n_tokens);
        match x_out {
            Some(x_out) => {
                linear.down.forward(pass, trained, [x_out], &mut h.down, dropped, mlp, Some(&act.x_mid));
            }
            None => linear.down.forward_h(pass, trained, &mut h.down, dropped, mlp),
        }
    }

    /// Turns `scratch.dx`, the gradient of the block's output, into that of its input `x`.
    pub fn backward(
        &self,
        pass: &Pass<'_, D>,
        trained: &mut [Trainable<D>],
        x: &D::Act, // [n_tokens, hidden]
        act: &mut LayerActivations<D>,
        scratch: &mut Scratch<D>,
        batch: &BatchBuffers<D>,
    ) {
        let (device, shape, n_tokens) = (pass.device, pass.shape, pass.shape.n_tokens);
        let (linear, eps, h) = (&self.linear, self.rms_norm_eps, &act.h);
        let (position, cos, sin) = (&batch.position, &batch.rope_cos, &batch.rope_sin);
        let Scratch { normed, mlp, dx, dx_mid, d_normed, d_attn, dq, dk, dv, delta, d_mlp, d_gate, d_up, .. } = scratch;
        let (dropped, d_h, head_scratch) = (&mut scratch.dropped, &mut scratch.d_h, &mut scratch.heads);
        let [intermediate, _] = linear.gate_up.out_features;

        linear.down.backward(pass, trained, d_mlp, &mut d_h.down, dropped, [dx], None);
        device.swiglu_backward(d_gate, d_up, mlp, d_mlp, &act.gate, &act.up, intermediate, n_tokens);
        linear.gate_up.backward(pass, trained, d_normed, &mut d_h.gate_up, dropped, [d_gate, d_up], None);
        self.mlp_norm.with_grad(trained, |weight, d_weight| {
            let (x, rstd) = (&act.x_mid, &act.rstd_mlp);
            device.rms_norm_backward(dx_mid, d_weight, Some(normed), d_normed, x, rstd, weight, Some(dx), n_tokens);
        });
        let mut updates = Vec::new();
        let of_down = GradientInputs { dy: [dx], x: mlp, h: &h.down, d_h: &d_h.down };
        linear.down.gradients(pass, trained, dropped, of_down, &mut updates);
        let of_gate_up = GradientInputs { dy: [d_gate, d_up], x: normed, h: &h.gate_up, d_h: &d_h.gate_up };
        linear.gate_up.gradients(pass, trained, dropped, of_gate_up, &mut updates);
        device.low_rank_gradients(trained, &updates, n_tokens);

        linear.o.backward(pass, trained, d_attn, &mut d_h.o, dropped, [dx_mid], None);
        match (&self.head_norms, head_scratch) {
            (Some(norms), Some(heads)) => {
                let (q, k) = norms.forward(device, trained, heads, &act.q, &act.k, eps, shape);
                device.rope_forward(q, k, position, cos, sin, shape);
                let HeadScratch { q, k, dq: d_normed_q, dk: d_normed_k, .. } = heads;
                let (o, lse, v, mask) = (&act.attn, &act.lse, &act.v, &batch.mask);
                device.attention_backward(d_normed_q, d_normed_k, dv, delta, d_attn, o, lse, q, k, v, mask, shape);
                device.rope_backward(d_normed_q, d_normed_k, position, cos, sin, shape);
                norms.backward(device, trained, heads, dq, dk, &act.q, &act.k, shape);
            }
            _ => {
                let (o, lse, mask) = (&act.attn, &act.lse, &batch.mask);
                device.attention_backward(dq, dk, dv, delta, d_attn, o, lse, &act.q, &act.k, &act.v, mask, shape);
                device.rope_backward(dq, dk, position, cos, sin, shape);
            }
        }
        linear.qkv.backward(pass, trained, d_normed, &mut d_h.qkv, dropped, [dq, dk, dv], None);
        self.attn_norm.with_grad(trained, |weight, d_weight| {
            let rstd = &act.rstd_attn;
            device.rms_norm_backward(dx, d_weight, Some(normed), d_normed, x, rstd, weight, Some(dx_mid), n_tokens);
        });
        let mut updates = Vec::new();
        let of_o = GradientInputs { dy: [dx_mid], x: &act.attn, h: &h.o, d_h: &d_h.o };
        linear.o.gradients(pass, trained, dropped, of_o, &mut updates);
        let of_qkv = GradientInputs { dy: [dq, dk, dv], x: normed, h: &h.qkv, d_h: &d_h.qkv };
        linear.qkv.gradients(pass, trained, dropped, of_qkv, &mut updates);
        device.low_rank_gradients(trained, &updates, n_tokens);
    }
}
