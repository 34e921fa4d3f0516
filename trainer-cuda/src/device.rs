//! `Device`: the fused training operations that a block is written in.
//!
//! Rules that hold for every operation:
//! - It never allocates; every buffer is an argument, sized by the memory plan, and may be longer than the
//!   batch needs: `n_tokens` and friends say how much of it counts, from the front.
//! - It is deterministic: same inputs, same bytes, whatever the number of threads.
//! - The gradient rule: gradients of parameters and of the residual stream `+=`, gradients of activations `=`.
//!   Each operation's doc says which it does.
//! - Shapes are row-major; the last dimension is contiguous. A shape that disagrees is a defect of ours: it panics.

use crate::config::Precision;
use crate::formats::StoredTensor;

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

/// Who sees whom in [`Device::attention_forward`].
pub enum AttentionMask<'a, D: Device> {
    /// A prefix forest in depth-first order: query `q` sees key `k` iff `k <= q && q < subtree_end[k]`.
    Forest {
        /// Exclusive index where the subtree of each token ends.
        subtree_end: &'a D::Index, // [n_tokens]
    },
    /// Sequences one behind the other (encoders): query `q` sees key `k` iff
    /// `segment_start[q] <= k && k < segment_end[q]`. Segments cover the batch; there is no padding between them.
    Segments {
        /// First token of each token's segment.
        segment_start: &'a D::Index, // [n_tokens]
        /// Exclusive end of each token's segment.
        segment_end: &'a D::Index, // [n_tokens]
    },
}

impl<D: Device> Clone for AttentionMask<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for AttentionMask<'_, D> {}

/// Which activations [`Device::dropout_forward`] and its backward half set to zero.
///
/// A pure function of `(seed, index)`, so that nothing is stored and every device drops the same ones. With
/// `mix` the SplitMix64 finaliser (Steele et al. 2014) and `gamma = 0x9e3779b97f4a7c15`: the two 32-bit halves of
/// `mix(mix(seed) + (i / 2) * gamma)`, low half first, belong to activations `i` (even) and `i + 1`; one is kept iff its
/// half is at least `probability * 2^32`.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Share of zeroed activations, 0 to below 1; the others are scaled by `1 / (1 - probability)`.
    pub probability: f32,
    /// A different mask for each seed.
    pub seed: u64,
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

/// One AdamW step (Loshchilov & Hutter 2019, algorithm 2, as `torch.optim.AdamW` orders it).
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Factor on every gradient: clipping.
    pub grad_scale: f32,
    /// Step number from 1, for the bias correction.
    pub step: i32,
}

/// The operations. `Cpu` computes in f32; a GPU keeps activations in bf16 and sums in f32.
pub trait Device: Sized {
    /// f32 values: statistics, gradients of parameters, optimiser state.
    type F32;
    /// Activations and their gradients.
    type Act;
    /// Token ids, positions, row numbers (u32).
    type Index;
    /// A parameter matrix `[rows, cols]`, frozen or trained; a linear layer's is `[out, in]`.
    type Weight;

    /// What this device is, for logs and `run.json`: `cpu (2 threads, avx512)`.
    fn describe(&self) -> String;

    /// Zeroed f32 buffer.
    fn alloc_f32(&self, len: usize) -> Self::F32;
    /// Zeroed activation buffer.
    fn alloc_act(&self, len: usize) -> Self::Act;
    /// Zeroed index buffer.
    fn alloc_index(&self, len: usize) -> Self::Index;
    /// Parameter from row-major host values: trained, or a vector.
    fn upload_weight(&self, values: Vec<f32>, rows: usize, cols: usize) -> Self::Weight;
    /// Frozen matrix `[rows, cols]` from a tensor of that shape, kept as `precision` says.
    fn upload_frozen(&self, tensor: &StoredTensor<'_>, precision: Precision) -> Self::Weight;
    /// Overwrites a parameter that [`Device::upload_weight`] made.
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
    fn write_act(&self, buffer: &mut Self::Act, values: &[f32]);
    /// Copies the first `len` activations to the host.
    fn read_act(&self, buffer: &Self::Act, len: usize) -> Vec<f32>;
    /// Overwrites the front of a buffer.
    fn write_index(&self, buffer: &mut Self::Index, values: &[u32]);
    /// Copies the first `len` indices to the host.
    fn read_index(&self, buffer: &Self::Index, len: usize) -> Vec<u32>;
    /// Sets the first `len` values to zero.
    fn zero_f32(&self, buffer: &mut Self::F32, len: usize);
    /// Sets the first `len` activations to zero.
    fn zero_act(&self, buffer: &mut Self::Act, len: usize);

    /// `y[t] = table[token_ids[t]]`.
    fn embedding_forward(
        &self,
        y: &mut Self::Act,       // [n_tokens, hidden]
        token_ids: &Self::Index, // [n_tokens]
        table: &Self::Weight,    // [vocab, hidden]
        n_tokens: usize,
    );

    /// `d_table[token_ids[t]] += dy[t]`.
    fn embedding_backward(
        &self,
        d_table: &mut Self::F32, // [vocab, hidden]
        dy: &Self::Act,          // [n_tokens, hidden]
        token_ids: &Self::Index, // [n_tokens]
        hidden: usize,
        n_tokens: usize,
    );

    /// `y = x * rstd * weight`, `rstd = 1 / sqrt(mean(x^2) + eps)` (Zhang & Sennrich 2019, eq. 4).
    fn rms_norm_forward(
        &self,
        y: &mut Self::Act,     // [n_tokens, hidden]
        rstd: &mut Self::F32,  // [n_tokens]
        x: &Self::Act,         // [n_tokens, hidden]
        weight: &Self::Weight, // [1, hidden]
        eps: f32,
        n_tokens: usize,
    );

    /// `dx += rstd * (weight * dy - x * rstd^2 * mean(weight * dy * x))`; `d_weight += sum_t dy * x * rstd`.
    fn rms_norm_backward(
        &self,
        dx: &mut Self::Act,               // [n_tokens, hidden]
        d_weight: Option<&mut Self::F32>, // [hidden]
        dy: &Self::Act,                   // [n_tokens, hidden]
        x: &Self::Act,                    // [n_tokens, hidden]
        rstd: &Self::F32,                 // [n_tokens]
        weight: &Self::Weight,            // [1, hidden]
        n_tokens: usize,
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
    /// `d_weight += sum_t dy * z`, `d_bias += sum_t dy`.
    fn layer_norm_backward(
        &self,
        dx: &mut Self::Act,               // [n_tokens, hidden], =
        d_weight: Option<&mut Self::F32>, // [hidden]
        d_bias: Option<&mut Self::F32>,   // [hidden]
        dy: &Self::Act,                   // [n_tokens, hidden]
        x: &Self::Act,                    // [n_tokens, hidden]
        mean: &Self::F32,                 // [n_tokens]
        rstd: &Self::F32,                 // [n_tokens]
        weight: &Self::Weight,            // [1, hidden]
        n_tokens: usize,
    );

    /// Rotates each head in place by its token's position (Su et al. 2021, eq. 34, in Hugging Face's half-split
    /// order: element `i` pairs with `i + head_dim / 2`).
    fn rope_forward(
        &self,
        x: &mut Self::Act,      // [n_tokens, heads, head_dim]
        position: &Self::Index, // [n_tokens]
        cos: &Self::F32,        // [max_position, head_dim / 2]
        sin: &Self::F32,        // [max_position, head_dim / 2]
        heads: usize,
        head_dim: usize,
        n_tokens: usize,
    );

    /// The transpose of [`Device::rope_forward`]: rotates the gradient back, in place.
    fn rope_backward(
        &self,
        dx: &mut Self::Act,     // [n_tokens, heads, head_dim]
        position: &Self::Index, // [n_tokens]
        cos: &Self::F32,        // [max_position, head_dim / 2]
        sin: &Self::F32,        // [max_position, head_dim / 2]
        heads: usize,
        head_dim: usize,
        n_tokens: usize,
    );

    /// Softmax attention of each query over the keys that `mask` lets it see.
    fn attention_forward(
        &self,
        o: &mut Self::Act,   // [n_tokens, heads, head_dim]
        lse: &mut Self::F32, // [n_tokens, heads], log sum exp of the scaled scores
        q: &Self::Act,       // [n_tokens, heads, head_dim]
        k: &Self::Act,       // [n_tokens, kv_heads, head_dim]
        v: &Self::Act,       // [n_tokens, kv_heads, head_dim]
        mask: AttentionMask<'_, Self>,
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
        mask: AttentionMask<'_, Self>,
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
        y: &mut Self::Act, // [len]
        gate: &Self::Act,  // [len]
        up: &Self::Act,    // [len]
        len: usize,
    );

    /// `d_up = dy * silu(gate)`, `d_gate = dy * up * silu'(gate)`; both `=`.
    fn swiglu_backward(
        &self,
        d_gate: &mut Self::Act, // [len]
        d_up: &mut Self::Act,   // [len]
        dy: &Self::Act,         // [len]
        gate: &Self::Act,       // [len]
        up: &Self::Act,         // [len]
        len: usize,
    );

    /// `y = x * (1 + erf(x / sqrt(2))) / 2` (Hendrycks & Gimpel 2016; torch's `approximate="none"`).
    fn gelu_forward(
        &self,
        y: &mut Self::Act, // [len]
        x: &Self::Act,     // [len]
        len: usize,
    );

    /// `dx = dy * (Phi(x) + x * phi(x))`, the normal distribution and its density; `=`.
    fn gelu_backward(
        &self,
        dx: &mut Self::Act, // [len]
        dy: &Self::Act,     // [len]
        x: &Self::Act,      // [len]
        len: usize,
    );

    /// `y = x / (1 - probability)` where the activation is kept, else 0 (Srivastava et al. 2014, inverted).
    fn dropout_forward(
        &self,
        y: &mut Self::Act, // [len]
        x: &Self::Act,     // [len]
        dropout: Dropout,
        len: usize,
    );

    /// `dx += dy / (1 - probability)` where the activation was kept.
    fn dropout_backward(
        &self,
        dx: &mut Self::Act, // [len]
        dy: &Self::Act,     // [len]
        dropout: Dropout,
        len: usize,
    );

    /// `y = x weight^T + bias`.
    fn linear_forward(
        &self,
        y: &mut Self::Act,           // [n_tokens, out]
        x: &Self::Act,               // [n_tokens, in]
        weight: &Self::Weight,       // [out, in]
        bias: Option<&Self::Weight>, // [1, out]
        n_tokens: usize,
    );

    /// `dx = dy weight`, or `dx += dy weight` where `accumulate`.
    fn linear_backward_input(
        &self,
        dx: &mut Self::Act,    // [n_tokens, in]
        dy: &Self::Act,        // [n_tokens, out]
        weight: &Self::Weight, // [out, in]
        n_tokens: usize,
        accumulate: bool,
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

    /// `h = x a^T`, `y += scaling * h b^T` (Hu et al. 2021, eq. 3).
    fn lora_forward(
        &self,
        y: &mut Self::Act, // [n_tokens, out]
        h: &mut Self::Act, // [n_tokens, rank]
        x: &Self::Act,     // [n_tokens, in]
        a: &Self::Weight,  // [rank, in]
        b: &Self::Weight,  // [out, rank]
        scaling: f32,
        n_tokens: usize,
    );

    /// `h = x a^T`, bit-equal to the `h` of [`Device::lora_forward`]: for a backward pass whose `y` is known.
    fn lora_down(
        &self,
        h: &mut Self::Act, // [n_tokens, rank]
        x: &Self::Act,     // [n_tokens, in]
        a: &Self::Weight,  // [rank, in]
        n_tokens: usize,
    );

    /// `d_b += scaling * dy^T h`, `d_h = scaling * dy b`, `d_a += d_h^T x`, `dx += d_h a`.
    fn lora_backward(
        &self,
        dx: &mut Self::Act,  // [n_tokens, in]
        d_a: &mut Self::F32, // [rank, in]
        d_b: &mut Self::F32, // [out, rank]
        d_h: &mut Self::Act, // [n_tokens, rank], scratch
        dy: &Self::Act,      // [n_tokens, out]
        x: &Self::Act,       // [n_tokens, in]
        h: &Self::Act,       // [n_tokens, rank]
        a: &Self::Weight,    // [rank, in]
        b: &Self::Weight,    // [out, rank]
        scaling: f32,
        n_tokens: usize,
    );

    /// `y = x + residual`.
    fn add(
        &self,
        y: &mut Self::Act,    // [len]
        x: &Self::Act,        // [len]
        residual: &Self::Act, // [len]
        len: usize,
    );

    /// `y[r] = x[rows[r]]`.
    fn gather_rows(
        &self,
        y: &mut Self::Act,  // [n_rows, hidden]
        x: &Self::Act,      // [n_tokens, hidden]
        rows: &Self::Index, // [n_rows], strictly ascending
        hidden: usize,
        n_rows: usize,
    );

    /// `dx[rows[r]] = dy[r]`; rows that are not listed are set to zero.
    fn scatter_rows(
        &self,
        dx: &mut Self::Act, // [n_tokens, hidden]
        dy: &Self::Act,     // [n_rows, hidden]
        rows: &Self::Index, // [n_rows], strictly ascending
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

    /// `dx[t] = dy[s] / (rows of s)` for the segment `s` of each row `t`; `=` for `offsets[n_segments]` rows.
    fn mean_pool_backward(
        &self,
        dx: &mut Self::Act,    // [n_tokens, hidden]
        dy: &Self::Act,        // [n_segments, hidden]
        offsets: &Self::Index, // [n_segments + 1], from 0, ascending
        hidden: usize,
        n_segments: usize,
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

    /// Euclidean norm over every gradient (summed in f64).
    fn grad_norm(&self, trainables: &[Trainable<Self>]) -> f32;

    /// AdamW over every tensor: `w *= 1 - lr * wd`, moments, then
    /// `w -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)`.
    fn adamw_step(&self, trainables: &mut [Trainable<Self>], step: AdamW);
}
