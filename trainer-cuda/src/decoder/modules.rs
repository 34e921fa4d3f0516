//! The linear layers of a decoder's block, by name and by the input that they read.

use crate::device::Device;
use crate::linear::{LowRankActs, Projection};

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
}

/// The linear layers of a block. Those that read one input are one projection.
pub struct BlockLinear<D: Device> {
    /// Queries, keys and values.
    pub qkv: Projection<D, 3>,
    /// Attention's output.
    pub o: Projection<D, 1>,
    /// Gate and up projection.
    pub gate_up: Projection<D, 2>,
    /// Down projection.
    pub down: Projection<D, 1>,
}

/// `x A^T` of each adapted module, or its gradient.
pub struct BlockLowRank<D: Device> {
    /// Of queries, keys and values.
    pub qkv: LowRankActs<D, 3>, // [n_tokens, rank] each
    /// Of attention's output.
    pub o: LowRankActs<D, 1>,
    /// Of gate and up.
    pub gate_up: LowRankActs<D, 2>,
    /// Of down.
    pub down: LowRankActs<D, 1>,
}
