//! `Device`: the fused training operations that a block is written in.
//!
//! Rules that hold for every operation:
//! - It never allocates; every buffer is an argument, sized by the memory plan, and may be longer than the
//!   batch needs: `n_tokens` and friends say how much of it counts, from the front.
//! - It is deterministic: same inputs, same bytes, whatever the number of threads.
//! - The gradient rule: gradients of parameters `+=`, gradients of activations `=`. Where two branches meet, the
//!   operation that writes their sum reads the other one as `residual`.
//! - What changes from step to step is in buffers, not in arguments: a device may record the operations of a step and
//!   replay them ([`Device::replay`]).
//! - Shapes are row-major; the last dimension is contiguous. A shape that disagrees is a defect of ours: it panics.
//! - A device that fails remembers its first failure and does nothing from then on: [`Device::check`] tells.

mod types;

pub(crate) use types::assert_visible;
pub use types::*;

use crate::Result;
use crate::config::{Precision, TripletConfig};
use crate::formats::StoredTensor;
use crate::plan::{DeviceSizes, MemoryPlan};
use crate::ranks::{Collective, Group};

/// The operations. `Cpu` computes in f32; a GPU keeps activations in bf16 and sums in f32.
pub trait Device: Sized {
    /// f32 values: statistics, gradients of parameters, optimiser state.
    type F32;
    /// f64 values: sums over a batch.
    type F64;
    /// Activations and their gradients: rows of one width.
    type Act;
    /// Token ids, positions, row numbers (u32).
    type Index;
    /// Who sees whom.
    type Mask;
    /// A parameter matrix `[rows, cols]`, frozen or trained; a linear layer's is `[out, in]`.
    type Weight;
    /// The matrices of linear layers that read one input, as one.
    type Packed;
    /// What the optimiser needs beside the tensors.
    type Optimizer;

    /// `cpu` or `cuda`: results of one kind of device are not those of another.
    const KIND: &'static str;
    /// What of it sizes the buffers.
    const SIZES: DeviceSizes;

    /// What this device is, for logs and `run.json`: `cpu (2 threads, avx512)`.
    fn describe(&self) -> String;

    /// The first failure of any operation so far.
    ///
    /// # Errors
    /// [`TrainerError::Cuda`](crate::TrainerError::Cuda).
    fn check(&self) -> Result<()>;

    /// Joins ranks that have met, so that their gradients can be added up. All of them wait for each other.
    ///
    /// # Errors
    /// [`TrainerError::NoRankLibrary`](crate::TrainerError::NoRankLibrary);
    /// [`TrainerError::RankLost`](crate::TrainerError::RankLost);
    /// [`TrainerError::Collective`](crate::TrainerError::Collective).
    fn join(&self, group: Group) -> Result<Box<dyn Collective<Self>>>;

    /// Takes the memory of all that `plan` lists, buffers and parameters: what is allocated and uploaded from here on.
    ///
    /// # Errors
    /// [`TrainerError::OutOfMemory`](crate::TrainerError::OutOfMemory).
    fn reserve(&self, plan: &MemoryPlan) -> Result<()>;

    /// The size that a batch of `n` tokens, rows or segments is padded to, at most `most`: few sizes, so that what was
    /// recorded for one fits many batches.
    fn padded(&self, n: usize, most: usize) -> usize;

    /// Runs `body`, whose operations depend on `key` and the contents of buffers alone, or what it recorded of it.
    fn replay(&self, key: ReplayKey, body: &mut dyn FnMut());

    /// Zeroed f32 buffer.
    fn alloc_f32(&self, len: usize) -> Self::F32;
    /// Zeroed f64 buffer.
    fn alloc_f64(&self, len: usize) -> Self::F64;
    /// Zeroed index buffer.
    fn alloc_index(&self, len: usize) -> Self::Index;
    /// A mask of up to `n_tokens` tokens.
    fn alloc_mask(&self, n_tokens: usize) -> Self::Mask;
    /// Zeroed activations of `n_rows` rows: one buffer for each width, row by row side by side where a device multiplies
    /// them as one, with room for `tail` more values behind each row.
    fn alloc_acts<const N: usize>(&self, n_rows: usize, widths: [usize; N], tail: usize) -> [Self::Act; N];
    /// Zeroed activations.
    fn alloc_act(&self, n_rows: usize, width: usize) -> Self::Act {
        let [act] = self.alloc_acts(n_rows, [width], 0);
        act
    }

    /// Room for the matrices of linear layers that read one input.
    fn pack(&self, shape: &PackedShape) -> Self::Packed;
    /// Frozen matrix `[rows, cols]` from a tensor of that shape, kept as `precision` says.
    fn upload_frozen(&self, tensor: &StoredTensor<'_>, precision: Precision, place: Place<'_, Self>) -> Self::Weight;
    /// Frozen vector.
    fn upload_vector(&self, values: Vec<f32>, place: Place<'_, Self>) -> Self::Weight;
    /// A tensor to train, from row-major host values, with gradient and moments of zero.
    fn upload_trained(
        &self,
        name: String,
        values: Vec<f32>,
        rows: usize,
        cols: usize,
        place: Place<'_, Self>,
    ) -> Trainable<Self>;
    /// Overwrites a parameter that is trained.
    fn write_weight(&self, weight: &mut Self::Weight, values: &[f32]);
    /// `[rows, cols]` of a parameter.
    fn weight_shape(&self, weight: &Self::Weight) -> [usize; 2];
    /// Copies a parameter to the host, row-major; a frozen one as its storage rounded it.
    fn read_weight(&self, weight: &Self::Weight) -> Vec<f32>;
    /// Overwrites the front of a buffer.
    fn write_f32(&self, buffer: &mut Self::F32, values: &[f32]);
    /// Copies the first `len` values to the host.
    fn read_f32(&self, buffer: &Self::F32, len: usize) -> Vec<f32>;
    /// Overwrites the front of a buffer.
    fn write_f64(&self, buffer: &mut Self::F64, values: &[f64]);
    /// Copies the first `len` values to the host.
    fn read_f64(&self, buffer: &Self::F64, len: usize) -> Vec<f64>;
    /// Overwrites the front of a buffer, row by row.
    fn write_act(&self, buffer: &mut Self::Act, values: &[f32]);
    /// Copies the first `len` activations to the host, row by row.
    fn read_act(&self, buffer: &Self::Act, len: usize) -> Vec<f32>;
    /// Overwrites the front of a buffer.
    fn write_index(&self, buffer: &mut Self::Index, values: &[u32]);
    /// Copies the first `len` indices to the host.
    fn read_index(&self, buffer: &Self::Index, len: usize) -> Vec<u32>;
    /// Overwrites a mask.
    ///
    /// # Panics
    /// Where subtrees don't end behind their root and inside the batch, or segments don't follow each other.
    fn write_mask(&self, mask: &mut Self::Mask, visibility: Visibility<'_>);

    /// `y[t] = sum_i table_i[rows_i[t]]`, added in order.
    fn embedding_forward(
        &self,
        y: &mut Self::Act,                        // [n_tokens, hidden]
        tables: &[(&Self::Index, &Self::Weight)], // [n_tokens], [rows, hidden]; up to three
        n_tokens: usize,
    );

    /// `d_table[rows[t]] += dy[t]`.
    fn embedding_backward(
        &self,
        d_table: &mut Self::F32, // [vocab, hidden]
        dy: &Self::Act,          // [n_tokens, hidden]
        rows: &Self::Index,      // [n_tokens]
        hidden: usize,
        n_tokens: usize,
    );

    /// `y = x * rstd * weight`, `rstd = 1 / sqrt(mean(x^2) + eps)` (Zhang & Sennrich 2019, eq. 4). A row may be a token
    /// or one of its heads: as wide as `weight`.
    fn rms_norm_forward(
        &self,
        y: &mut Self::Act,     // [n_rows, width]
        rstd: &mut Self::F32,  // [n_rows]
        x: &Self::Act,         // [n_rows, width]
        weight: &Self::Weight, // [1, width]
        eps: f32,
        n_rows: usize,
    );

    /// `dx = residual + rstd * (weight * dy - x * rstd^2 * mean(weight * dy * x))`; `d_weight += sum_t dy * x * rstd`;
    /// `y` again, where it is wanted, bit-equal to that of [`Device::rms_norm_forward`].
    fn rms_norm_backward(
        &self,
        dx: &mut Self::Act,               // [n_rows, width]
        d_weight: Option<&mut Self::F32>, // [width]
        y: Option<&mut Self::Act>,        // [n_rows, width]
        dy: &Self::Act,                   // [n_rows, width]
        x: &Self::Act,                    // [n_rows, width]
        rstd: &Self::F32,                 // [n_rows]
        weight: &Self::Weight,            // [1, width]
        residual: Option<&Self::Act>,     // [n_rows, width]
        n_rows: usize,
    );

    /// `y = (x - mean) * rstd * weight + bias`, `rstd = 1 / sqrt(mean((x - mean)^2) + eps)` (Ba et al. 2016, eq. 4).
    fn layer_norm_forward(
        &self,
        y: &mut Self::Act,     // [n_tokens, hidden]
        mean: &mut Self::F32,  // [n_tokens]
        rstd: &mut Self::F32,  // [n_tokens]
        x: &Self::Act,         // [n_tokens, hidden]
        weight: &Self::Weight, // [1, hidden]
        bias: &Self::Weight,   // [1, hidden]
        eps: f32,
        n_tokens: usize,
    );

    /// With `z = (x - mean) * rstd` and `g = weight * dy`: `dx = rstd * (g - mean(g) - z * mean(g * z))`;
    /// `d_weight += sum_t dy * z`, `d_bias += sum_t dy`; `y = z * weight + bias` again, where it is wanted, bit-equal to
    /// that of [`Device::layer_norm_forward`].
    fn layer_norm_backward(
        &self,
        dx: &mut Self::Act,               // [n_tokens, hidden]
        d_weight: Option<&mut Self::F32>, // [hidden]
        d_bias: Option<&mut Self::F32>,   // [hidden]
        y: Option<&mut Self::Act>,        // [n_tokens, hidden]
        dy: &Self::Act,                   // [n_tokens, hidden]
        x: &Self::Act,                    // [n_tokens, hidden]
        mean: &Self::F32,                 // [n_tokens]
        rstd: &Self::F32,                 // [n_tokens]
        weight: &Self::Weight,            // [1, hidden]
        bias: &Self::Weight,              // [1, hidden]
        n_tokens: usize,
    );

    /// Rotates each head of queries and keys in place by its token's position (Su et al. 2021, eq. 34, in Hugging Face's
    /// half-split order: element `i` pairs with `i + head_dim / 2`).
    fn rope_forward(
        &self,
        q: &mut Self::Act,      // [n_tokens, heads, head_dim]
        k: &mut Self::Act,      // [n_tokens, kv_heads, head_dim]
        position: &Self::Index, // [n_tokens]
        cos: &Self::F32,        // [max_position, head_dim / 2]
        sin: &Self::F32,        // [max_position, head_dim / 2]
        shape: AttentionShape,
    );

    /// The transpose of [`Device::rope_forward`]: rotates the gradients back, in place.
    fn rope_backward(
        &self,
        dq: &mut Self::Act,     // [n_tokens, heads, head_dim]
        dk: &mut Self::Act,     // [n_tokens, kv_heads, head_dim]
        position: &Self::Index, // [n_tokens]
        cos: &Self::F32,        // [max_position, head_dim / 2]
        sin: &Self::F32,        // [max_position, head_dim / 2]
        shape: AttentionShape,
    );

    /// Softmax attention of each query over the keys that `mask` lets it see.
    fn attention_forward(
        &self,
        o: &mut Self::Act,   // [n_tokens, heads, head_dim]
        lse: &mut Self::F32, // [n_tokens, heads], log sum exp of the scaled scores
        q: &Self::Act,       // [n_tokens, heads, head_dim]
        k: &Self::Act,       // [n_tokens, kv_heads, head_dim]
        v: &Self::Act,       // [n_tokens, kv_heads, head_dim]
        mask: &Self::Mask,   // [n_tokens]
        shape: AttentionShape,
    );

    /// Gradients of [`Device::attention_forward`], all `=`. `delta` is scratch: rowsum(d_o * o).
    fn attention_backward(
        &self,
        dq: &mut Self::Act,    // [n_tokens, heads, head_dim]
        dk: &mut Self::Act,    // [n_tokens, kv_heads, head_dim]
        dv: &mut Self::Act,    // [n_tokens, kv_heads, head_dim]
        delta: &mut Self::F32, // [n_tokens, heads]
        d_o: &Self::Act,       // [n_tokens, heads, head_dim]
        o: &Self::Act,         // [n_tokens, heads, head_dim]
        lse: &Self::F32,       // [n_tokens, heads]
        q: &Self::Act,         // [n_tokens, heads, head_dim]
        k: &Self::Act,         // [n_tokens, kv_heads, head_dim]
        v: &Self::Act,         // [n_tokens, kv_heads, head_dim]
        mask: &Self::Mask,     // [n_tokens]
        shape: AttentionShape,
    );

    /// Inference: attention of `shape.n_tokens = n_new` queries that follow `n_past` cached tokens. The cache already
    /// holds the new keys and values; query `i` sees rows `0..=n_past + i` of it.
    fn attention_cached(
        &self,
        o: &mut Self::Act,   // [n_new, heads, head_dim]
        q: &Self::Act,       // [n_new, heads, head_dim]
        k_cache: &Self::Act, // [>= n_past + n_new, kv_heads, head_dim]
        v_cache: &Self::Act, // [>= n_past + n_new, kv_heads, head_dim]
        n_past: usize,
        shape: AttentionShape,
    );

    /// Copies `x` to rows `at..at + n` of a cache.
    fn append_rows(
        &self,
        cache: &mut Self::Act, // [>= at + n, width]
        x: &Self::Act,         // [n, width]
        at: usize,
        width: usize,
        n: usize,
    );

    /// `y = silu(gate) * up` (Shazeer 2020).
    fn swiglu_forward(
        &self,
        y: &mut Self::Act, // [n_tokens, width]
        gate: &Self::Act,  // [n_tokens, width]
        up: &Self::Act,    // [n_tokens, width]
        width: usize,
        n_tokens: usize,
    );

    /// `d_up = dy * silu(gate)`, `d_gate = dy * up * silu'(gate)`; and `y` again.
    fn swiglu_backward(
        &self,
        d_gate: &mut Self::Act, // [n_tokens, width]
        d_up: &mut Self::Act,   // [n_tokens, width]
        y: &mut Self::Act,      // [n_tokens, width]
        dy: &Self::Act,         // [n_tokens, width]
        gate: &Self::Act,       // [n_tokens, width]
        up: &Self::Act,         // [n_tokens, width]
        width: usize,
        n_tokens: usize,
    );

    /// `y = x * (1 + erf(x / sqrt(2))) / 2` (Hendrycks & Gimpel 2016; torch's `approximate="none"`).
    fn gelu_forward(
        &self,
        y: &mut Self::Act, // [n_tokens, width]
        x: &Self::Act,     // [n_tokens, width]
        width: usize,
        n_tokens: usize,
    );

    /// `dx = dy * (Phi(x) + x * phi(x))`, the normal distribution and its density; and `y` again.
    fn gelu_backward(
        &self,
        dx: &mut Self::Act, // [n_tokens, width]
        y: &mut Self::Act,  // [n_tokens, width]
        dy: &Self::Act,     // [n_tokens, width]
        x: &Self::Act,      // [n_tokens, width]
        width: usize,
        n_tokens: usize,
    );

    /// `y = x / (1 - probability)` where the activation is kept, else 0 (Srivastava et al. 2014, inverted).
    fn dropout_forward(
        &self,
        y: &mut Self::Act, // [n_tokens, width], the front of each row of what may be wider
        x: &Self::Act,     // [n_tokens, width]
        dropout: Dropout<'_, Self>,
        width: usize,
        n_tokens: usize,
    );

    /// `dx += dy / (1 - probability)` where the activation was kept.
    fn dropout_backward(
        &self,
        dx: &mut Self::Act, // [n_tokens, width]
        dy: &Self::Act,     // [n_tokens, width]
        dropout: Dropout<'_, Self>,
        width: usize,
        n_tokens: usize,
    );

    /// `h_i = x A_i^T` for each update whose `h` is given. What is multiplied may be `beside`, the input of the layers,
    /// or what dropout left of it.
    fn low_rank_forward<const N: usize>(
        &self,
        h: [Option<&mut Self::Act>; N], // [n_tokens, rank] each
        x: &Self::Act,                  // [n_tokens, in]
        beside: &Self::Act,             // [n_tokens, in]
        modules: &Modules<'_, Self, N>,
        n_tokens: usize,
    );

    /// `y_i = x W_i^T + bias_i + scaling_i h_i B_i^T` (Hu et al. 2021, eq. 3), the last where `h` is given, and `+ residual`
    /// for a single layer. `h` is what [`Device::low_rank_forward`] wrote last beside `x`.
    fn linear_forward<const N: usize>(
        &self,
        y: [&mut Self::Act; N],     // [n_tokens, out] each
        x: &Self::Act,              // [n_tokens, in]
        h: [Option<&Self::Act>; N], // [n_tokens, rank] each; all that have an update, or none
        modules: &Modules<'_, Self, N>,
        residual: Option<&Self::Act>, // [n_tokens, out]
        n_tokens: usize,
    );

    /// `d_h_i = scaling_i dy_i B_i` for each update.
    fn low_rank_backward<const N: usize>(
        &self,
        d_h: [Option<&mut Self::Act>; N], // [n_tokens, rank] each
        dy: [&Self::Act; N],              // [n_tokens, out] each
        modules: &Modules<'_, Self, N>,
        n_tokens: usize,
    );

    /// `dx = residual + sum_i (dy_i W_i + d_h_i A_i)`, the last where `d_h` is given: what [`Device::low_rank_backward`]
    /// wrote last for `dy`.
    fn linear_backward_input<const N: usize>(
        &self,
        dx: &mut Self::Act,           // [n_tokens, in]
        dy: [&Self::Act; N],          // [n_tokens, out] each
        d_h: [Option<&Self::Act>; N], // [n_tokens, rank] each; all that have an update, or none
        modules: &Modules<'_, Self, N>,
        residual: Option<&Self::Act>, // [n_tokens, in]
        n_tokens: usize,
    );

    /// `dx = d_h A`, the part of an update whose input was dropped.
    fn low_rank_input(
        &self,
        dx: &mut Self::Act, // [n_tokens, in], the front of each row of what may be wider
        d_h: &Self::Act,    // [n_tokens, rank]
        a: &Self::Weight,   // [rank, in]
        n_tokens: usize,
    );

    /// For each update: `d_b += scaling * dy^T h`, `d_a += d_h^T x`.
    fn low_rank_gradients(
        &self,
        trained: &mut [Trainable<Self>],
        updates: &[UpdateGradient<'_, Self>],
        n_tokens: usize,
    );

    /// `d_weight += dy^T x`.
    fn linear_backward_weight(
        &self,
        d_weight: &mut Self::F32, // [out, in]
        dy: &Self::Act,           // [n_tokens, out]
        x: &Self::Act,            // [n_tokens, in]
        out_features: usize,
        in_features: usize,
        n_tokens: usize,
    );

    /// `d_bias += sum_t dy[t]`.
    fn linear_backward_bias(
        &self,
        d_bias: &mut Self::F32, // [out]
        dy: &Self::Act,         // [n_tokens, out]
        out_features: usize,
        n_tokens: usize,
    );

    /// `y[r] = x[rows[r]]`; zero for a row number of padding, `n_tokens`.
    fn gather_rows(
        &self,
        y: &mut Self::Act,  // [n_rows, hidden]
        x: &Self::Act,      // [n_tokens, hidden]
        rows: &Self::Index, // [n_rows], ascending
        hidden: usize,
        n_rows: usize,
        n_tokens: usize,
    );

    /// `dx[rows[r]] = dy[r]`; rows that are not listed are set to zero.
    fn scatter_rows(
        &self,
        dx: &mut Self::Act, // [n_tokens, hidden]
        dy: &Self::Act,     // [n_rows, hidden]
        rows: &Self::Index, // [n_rows], ascending; padding, `n_tokens`, is at the end
        hidden: usize,
        n_rows: usize,
        n_tokens: usize,
    );

    /// `y[s]` = mean of rows `offsets[s]..offsets[s + 1]` of `x`; zero where the segment is empty.
    fn mean_pool_forward(
        &self,
        y: &mut Self::Act,     // [n_segments, hidden]
        x: &Self::Act,         // [n_tokens, hidden]
        offsets: &Self::Index, // [n_segments + 1], from 0, ascending
        hidden: usize,
        n_segments: usize,
    );

    /// `dx[t] = dy[s] / (rows of s)` for the segment `s` of each row `t`; zero for rows behind the last.
    fn mean_pool_backward(
        &self,
        dx: &mut Self::Act,    // [n_tokens, hidden]
        dy: &Self::Act,        // [n_segments, hidden]
        offsets: &Self::Index, // [n_segments + 1], from 0, ascending
        hidden: usize,
        n_segments: usize,
        n_tokens: usize,
    );

    /// `norm = sqrt(sum(x^2))`, `y = x / max(norm, 1e-12)` (torch's `F.normalize`).
    fn l2_normalize_forward(
        &self,
        y: &mut Self::Act,    // [n, dim]
        norm: &mut Self::F32, // [n]
        x: &Self::Act,        // [n, dim]
        dim: usize,
        n: usize,
    );

    /// `dx = (dy - y * sum(dy * y)) / norm`, or `dy / 1e-12` where the norm was below that; `=`.
    fn l2_normalize_backward(
        &self,
        dx: &mut Self::Act, // [n, dim]
        dy: &Self::Act,     // [n, dim]
        y: &Self::Act,      // [n, dim]
        norm: &Self::F32,   // [n]
        dim: usize,
        n: usize,
    );

    /// Projects rows onto the vocabulary in chunks and scores their edges, never holding all logits.
    ///
    /// `logprob[e] = logits[r, target[e]] - lse[r]`; `argmax[r]` is the first index of the largest logit.
    /// With `grad`: `d_logits[r] = sum_{e of r} d_logprob[e] * (onehot(target[e]) - softmax(logits[r]))`,
    /// `d_x = d_logits head`, `d_head += d_logits^T x`.
    fn linear_cross_entropy(
        &self,
        logprob: &mut Self::F32,  // [n_edges]
        argmax: &mut Self::Index, // [n_rows]
        logits: &mut Self::Act,   // [chunk_rows, vocab], scratch
        x: &Self::Act,            // [n_rows, hidden]
        head: &Self::Weight,      // [vocab, hidden]
        edges: &EdgeBuffers<Self>,
        n_rows: usize,
        chunk_rows: usize,
        grad: Option<CrossEntropyGrad<'_, Self>>,
    );

    /// `y = x weight^T` of one matrix that is not packed: the logits of generation.
    fn project(
        &self,
        y: &mut Self::Act,     // [n_rows, rows]
        x: &Self::Act,         // [n_rows, cols]
        weight: &Self::Weight, // [rows, cols]
        n_rows: usize,
    );

    /// The loss of SFT: adds `sum_e d_logprob[e] * logprob[e]` to the step's first sum. As `d_logprob` is minus an edge's
    /// share of the step, that is its share of the mean negative log-likelihood.
    fn sft_loss(
        &self,
        state: &mut StepState<Self>,
        logprob: &Self::F32,   // [n_edges]
        d_logprob: &Self::F32, // [n_edges]
        edges: &EdgeBuffers<Self>,
        n_rows: usize,
    );

    /// The loss of DPO (Rafailov et al. 2023, eq. 7): with each side's reward `beta * (log pi - log ref)`, and `margin` the
    /// chosen one's minus the rejected one's, adds `-log sigmoid(margin)`, `margin > 0` and both rewards, each over
    /// `n_step`, to the step's sums, and writes the loss's derivative by each edge's log-probability.
    fn dpo_loss(
        &self,
        state: &mut StepState<Self>,
        d_logprob: &mut Self::F32, // [n_edges]
        logprob: &Self::F32,       // [n_edges]
        pairs: &mut PairBuffers<Self>,
        edges: &EdgeBuffers<Self>,
        beta: f64,
        n_rows: usize,
    );

    /// The loss of triplets, `max(0, margin + d(a, p) - d(a, n))`: adds the loss, `d(a, p) < d(a, n)` and both
    /// distances, each over `n_step`, to the step's sums, and writes the loss's derivative by each embedding.
    fn triplet_loss(
        &self,
        state: &mut StepState<Self>,
        d_embeddings: &mut Self::Act, // [n_segments, hidden]
        embeddings: &Self::Act,       // [n_segments, hidden]
        triplets: &TripletBuffers<Self>,
        config: TripletConfig,
        hidden: usize,
        n_segments: usize,
    );

    /// What the optimiser needs of the tensors, once all of them are there.
    fn optimizer(&self, trained: &[Trainable<Self>]) -> Self::Optimizer;

    /// Sets every gradient to zero.
    fn zero_gradients(&self, trained: &mut [Trainable<Self>], optimizer: &Self::Optimizer);

    /// Ends a step's figures: the Euclidean norm over every gradient (summed in f64), the factor that clips it (torch's
    /// `clip_grad_norm_`), whether loss and norm are finite. Writes them to the step's row of the log and clears the sums.
    fn end_step(&self, state: &mut StepState<Self>, trained: &[Trainable<Self>], optimizer: &Self::Optimizer);

    /// AdamW over every tensor (Loshchilov & Hutter 2019, algorithm 2, as `torch.optim.AdamW` orders it), with gradients
    /// times the clipping factor: `w *= 1 - lr * wd`, moments, then `w -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) +
    /// eps)`. Does nothing once a step was not finite.
    fn adamw_step(
        &self,
        trained: &mut [Trainable<Self>],
        optimizer: &Self::Optimizer,
        state: &StepState<Self>,
        constants: AdamW,
    );
}
