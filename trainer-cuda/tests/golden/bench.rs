//! The devices, and how far each may be from Hugging Face.

use crate::libraries;
use trainer_cuda::config::Precision;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::cuda::{Cuda, CudaOptions};
use trainer_cuda::device::Device;

/// A device under test.
pub(crate) struct Bench<D: Device> {
    pub(crate) open: fn() -> D,
    pub(crate) precision: Precision,
    pub(crate) bounds: Bounds,
}

/// How far it may be off.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Of the first step's loss, relative; ten times that for later ones.
    pub(crate) loss: f64,
    /// The same of DPO, which is a function of differences of sums near 50.
    pub(crate) dpo_loss: f64,
    /// Of a tensor's gradient: norm of the difference over the norm.
    pub(crate) gradient: f64,
    /// Of every weight after five AdamW steps, absolute.
    pub(crate) weights: f64,
    /// The same with twelve times the learning rate: sign-like AdamW noise grows with it.
    pub(crate) stress_weights: f64,
    /// Of a log-probability, absolute.
    pub(crate) logprob: f64,
    /// Of a logit, absolute.
    pub(crate) logits: f64,
    /// Of a logit, between two ways of ours, absolute.
    pub(crate) cached: f64,
    /// Of a reward, absolute.
    pub(crate) reward: f64,
    /// Of a value of an embedding, absolute; they are up to 3.
    pub(crate) embedding: f64,
    /// Of a distance, absolute, per unit of it.
    pub(crate) distance: f64,
}

/// f32 against f32 in another order of summation. The set's makers found up to 2e-5 in the weights between two PyTorch
/// programs; what we measure is a hundredth of most bounds. A reward is beta times what log-probabilities of up to 100 round
/// to; cosine's 1 - cos rounds at 6e-8, and a euclidean distance sums 48 squares.
pub(crate) fn cpu() -> Bench<Cpu> {
    let bounds = Bounds {
        loss: 1e-5,
        dpo_loss: 1e-5,
        gradient: 1e-4,
        weights: 1e-4,
        stress_weights: 1e-3,
        logprob: 1e-4,
        logits: 1e-4,
        cached: 1e-5,
        reward: 1e-5,
        embedding: 1e-5,
        distance: 2e-6,
    };
    Bench { open: || Cpu::new(None), precision: Precision::F32, bounds }
}

/// bf16 against f32: weights, activations and their gradients are each off by up to 2^-9, independently. transformers and PEFT
/// in bf16 are themselves off by up to 0.23 (logits), 0.24 (log-probabilities), 1.6e-3 and 8e-3 (losses of SFT and DPO), 5.8e-2
/// (gradients) and 1.2e-2 (margins): `hugging_face_bf16.py`. The bounds are one and a half to two times that, for as many
/// roundings in other places.
pub(crate) fn gpu() -> Bench<Cuda> {
    let bounds = Bounds {
        loss: 3e-3,
        dpo_loss: 2e-2,
        gradient: 9e-2,
        weights: 2e-3,
        stress_weights: 3e-2,
        logprob: 0.4,
        logits: 0.4,
        cached: 0.1,
        reward: 3e-2,
        embedding: 3e-2,
        distance: 2e-2,
    };
    let open = || {
        Cuda::open(0, CudaOptions { libraries: libraries::folder("memory"), ..CudaOptions::default() }).expect("a GPU")
    };
    Bench { open, precision: Precision::Bf16, bounds }
}
