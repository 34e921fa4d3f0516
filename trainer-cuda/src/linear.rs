//! Linear layers that read one input: frozen or trained matrices, and maybe low-rank updates beside them.

use crate::allocator::Allocator;
use crate::device::{AttentionShape, Device, Dropout, LowRank, Modules, Trainable, UpdateGradient};

/// A matrix of the model: fixed, or one of the tensors being trained.
pub enum Parameter<D: Device> {
    /// Never changes.
    Frozen(D::Weight),
    /// Index into the model's [`Trainable`]s.
    Trained(usize),
}

impl<D: Device> Parameter<D> {
    /// The matrix itself.
    pub fn weight<'a>(&'a self, trained: &'a [Trainable<D>]) -> &'a D::Weight {
        match self {
            Self::Frozen(weight) => weight,
            Self::Trained(index) => &trained[*index].weight,
        }
    }

    /// Runs `backward` with the matrix, and with its gradient where it is trained.
    pub fn with_grad(&self, trained: &mut [Trainable<D>], backward: impl FnOnce(&D::Weight, Option<&mut D::F32>)) {
        match self {
            Self::Frozen(weight) => backward(weight, None),
            Self::Trained(index) => {
                let Trainable { weight, grad, .. } = &mut trained[*index];
                backward(weight, Some(grad));
            }
        }
    }
}

/// A low-rank update `scaling * B A` (Hu et al. 2021), as indices into the model's [`Trainable`]s.
#[derive(Debug, Clone, Copy)]
pub struct Lora {
    /// `[rank, in]`.
    pub a: usize,
    /// `[out, rank]`.
    pub b: usize,
    /// `alpha / rank`.
    pub scaling: f32,
    /// Number of its module in the model: which seed chooses what dropout drops.
    pub module: usize,
}

/// What a pass through the model makes of the low-rank updates.
pub enum Updates<'a, D: Device> {
    /// The model is its base.
    Off,
    /// They are added.
    On,
    /// They are added, and some of their inputs are dropped (PEFT's `lora_dropout`).
    Dropped {
        /// Share of dropped inputs.
        probability: f32,
        /// For each module of the model: low and high half.
        seeds: &'a D::Index, // [n_modules, 2]
    },
}

/// What holds for all layers of one pass through the model.
pub struct Pass<'a, D: Device> {
    /// Where it runs.
    pub device: &'a D,
    /// What it makes of the updates.
    pub updates: Updates<'a, D>,
    /// Sizes of the batch.
    pub shape: AttentionShape,
}

/// `x A^T` of each adapted module, or its gradient.
pub type LowRankActs<D, const N: usize> = [Option<<D as Device>::Act>; N]; // [n_tokens, rank] each

/// Layers `y_i = x W_i^T + bias_i + scaling_i drop(x) A_i^T B_i^T` of one input.
pub struct Projection<D: Device, const N: usize> {
    /// All matrices as one, where the device multiplies them so.
    pub packed: D::Packed,
    /// `[out_i, in]`.
    pub weight: [Parameter<D>; N],
    /// `[1, out_i]`, where the layer has one.
    pub bias: [Option<Parameter<D>>; N],
    /// The updates of the modules that are adapted.
    pub lora: [Option<Lora>; N],
    /// Rows of each matrix.
    pub out_features: [usize; N],
    /// Columns of all.
    pub in_features: usize,
}

/// Where a run has dropout: shared by all updates.
pub struct DroppedInput<D: Device> {
    /// `drop(x)`.
    pub x: D::Act, // [n_tokens, widest adapted input]
    /// Its gradient.
    pub dx: D::Act, // [n_tokens, widest adapted input]
}

impl<D: Device> DroppedInput<D> {
    pub(crate) fn if_planned(from: &mut Allocator<'_, D>) -> Option<Self> {
        let x = from.act_if_planned("scratch.dropped")?;
        Some(Self { x, dx: from.act("scratch.d_dropped") })
    }
}

/// What the parameters' gradients of a [`Projection`] are made of.
pub struct GradientInputs<'a, D: Device, const N: usize> {
    /// Gradients of the outputs.
    pub dy: [&'a D::Act; N], // [n_tokens, out_i]
    /// The input.
    pub x: &'a D::Act, // [n_tokens, in]
    /// From the forward pass.
    pub h: &'a LowRankActs<D, N>,
    /// From [`Projection::backward`].
    pub d_h: &'a LowRankActs<D, N>,
}

impl<D: Device, const N: usize> Projection<D, N> {
    fn modules<'a>(&'a self, trained: &'a [Trainable<D>]) -> Modules<'a, D, N> {
        Modules {
            packed: &self.packed,
            weight: self.weight.each_ref().map(|weight| weight.weight(trained)),
            bias: self.bias.each_ref().map(|bias| bias.as_ref().map(|bias| bias.weight(trained))),
            low_rank: self.lora.map(|lora| {
                let Lora { a, b, scaling, .. } = lora?;
                Some(LowRank { a: &trained[a].weight, b: &trained[b].weight, scaling })
            }),
        }
    }

    /// Writes `y_i`, and `h_i = drop(x) A_i^T` for the backward pass; `y + residual` where one is given to a single layer.
    pub fn forward(
        &self,
        pass: &Pass<'_, D>,
        trained: &[Trainable<D>],
        y: [&mut D::Act; N], // [n_tokens, out_i]
        h: &mut LowRankActs<D, N>,
        dropped: &mut Option<DroppedInput<D>>,
        x: &D::Act,                // [n_tokens, in]
        residual: Option<&D::Act>, // [n_tokens, out]
    ) {
        self.forward_h(pass, trained, h, dropped, x);
        let h = match pass.updates {
            Updates::Off => [None; N],
            Updates::On | Updates::Dropped { .. } => h.each_ref().map(Option::as_ref),
        };
        pass.device.linear_forward(y, x, h, &self.modules(trained), residual, pass.shape.n_tokens);
    }

    /// Writes `h_i` alone, bit-equal to that of [`Projection::forward`]: for a backward pass whose `y` is known.
    pub fn forward_h(
        &self,
        pass: &Pass<'_, D>,
        trained: &[Trainable<D>],
        h: &mut LowRankActs<D, N>,
        dropped: &mut Option<DroppedInput<D>>,
        x: &D::Act, // [n_tokens, in]
    ) {
        let (modules, n_tokens) = (self.modules(trained), pass.shape.n_tokens);
        match pass.updates {
            Updates::Off => {}
            Updates::On => {
                pass.device.low_rank_forward(h.each_mut().map(Option::as_mut), x, x, &modules, n_tokens);
            }
            Updates::Dropped { .. } => {
                let DroppedInput { x: kept, .. } = dropped.as_mut().expect("a run with dropout has its buffers");
                for i in (0..N).filter(|&i| self.lora[i].is_some()) {
                    self.drop(pass, i, kept, x);
                    let mut one = [const { None }; N];
                    one[i] = h[i].as_mut();
                    pass.device.low_rank_forward(one, kept, x, &modules, n_tokens);
                }
            }
        }
    }

    /// Writes `dx = residual + sum_i dy_i d y_i / d x`, and `d_h_i` for [`Projection::gradients`].
    pub fn backward(
        &self,
        pass: &Pass<'_, D>,
        trained: &[Trainable<D>],
        dx: &mut D::Act, // [n_tokens, in]
        d_h: &mut LowRankActs<D, N>,
        dropped: &mut Option<DroppedInput<D>>,
        dy: [&D::Act; N],          // [n_tokens, out_i]
        residual: Option<&D::Act>, // [n_tokens, in]
    ) {
        let (device, modules, n_tokens) = (pass.device, self.modules(trained), pass.shape.n_tokens);
        device.low_rank_backward(d_h.each_mut().map(Option::as_mut), dy, &modules, n_tokens);
        let Updates::Dropped { probability, seeds } = pass.updates else {
            return device.linear_backward_input(
                dx,
                dy,
                d_h.each_ref().map(Option::as_ref),
                &modules,
                residual,
                n_tokens,
            );
        };
        device.linear_backward_input(dx, dy, [None; N], &modules, residual, n_tokens);
        let DroppedInput { dx: d_kept, .. } = dropped.as_mut().expect("a run with dropout has its buffers");
        for ((lora, update), d_h) in self.lora.iter().zip(&modules.low_rank).zip(d_h) {
            if let (Some(lora), Some(update), Some(d_h)) = (lora, update, d_h) {
                let dropout = Dropout { probability, seeds, module: lora.module };
                device.low_rank_input(d_kept, d_h, update.a, n_tokens);
                device.dropout_backward(dx, d_kept, dropout, self.in_features, n_tokens);
            }
        }
    }

    /// Adds the gradients of what is trained here. Those of updates without dropout are left in `updates`, so that one
    /// call of [`Device::low_rank_gradients`] computes them for several layers.
    pub fn gradients<'a>(
        &self,
        pass: &Pass<'_, D>,
        trained: &mut [Trainable<D>],
        dropped: &mut Option<DroppedInput<D>>,
        inputs: GradientInputs<'a, D, N>,
        updates: &mut Vec<UpdateGradient<'a, D>>,
    ) {
        let (device, n_tokens) = (pass.device, pass.shape.n_tokens);
        let GradientInputs { dy, x, h, d_h } = inputs;
        for i in 0..N {
            if let Parameter::Trained(index) = self.weight[i] {
                let (d_weight, out) = (&mut trained[index].grad, self.out_features[i]);
                device.linear_backward_weight(d_weight, dy[i], x, out, self.in_features, n_tokens);
            }
            if let Some(Parameter::Trained(index)) = self.bias[i] {
                device.linear_backward_bias(&mut trained[index].grad, dy[i], self.out_features[i], n_tokens);
            }
            let (Some(Lora { a, b, scaling, .. }), Some(h), Some(d_h)) = (self.lora[i], &h[i], &d_h[i]) else {
                continue;
            };
            match pass.updates {
                Updates::Dropped { .. } => {
                    let DroppedInput { x: kept, .. } = dropped.as_mut().expect("a run with dropout has its buffers");
                    self.drop(pass, i, kept, x);
                    let update = UpdateGradient { a, b, scaling, dy: dy[i], x: kept, h, d_h };
                    device.low_rank_gradients(trained, &[update], n_tokens);
                }
                Updates::On | Updates::Off => {
                    updates.push(UpdateGradient { a, b, scaling, dy: dy[i], x, h, d_h });
                }
            }
        }
    }

    /// What dropout leaves of the input of module `i`'s update.
    fn drop(&self, pass: &Pass<'_, D>, i: usize, kept: &mut D::Act, x: &D::Act) {
        if let (&Updates::Dropped { probability, seeds }, Some(lora)) = (&pass.updates, self.lora[i]) {
            let dropout = Dropout { probability, seeds, module: lora.module };
            pass.device.dropout_forward(kept, x, dropout, self.in_features, pass.shape.n_tokens);
        }
    }
}
