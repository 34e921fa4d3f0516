//! One post-norm encoder block as two straight lists of device calls, its backward pass the mirror of its forward.
//!
//! The gradient of a LayerNorm's input is the gradient of both branches that were added there: the layer below adds the
//! residual's to its own. Each half ends with one call for the gradients of its parameters.
//! Gradient rule: parameters `+=`, activations `=`.

use crate::device::{Device, Trainable};
use crate::encoder::buffers::{EncoderActivations, EncoderScratch, TextBuffers};
use crate::encoder::layer_norm::LayerNorm;
use crate::linear::{GradientInputs, LowRankActs, Pass, Projection};

/// The parameters of one block.
pub struct EncoderBlock<D: Device> {
    /// The six linear layers.
    pub linear: EncoderLinear<D>,
    /// After attention.
    pub attn_norm: LayerNorm<D>,
    /// After the MLP.
    pub mlp_norm: LayerNorm<D>,
    /// True where queries and keys are rotated by their position.
    pub rotary: bool,
}

/// The linear layers of a block. Those that read one input are one projection.
pub struct EncoderLinear<D: Device> {
    /// Queries, keys and values.
    pub qkv: Projection<D, 3>,
    /// Attention's output.
    pub o: Projection<D, 1>,
    /// Before the GELU.
    pub fc1: Projection<D, 1>,
    /// After it.
    pub fc2: Projection<D, 1>,
}

/// `x A^T` of each adapted module, or its gradient.
pub struct EncoderLowRank<D: Device> {
    /// Of queries, keys and values.
    pub qkv: LowRankActs<D, 3>, // [n_tokens, rank] each
    /// Of attention's output.
    pub o: LowRankActs<D, 1>,
    /// Of the layer before the GELU.
    pub fc1: LowRankActs<D, 1>,
    /// Of the one after it.
    pub fc2: LowRankActs<D, 1>,
}

impl<D: Device> EncoderBlock<D> {
    /// `x_out = block(act.x)`, keeping in `act` what [`EncoderBlock::backward`] reads.
    pub fn forward(
        &self,
        pass: &Pass<'_, D>,
        trained: &[Trainable<D>],
        act: &mut EncoderActivations<D>,
        x_out: &mut D::Act, // [n_tokens, hidden]
        scratch: &mut EncoderScratch<D>,
        batch: &TextBuffers<D>,
    ) {
        let (device, shape, n_tokens) = (pass.device, pass.shape, pass.shape.n_tokens);
        let (linear, h) = (&self.linear, &mut act.h);
        let EncoderScratch { x_mid, mlp, dropped, .. } = scratch;
        let [intermediate] = linear.fc1.out_features;

        let qkv = [&mut act.q, &mut act.k, &mut act.v];
        linear.qkv.forward(pass, trained, qkv, &mut h.qkv, dropped, &act.x, None);
        if self.rotary {
            let (position, cos, sin) = (&batch.position, &batch.rope_cos, &batch.rope_sin);
            device.rope_forward(&mut act.q, &mut act.k, position, cos, sin, shape);
        }
        device.attention_forward(&mut act.attn, &mut act.lse, &act.q, &act.k, &act.v, &batch.mask, shape);
        let sum = [&mut act.attn_norm.x];
        linear.o.forward(pass, trained, sum, &mut h.o, dropped, &act.attn, Some(&act.x));
        self.attn_norm.forward(device, trained, x_mid, &mut act.attn_norm, n_tokens);

        linear.fc1.forward(pass, trained, [&mut act.fc1], &mut h.fc1, dropped, x_mid, None);
        device.gelu_forward(mlp, &act.fc1, intermediate, n_tokens);
        let sum = [&mut act.mlp_norm.x];
        linear.fc2.forward(pass, trained, sum, &mut h.fc2, dropped, mlp, Some(x_mid));
        self.mlp_norm.forward(device, trained, x_out, &mut act.mlp_norm, n_tokens);
    }

    /// Turns `scratch.dx`, the gradient of the block's output, into that of its input.
    pub fn backward(
        &self,
        pass: &Pass<'_, D>,
        trained: &mut [Trainable<D>],
        act: &EncoderActivations<D>,
        scratch: &mut EncoderScratch<D>,
        batch: &TextBuffers<D>,
    ) {
        let (device, shape, n_tokens) = (pass.device, pass.shape, pass.shape.n_tokens);
        let (linear, h) = (&self.linear, &act.h);
        let EncoderScratch { x_mid, mlp, dx, d_mlp_sum, d_attn_sum, d_attn, dq, dk, dv, delta, d_mlp, d_fc1, .. } =
            scratch;
        let (dropped, d_h) = (&mut scratch.dropped, &mut scratch.d_h);
        let [intermediate] = linear.fc1.out_features;

        self.mlp_norm.backward(device, trained, d_mlp_sum, None, dx, &act.mlp_norm, n_tokens);
        linear.fc2.backward(pass, trained, d_mlp, &mut d_h.fc2, dropped, [d_mlp_sum], None);
        device.gelu_backward(d_fc1, mlp, d_mlp, &act.fc1, intermediate, n_tokens);
        linear.fc1.backward(pass, trained, dx, &mut d_h.fc1, dropped, [d_fc1], Some(d_mlp_sum));
        self.attn_norm.backward(device, trained, d_attn_sum, Some(x_mid), dx, &act.attn_norm, n_tokens);
        let mut updates = Vec::new();
        let of_fc2 = GradientInputs { dy: [d_mlp_sum], x: mlp, h: &h.fc2, d_h: &d_h.fc2 };
        linear.fc2.gradients(pass, trained, dropped, of_fc2, &mut updates);
        let of_fc1 = GradientInputs { dy: [d_fc1], x: x_mid, h: &h.fc1, d_h: &d_h.fc1 };
        linear.fc1.gradients(pass, trained, dropped, of_fc1, &mut updates);
        device.low_rank_gradients(trained, &updates, n_tokens);

        linear.o.backward(pass, trained, d_attn, &mut d_h.o, dropped, [d_attn_sum], None);
        let (o, lse, mask) = (&act.attn, &act.lse, &batch.mask);
        device.attention_backward(dq, dk, dv, delta, d_attn, o, lse, &act.q, &act.k, &act.v, mask, shape);
        if self.rotary {
            let (position, cos, sin) = (&batch.position, &batch.rope_cos, &batch.rope_sin);
            device.rope_backward(dq, dk, position, cos, sin, shape);
        }
        linear.qkv.backward(pass, trained, dx, &mut d_h.qkv, dropped, [dq, dk, dv], Some(d_attn_sum));
        let mut updates = Vec::new();
        let of_o = GradientInputs { dy: [d_attn_sum], x: &act.attn, h: &h.o, d_h: &d_h.o };
        linear.o.gradients(pass, trained, dropped, of_o, &mut updates);
        let of_qkv = GradientInputs { dy: [dq, dk, dv], x: &act.x, h: &h.qkv, d_h: &d_h.qkv };
        linear.qkv.gradients(pass, trained, dropped, of_qkv, &mut updates);
        device.low_rank_gradients(trained, &updates, n_tokens);
    }
}

/// One value for each linear module of an encoder block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    /// Each value in order.
    pub fn each(&self) -> [&T; 6] {
        [&self.q, &self.k, &self.v, &self.o, &self.fc1, &self.fc2]
    }

    /// Turns each value.
    pub fn map<U>(self, mut turn: impl FnMut(T) -> U) -> PerEncoderModule<U> {
        let Self { q, k, v, o, fc1, fc2 } = self;
        PerEncoderModule { q: turn(q), k: turn(k), v: turn(v), o: turn(o), fc1: turn(fc1), fc2: turn(fc2) }
    }
}
