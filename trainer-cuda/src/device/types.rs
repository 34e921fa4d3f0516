//! What the operations of a [`Device`] take beside buffers.

use super::Device;
use crate::config::Precision;
use crate::formats::BlockType;

/// Sizes of one attention call.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Tokens of the forest.
    pub n_tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head `h` reads key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head; scores are scaled by `1 / sqrt(head_dim)`.
    pub head_dim: usize,
}

/// Who sees whom in [`Device::attention_forward`], as [`Device::write_mask`] takes it.
#[derive(Debug, Clone, Copy)]
pub enum Visibility<'a> {
    /// A prefix forest in depth-first order: query `q` sees key `k` iff `k <= q && q < subtree_end[k]`.
    Forest {
        /// Exclusive index where the subtree of each token ends.
        subtree_end: &'a [u32], // [n_tokens]
    },
    /// Sequences one behind the other (encoders): query `q` sees key `k` iff
    /// `segment_start[q] <= k && k < segment_end[q]`. Segments cover the batch; there is no padding between them.
    Segments {
        /// First token of each token's segment.
        segment_start: &'a [u32], // [n_tokens]
        /// Exclusive end of each token's segment.
        segment_end: &'a [u32], // [n_tokens]
    },
}

/// Subtrees end behind their root: a walk over keys could stand still otherwise. Segments follow each other without a gap:
/// a block's keys would not be one range otherwise.
///
/// # Panics
/// Where that is not so.
pub(crate) fn assert_visible(visibility: Visibility<'_>) {
    match visibility {
        Visibility::Forest { subtree_end } => {
            let inside = |(t, &end): (usize, &u32)| t < end as usize && end as usize <= subtree_end.len();
            let all_inside = subtree_end.iter().enumerate().all(inside);
            assert!(all_inside, "a subtree that ends before its root or past the batch");
        }
        Visibility::Segments { segment_start, segment_end } => {
            let n_tokens = segment_start.len();
            let mut t = 0;
            while t < n_tokens {
                let next = segment_end[t] as usize;
                let one_segment = t < next
                    && next <= n_tokens
                    && segment_start[t..next].iter().all(|&start| start as usize == t)
                    && segment_end[t..next].iter().all(|&end| end as usize == next);
                assert!(one_segment, "segments that do not follow each other up to the end of the batch");
                t = next;
            }
        }
    }
}

/// Which activations [`Device::dropout_forward`] and its backward half set to zero.
///
/// A pure function of `(seed, index)`, so that nothing is stored and every device drops the same ones. With
/// `mix` the SplitMix64 finaliser (Steele et al. 2014) and `gamma = 0x9e3779b97f4a7c15`: the two 32-bit halves of
/// `mix(mix(seed) + (i / 2) * gamma)`, low half first, belong to activations `i` (even) and `i + 1`; one is kept iff its
/// half is at least `probability * 2^32`.
pub struct Dropout<'a, D: Device> {
    /// Share of zeroed activations, 0 to below 1; the others are scaled by `1 / (1 - probability)`.
    pub probability: f32,
    /// A seed for each module: low and high half.
    pub seeds: &'a D::Index, // [n_modules, 2]
    /// Whose seed counts.
    pub module: usize,
}

/// What linear layers that read one input are, before they are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedShape {
    /// Columns of every matrix.
    pub in_features: usize,
    /// In order.
    pub modules: Vec<PackedModule>,
    /// How the frozen matrices are held.
    pub precision: Precision,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedModule {
    /// Rows of the matrix.
    pub out_features: usize,
    /// Rank of its low-rank update; 0 without one.
    pub rank: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// How its file stores the matrix.
    pub stored: BlockType,
    /// Whether the matrix itself is trained.
    pub trained: bool,
}

/// Where a parameter belongs, on devices that multiply several as one.
pub enum Place<'a, D: Device> {
    /// A vector of its own: a norm's.
    Vector,
    /// A matrix of its own: a table.
    Matrix,
    /// The matrix of a module.
    Weight(&'a D::Packed, usize),
    /// Its bias.
    Bias(&'a D::Packed, usize),
    /// The first factor of its update.
    A(&'a D::Packed, usize),
    /// The second, and the factor on the update.
    B(&'a D::Packed, usize, f32),
}

/// Linear layers that read one input, as operations see them.
pub struct Modules<'a, D: Device, const N: usize> {
    /// All of them, for devices that multiply them as one.
    pub packed: &'a D::Packed,
    /// The matrices.
    pub weight: [&'a D::Weight; N], // [out, in] each
    /// The biases.
    pub bias: [Option<&'a D::Weight>; N], // [1, out] each
    /// The low-rank updates.
    pub low_rank: [Option<LowRank<'a, D>>; N],
}

/// A low-rank update `scaling * B A` (Hu et al. 2021).
pub struct LowRank<'a, D: Device> {
    /// First factor.
    pub a: &'a D::Weight, // [rank, in]
    /// Second factor.
    pub b: &'a D::Weight, // [out, rank]
    /// `alpha / rank`.
    pub scaling: f32,
}

/// What the gradients of one low-rank update are made of.
pub struct UpdateGradient<'a, D: Device> {
    /// Which tensor being trained is `A`.
    pub a: usize,
    /// Which is `B`.
    pub b: usize,
    /// Factor on the update.
    pub scaling: f32,
    /// Gradient of the layer's output.
    pub dy: &'a D::Act, // [n_tokens, out]
    /// The update's input.
    pub x: &'a D::Act, // [n_tokens, in]
    /// `x A^T`.
    pub h: &'a D::Act, // [n_tokens, rank]
    /// Its gradient.
    pub d_h: &'a D::Act, // [n_tokens, rank]
}

/// Preference pairs of a batch on the device: which edges are whose, and what the reference thinks of them.
pub struct PairBuffers<D: Device> {
    /// The edges of sequence `i` are `example_edges[example_start[i]..example_start[i + 1]]`; `2 p` and `2 p + 1` are
    /// the chosen and the rejected side of pair `p`.
    pub example_start: D::Index, // [2 n_pairs + 1]
    /// Edge numbers.
    pub example_edges: D::Index, // [n_labels]
    /// Log-probability of each sequence under the reference.
    pub reference: D::F64, // [2 n_pairs]
    /// How many pairs the batch has.
    pub n_pairs: D::Index, // [1]
    /// How many the whole step has: the loss is their mean.
    pub n_step: D::F32, // [1]
}

/// Triplets of a batch on the device.
pub struct TripletBuffers<D: Device> {
    /// Segments of anchor, positive and negative.
    pub segments: D::Index, // [n_triplets, 3]
    /// How many triplets the batch has.
    pub n_triplets: D::Index, // [1]
    /// How many the whole step has: the loss is their mean.
    pub n_step: D::F32, // [1]
}

/// Sums that a step keeps: its loss, and figures of the method.
pub const SUMS: usize = 7;
/// Columns of the log: the sums, and the gradient's norm.
pub const LOG_COLUMNS: usize = SUMS + 1;
/// What [`StepState::scalars`] holds, in order: largest gradient norm (0: none), row of the log, `1 - lr * weight_decay`,
/// `lr / (1 - beta1^t)`, `sqrt(1 - beta2^t)`.
pub const SCALARS: usize = 5;

/// What a step computes beside gradients, and what differs from step to step: in buffers, so that a recorded step can be
/// replayed.
pub struct StepState<D: Device> {
    /// Written before the step.
    pub scalars: D::F32, // [SCALARS]
    /// Of the step so far; [`Device::end_step`] clears them.
    pub sums: D::F64, // [LOG_COLUMNS], the last of no meaning
    /// The factor on every gradient, and whether a step was not finite: weights don't change from then on.
    pub control: D::F32, // [2]
    /// A row for each step that was not read yet.
    pub log: D::F64, // [log_rows, LOG_COLUMNS]
}

/// AdamW's constants (Loshchilov & Hutter 2019).
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
}

/// What a recorded part of a step depends on: the same key, the same operations on the same buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplayKey {
    /// `train`
    pub part: &'static str,
    /// Tokens, labelled rows or segments.
    pub sizes: [usize; 2],
    /// Whether the step begins and ends with it.
    pub ends: [bool; 2],
}

/// The labelled edges of a batch on the device, in row order (DESIGN: labels sit on edges).
#[derive(Debug)]
pub struct EdgeBuffers<D: Device> {
    /// `edges of row r` are `edge_start[r]..edge_start[r + 1]`.
    pub edge_start: D::Index, // [n_rows + 1]
    /// Token id that the edge predicts.
    pub edge_target: D::Index, // [n_edges]
}

/// The backward half of [`Device::linear_cross_entropy`].
pub struct CrossEntropyGrad<'a, D: Device> {
    /// `d loss / d logprob` of each edge (for mean NLL: `-weight / total weight`).
    pub d_logprob: &'a D::F32, // [n_edges]
    /// Gradient of the rows, `=`.
    pub d_x: &'a mut D::Act, // [n_rows, hidden]
    /// Gradient of the projection, `+=`; `None` where it is frozen.
    pub d_head: Option<&'a mut D::F32>, // [vocab, hidden]
}

/// One trained tensor with its gradient and AdamW state.
pub struct Trainable<D: Device> {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// The parameter.
    pub weight: D::Weight, // [rows, cols]
    /// Accumulated gradient.
    pub grad: D::F32, // [rows, cols]
    /// First moment.
    pub exp_avg: D::F32, // [rows, cols]
    /// Second moment.
    pub exp_avg_sq: D::F32, // [rows, cols]
}
