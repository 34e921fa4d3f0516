//! A linear layer: a frozen or trained matrix, and maybe a low-rank update beside it.

use crate::allocator::Allocator;
use crate::device::{Device, Dropout, Trainable};

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
    /// False while the model is scored as its base.
    pub enabled: bool,
    /// Which of its inputs are dropped in this pass (PEFT's `lora_dropout`); `None` outside training.
    pub dropout: Option<Dropout>,
}

/// `y = x W^T + bias + scaling * drop(x) A^T B^T`.
pub struct Linear<D: Device> {
    /// `[out, in]`.
    pub weight: Parameter<D>,
    /// `[1, out]`, where the layer has one.
    pub bias: Option<Parameter<D>>,
    /// The update, if this module is adapted.
    pub lora: Option<Lora>,
    /// Rows of the matrix.
    pub out_features: usize,
    /// Columns of the matrix.
    pub in_features: usize,
}

/// Reused by every low-rank update.
pub struct LoraScratch<D: Device> {
    /// Gradient of `drop(x) A^T`.
    pub d_h: D::Act, // [n_tokens, rank]
    /// Where the run has dropout.
    pub dropped: Option<DroppedInput<D>>,
}

/// What dropout leaves of an update's input.
pub struct DroppedInput<D: Device> {
    /// `drop(x)`.
    pub x: D::Act, // [n_tokens, widest adapted input]
    /// Its gradient.
    pub dx: D::Act, // [n_tokens, widest adapted input]
}

impl<D: Device> LoraScratch<D> {
    pub(crate) fn new(from: &mut Allocator<'_, D>) -> Self {
        let (d_h, dropped) = (from.act("scratch.d_h"), from.act_if_planned("scratch.dropped"));
        Self { d_h, dropped: dropped.map(|x| DroppedInput { x, dx: from.act("scratch.d_dropped") }) }
    }
}

impl<D: Device> Linear<D> {
    /// Writes `y`, and `h = drop(x) A^T` for the backward pass.
    pub fn forward(
        &self,
        device: &D,
        trained: &[Trainable<D>],
        y: &mut D::Act,         // [n_tokens, out]
        h: &mut Option<D::Act>, // [n_tokens, rank]
        scratch: &mut LoraScratch<D>,
        x: &D::Act, // [n_tokens, in]
        n_tokens: usize,
    ) {
        let bias = self.bias.as_ref().map(|bias| bias.weight(trained));
        device.linear_forward(y, x, self.weight.weight(trained), bias, n_tokens);
        if let (Some(lora), Some(h)) = (self.lora.filter(|lora| lora.enabled), h) {
            let (a, b) = (&trained[lora.a].weight, &trained[lora.b].weight);
            let x = lora.drop(device, scratch, x, n_tokens * self.in_features);
            device.lora_forward(y, h, x, a, b, lora.scaling, n_tokens);
        }
    }

    /// Writes `y` outside training, where nothing is dropped. `h` is scratch.
    pub fn infer(
        &self,
        device: &D,
        trained: &[Trainable<D>],
        y: &mut D::Act,         // [n_tokens, out]
        h: &mut Option<D::Act>, // [n_tokens, rank]
        x: &D::Act,             // [n_tokens, in]
        n_tokens: usize,
    ) {
        let bias = self.bias.as_ref().map(|bias| bias.weight(trained));
        device.linear_forward(y, x, self.weight.weight(trained), bias, n_tokens);
        if let (Some(lora), Some(h)) = (self.lora, h) {
            let (a, b) = (&trained[lora.a].weight, &trained[lora.b].weight);
            device.lora_forward(y, h, x, a, b, lora.scaling, n_tokens);
        }
    }

    /// Writes `h` alone, bit-equal to that of [`Linear::forward`]: for a backward pass whose `y` is known.
    pub fn forward_h(
        &self,
        device: &D,
        trained: &[Trainable<D>],
        h: &mut Option<D::Act>, // [n_tokens, rank]
        scratch: &mut LoraScratch<D>,
        x: &D::Act, // [n_tokens, in]
        n_tokens: usize,
    ) {
        if let (Some(lora), Some(h)) = (self.lora, h) {
            let x = lora.drop(device, scratch, x, n_tokens * self.in_features);
            device.lora_down(h, x, &trained[lora.a].weight, n_tokens);
        }
    }

    /// `dx =` (or `+=`, where `accumulate`), parameter gradients `+=`.
    pub fn backward(
        &self,
        device: &D,
        trained: &mut [Trainable<D>],
        dx: &mut D::Act, // [n_tokens, in]
        scratch: &mut LoraScratch<D>,
        dy: &D::Act,        // [n_tokens, out]
        x: &D::Act,         // [n_tokens, in]
        h: &Option<D::Act>, // [n_tokens, rank]
        n_tokens: usize,
        accumulate: bool,
    ) {
        device.linear_backward_input(dx, dy, self.weight.weight(trained), n_tokens, accumulate);
        if let Parameter::Trained(index) = self.weight {
            let d_weight = &mut trained[index].grad;
            device.linear_backward_weight(d_weight, dy, x, self.out_features, self.in_features, n_tokens);
        }
        if let Some(Parameter::Trained(index)) = self.bias {
            device.linear_backward_bias(&mut trained[index].grad, dy, self.out_features, n_tokens);
        }
        if let (Some(lora), Some(h)) = (self.lora, h) {
            let [a, b] = trained.get_disjoint_mut([lora.a, lora.b]).expect("A and B are two tensors of the model");
            let LoraScratch { d_h, dropped } = scratch;
            let (a_grad, b_grad, a, b, scaling) = (&mut a.grad, &mut b.grad, &a.weight, &b.weight, lora.scaling);
            if let (Some(dropout), Some(dropped)) = (lora.dropout, dropped) {
                let (DroppedInput { x: kept, dx: d_kept }, len) = (dropped, n_tokens * self.in_features);
                device.dropout_forward(kept, x, dropout, len);
                device.zero_act(d_kept, len);
                device.lora_backward(d_kept, a_grad, b_grad, d_h, dy, kept, h, a, b, scaling, n_tokens);
                device.dropout_backward(dx, d_kept, dropout, len);
            } else {
                device.lora_backward(dx, a_grad, b_grad, d_h, dy, x, h, a, b, scaling, n_tokens);
            }
        }
    }
}

impl Lora {
    /// The update's input: `x`, or what dropout leaves of it.
    fn drop<'a, D: Device>(
        &self,
        device: &D,
        scratch: &'a mut LoraScratch<D>,
        x: &'a D::Act, // [len]
        len: usize,
    ) -> &'a D::Act {
        match (self.dropout, &mut scratch.dropped) {
            (Some(dropout), Some(dropped)) => {
                device.dropout_forward(&mut dropped.x, x, dropout, len);
                &dropped.x
            }
            _ => x,
        }
    }
}

/// One value for each linear module of a block.
#[derive(Debug, Clone, Default)]
pub struct PerModule<T> {
    /// `self_attn.q_proj`
    pub q: T,
    /// `self_attn.k_proj`
    pub k: T,
    /// `self_attn.v_proj`
    pub v: T,
    /// `self_attn.o_proj`
    pub o: T,
    /// `mlp.gate_proj`
    pub gate: T,
    /// `mlp.up_proj`
    pub up: T,
    /// `mlp.down_proj`
    pub down: T,
}

/// Paths of the modules inside a block, in the order of [`PerModule`].
pub const MODULE_PATHS: PerModule<&str> = PerModule {
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.o_proj",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};

/// Names by which LoRA's target modules are chosen.
pub const MODULE_NAMES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

impl<T> PerModule<T> {
    /// Each value in order.
    pub fn each(&self) -> [&T; 7] {
        let Self { q, k, v, o, gate, up, down } = self;
        [q, k, v, o, gate, up, down]
    }

    /// Each value in order.
    pub fn each_mut(&mut self) -> [&mut T; 7] {
        let Self { q, k, v, o, gate, up, down } = self;
        [q, k, v, o, gate, up, down]
    }

    /// Builds each value in order.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_map<U, E>(&self, mut make: impl FnMut(&T) -> Result<U, E>) -> Result<PerModule<U>, E> {
        Ok(PerModule {
            q: make(&self.q)?,
            k: make(&self.k)?,
            v: make(&self.v)?,
            o: make(&self.o)?,
            gate: make(&self.gate)?,
            up: make(&self.up)?,
            down: make(&self.down)?,
        })
    }
}
