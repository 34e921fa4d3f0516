//! A LayerNorm of the model.

use crate::device::{Device, Trainable};
use crate::linear::Parameter;

/// `y = (x - mean) * rstd * weight + bias` (Ba et al. 2016).
pub struct LayerNorm<D: Device> {
    /// Gain.
    pub weight: Parameter<D>, // [1, hidden]
    /// Offset.
    pub bias: Parameter<D>, // [1, hidden]
    /// Added to the variance.
    pub eps: f32,
}

/// What a LayerNorm keeps for its backward pass.
pub struct NormActivations<D: Device> {
    /// Its input.
    pub x: D::Act, // [n_tokens, hidden]
    /// Mean of each token.
    pub mean: D::F32, // [n_tokens]
    /// `1 / sqrt(variance + eps)` of each token.
    pub rstd: D::F32, // [n_tokens]
}

impl<D: Device> LayerNorm<D> {
    /// Writes `y`, and the statistics of `act.x`.
    pub fn forward(
        &self,
        device: &D,
        trained: &[Trainable<D>],
        y: &mut D::Act, // [n_tokens, hidden]
        act: &mut NormActivations<D>,
        n_tokens: usize,
    ) {
        let (weight, bias) = (self.weight.weight(trained), self.bias.weight(trained));
        device.layer_norm_forward(y, &mut act.mean, &mut act.rstd, &act.x, weight, bias, self.eps, n_tokens);
    }

    /// `dx =`, parameter gradients `+=`; `y` again, where it is wanted.
    pub fn backward(
        &self,
        device: &D,
        trained: &mut [Trainable<D>],
        dx: &mut D::Act,        // [n_tokens, hidden]
        y: Option<&mut D::Act>, // [n_tokens, hidden]
        dy: &D::Act,            // [n_tokens, hidden]
        act: &NormActivations<D>,
        n_tokens: usize,
    ) {
        let NormActivations { x, mean, rstd } = act;
        match (&self.weight, &self.bias) {
            (&Parameter::Trained(weight), &Parameter::Trained(bias)) => {
                let [weight, bias] =
                    trained.get_disjoint_mut([weight, bias]).expect("gain and offset are two tensors of the model");
                let (d_weight, d_bias) = (Some(&mut weight.grad), Some(&mut bias.grad));
                let (weight, bias) = (&weight.weight, &bias.weight);
                device.layer_norm_backward(dx, d_weight, d_bias, y, dy, x, mean, rstd, weight, bias, n_tokens);
            }
            (weight, bias) => {
                let (weight, bias) = (weight.weight(trained), bias.weight(trained));
                device.layer_norm_backward(dx, None, None, y, dy, x, mean, rstd, weight, bias, n_tokens);
            }
        }
    }
}
