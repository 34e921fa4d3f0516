//! One post-norm encoder block as two straight lists of device calls, its backward pass the mirror of its forward.
//!
//! The gradient of a LayerNorm's input is the gradient of both branches that were added there, so two buffers carry it
//! through the block in turn: `dx` and `d_sum`.
//! Gradient rule: parameters `+=`, activations `=`; the branch through a linear layer `+=` onto the residual's.

use crate::device::{AttentionShape, Device, Trainable};
use crate::encoder::buffers::{EncoderActivations, EncoderScratch, TextBuffers};
use crate::encoder::layer_norm::LayerNorm;
use crate::linear::Linear;

/// The parameters of one block.
pub struct EncoderBlock<D: Device> {
    /// The six linear layers.
    pub linear: PerEncoderModule<Linear<D>>,
    /// After attention.
    pub attn_norm: LayerNorm<D>,
    /// After the MLP.
    pub mlp_norm: LayerNorm<D>,
    /// True where queries and keys are rotated by their position.
    pub rotary: bool,
}

impl<D: Device> EncoderBlock<D> {
    /// `x_out = block(act.x)`, keeping in `act` what [`EncoderBlock::backward`] reads.
    pub fn forward(
        &self,
        device: &D,
        trained: &[Trainable<D>],
        act: &mut EncoderActivations<D>,
        x_out: &mut D::Act, // [n_tokens, hidden]
        scratch: &mut EncoderScratch<D>,
        batch: &TextBuffers<D>,
        shape: AttentionShape,
    ) {
        let AttentionShape { n_tokens, heads, head_dim, .. } = shape;
        let linear = &self.linear;
        let EncoderScratch { x_mid, proj, mlp, lora, .. } = scratch;
        let hidden_len = n_tokens * linear.o.out_features;

        linear.q.forward(device, trained, &mut act.q, &mut act.lora.q, lora, &act.x, n_tokens);
        linear.k.forward(device, trained, &mut act.k, &mut act.lora.k, lora, &act.x, n_tokens);
        linear.v.forward(device, trained, &mut act.v, &mut act.lora.v, lora, &act.x, n_tokens);
        if self.rotary {
            let (position, cos, sin) = (&batch.position, &batch.rope_cos, &batch.rope_sin);
            device.rope_forward(&mut act.q, position, cos, sin, heads, head_dim, n_tokens);
            device.rope_forward(&mut act.k, position, cos, sin, heads, head_dim, n_tokens);
        }
        device.attention_forward(&mut act.attn, &mut act.lse, &act.q, &act.k, &act.v, batch.mask(), shape);
        linear.o.forward(device, trained, proj, &mut act.lora.o, lora, &act.attn, n_tokens);
        device.add(&mut act.attn_norm.x, &act.x, proj, hidden_len);
        self.attn_norm.forward(device, trained, x_mid, &mut act.attn_norm, n_tokens);

        linear.fc1.forward(device, trained, &mut act.fc1, &mut act.lora.fc1, lora, x_mid, n_tokens);
        device.gelu_forward(mlp, &act.fc1, n_tokens * linear.fc1.out_features);
        linear.fc2.forward(device, trained, proj, &mut act.lora.fc2, lora, mlp, n_tokens);
        device.add(&mut act.mlp_norm.x, x_mid, proj, hidden_len);
        self.mlp_norm.forward(device, trained, x_out, &mut act.mlp_norm, n_tokens);
    }

    /// Turns `scratch.dx`, the gradient of the block's output, into that of its input.
    pub fn backward(
        &self,
        device: &D,
        trained: &mut [Trainable<D>],
        act: &mut EncoderActivations<D>,
        scratch: &mut EncoderScratch<D>,
        batch: &TextBuffers<D>,
        shape: AttentionShape,
    ) {
        let AttentionShape { n_tokens, heads, head_dim, .. } = shape;
        let linear = &self.linear;
        let intermediate_len = n_tokens * linear.fc1.out_features;
        let EncoderScratch { x_mid, mlp, dx, d_sum, d_attn, dq, dk, dv, delta, d_mlp, d_fc1, lora, .. } = scratch;

        self.mlp_norm.backward(device, trained, d_sum, dx, &act.mlp_norm, n_tokens);
        device.gelu_forward(mlp, &act.fc1, intermediate_len);
        linear.fc2.backward(device, trained, d_mlp, lora, d_sum, mlp, &act.lora.fc2, n_tokens, false);
        device.gelu_backward(d_fc1, d_mlp, &act.fc1, intermediate_len);
        self.attn_norm.forward(device, trained, x_mid, &mut act.attn_norm, n_tokens);
        linear.fc1.backward(device, trained, d_sum, lora, d_fc1, x_mid, &act.lora.fc1, n_tokens, true);

        self.attn_norm.backward(device, trained, dx, d_sum, &act.attn_norm, n_tokens);
        linear.o.backward(device, trained, d_attn, lora, dx, &act.attn, &act.lora.o, n_tokens, false);
        device.attention_backward(
            dq,
            dk,
            dv,
            delta,
            d_attn,
            &act.attn,
            &act.lse,
            &act.q,
            &act.k,
            &act.v,
            batch.mask(),
            shape,
        );
        if self.rotary {
            let (position, cos, sin) = (&batch.position, &batch.rope_cos, &batch.rope_sin);
            device.rope_backward(dq, position, cos, sin, heads, head_dim, n_tokens);
            device.rope_backward(dk, position, cos, sin, heads, head_dim, n_tokens);
        }
        linear.q.backward(device, trained, dx, lora, dq, &act.x, &act.lora.q, n_tokens, true);
        linear.k.backward(device, trained, dx, lora, dk, &act.x, &act.lora.k, n_tokens, true);
        linear.v.backward(device, trained, dx, lora, dv, &act.x, &act.lora.v, n_tokens, true);
    }
}

/// One value for each linear module of an encoder block.
#[derive(Debug, Clone, Copy, Default)]
pub struct PerEncoderModule<T> {
    /// `attention.self.query`, `self_attn.q_proj`
    pub q: T,
    /// `attention.self.key`, `self_attn.k_proj`
    pub k: T,
    /// `attention.self.value`, `self_attn.v_proj`
    pub v: T,
    /// `attention.output.dense`, `self_attn.o_proj`
    pub o: T,
    /// `intermediate.dense`, `mlp.fc1`
    pub fc1: T,
    /// `output.dense`, `mlp.fc2`
    pub fc2: T,
}

impl<T> PerEncoderModule<T> {
    /// Builds each value in order.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_map<U, E>(&self, mut make: impl FnMut(&T) -> Result<U, E>) -> Result<PerEncoderModule<U>, E> {
        Ok(PerEncoderModule {
            q: make(&self.q)?,
            k: make(&self.k)?,
            v: make(&self.v)?,
            o: make(&self.o)?,
            fc1: make(&self.fc1)?,
            fc2: make(&self.fc2)?,
        })
    }

    /// Each value in order.
    pub fn each(&self) -> [&T; 6] {
        [&self.q, &self.k, &self.v, &self.o, &self.fc1, &self.fc2]
    }

    /// Each value in order.
    pub fn each_mut(&mut self) -> [&mut T; 6] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.fc1, &mut self.fc2]
    }
}
