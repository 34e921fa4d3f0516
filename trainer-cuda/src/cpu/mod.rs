//! The CPU device: threads and SIMD. Activations and sums are f32; frozen weights may be less.

mod adamw;
mod attention;
mod attention_cached;
mod attention_kernels;
mod attention_tile;
mod bf16_products;
mod cross_entropy;
mod dpo_loss;
mod dropout;
mod elementwise;
mod embedding;
mod exp;
mod gather;
mod gelu;
mod gemm;
mod gemm_dot;
mod gemm_pack;
mod gemm_tiles;
mod l2_normalize;
mod layer_norm;
mod linear;
mod lora;
mod matrix;
mod mpi;
mod mpi_library;
mod pages;
mod parallel;
mod rms_norm;
mod rope;
mod segment_mean;
mod sft_loss;
mod simd;
mod simd_portable;
#[cfg(target_arch = "x86_64")]
mod simd_x86;
mod swiglu;
mod threads;
mod transpose;
mod triplet_loss;

pub use attention::AttentionMask;
pub use matrix::Matrix;
pub use simd::SimdLevel;

use crate::Result;
use crate::config::{Precision, TripletConfig};
use crate::device::{
    AdamW, AttentionShape, CrossEntropyGrad, Device, Dropout, EdgeBuffers, Modules, PackedShape, PairBuffers, Place,
    ReplayKey, StepState, Trainable, TripletBuffers, UpdateGradient, Visibility,
};
use crate::formats::StoredTensor;
use crate::plan::{DeviceSizes, MemoryPlan};
use crate::ranks::{Collective, Group};

/// The device. Its results do not depend on the number of threads.
pub struct Cpu {
    threads: usize,
    simd: SimdLevel,
    /// `None` where everything runs on the caller's thread.
    pool: Option<threads::Pool>,
    scratch: gemm::Scratch,
}

impl Cpu {
    /// The device with the best instructions that the processor has, on `threads` threads or as many as the process
    /// may use.
    pub fn new(threads: Option<usize>) -> Self {
        Self::with_simd(threads, SimdLevel::available()[0])
    }

    /// The device with the given instructions, one of [`SimdLevel::available`].
    pub fn with_simd(threads: Option<usize>, simd: SimdLevel) -> Self {
        let wanted = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
        let pool = (wanted > 1).then(|| threads::Pool::new(wanted - 1));
        let threads = 1 + pool.as_ref().map_or(0, threads::Pool::threads);
        Cpu { threads, simd, pool, scratch: gemm::Scratch::new() }
    }
}

impl Device for Cpu {
    type F32 = Vec<f32>;
    type F64 = Vec<f64>;
    type Act = Vec<f32>;
    type Index = Vec<u32>;
    type Mask = AttentionMask;
    type Weight = Matrix;
    type Packed = ();
    type Optimizer = ();

    const KIND: &'static str = "cpu";
    // 8 Mi logits (32 MiB in f32) keep the last-level cache from thrashing, and a chunk of 170 rows of a 49,152-word
    // vocabulary still fills the GEMM.
    const SIZES: DeviceSizes = DeviceSizes { log_rows: 1, logits_values: 8 << 20 };

    fn describe(&self) -> String {
        let plural = if self.threads == 1 { "" } else { "s" };
        format!("cpu ({} thread{plural}, {})", self.threads, self.simd)
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn join(&self, group: Group) -> Result<Box<dyn Collective<Self>>> {
        Ok(Box::new(mpi::Mpi::new(group)?))
    }

    fn reserve(&self, _: &MemoryPlan) -> Result<()> {
        Ok(())
    }

    fn padded(&self, n: usize, _: usize) -> usize {
        n
    }

    fn replay(&self, _: ReplayKey, body: &mut dyn FnMut()) {
        body();
    }

    fn alloc_f32(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn alloc_f64(&self, len: usize) -> Vec<f64> {
        vec![0.0; len]
    }

    fn alloc_index(&self, len: usize) -> Vec<u32> {
        vec![0; len]
    }

    fn alloc_mask(&self, _: usize) -> AttentionMask {
        AttentionMask::default()
    }

    fn alloc_acts<const N: usize>(&self, n_rows: usize, widths: [usize; N], _: usize) -> [Vec<f32>; N] {
        widths.map(|width| vec![0.0; n_rows * width])
    }

    fn pack(&self, _: &PackedShape) {}

    fn upload_frozen(&self, tensor: &StoredTensor<'_>, precision: Precision, _: Place<'_, Self>) -> Matrix {
        Matrix::frozen(self, tensor, precision)
    }

    fn upload_vector(&self, values: Vec<f32>, _: Place<'_, Self>) -> Matrix {
        let cols = values.len();
        Matrix::new(values, 1, cols)
    }

    fn upload_trained(
        &self,
        name: String,
        values: Vec<f32>,
        rows: usize,
        cols: usize,
        _: Place<'_, Self>,
    ) -> Trainable<Self> {
        let zeros = || vec![0.0; rows * cols];
        let (grad, exp_avg, exp_avg_sq) = (zeros(), zeros(), zeros());
        Trainable { name, weight: Matrix::new(values, rows, cols), grad, exp_avg, exp_avg_sq }
    }

    fn write_weight(&self, weight: &mut Matrix, values: &[f32]) {
        weight.values_mut().copy_from_slice(values);
    }

    fn weight_shape(&self, weight: &Matrix) -> [usize; 2] {
        [weight.rows, weight.cols]
    }

    fn read_weight(&self, weight: &Matrix) -> Vec<f32> {
        let mut values = vec![0.0; weight.rows * weight.cols];
        for (row, values) in values.chunks_exact_mut(weight.cols).enumerate() {
            weight.read_row(row, values);
        }
        values
    }

    fn write_f32(&self, buffer: &mut Vec<f32>, values: &[f32]) {
        buffer[..values.len()].copy_from_slice(values);
    }

    fn read_f32(&self, buffer: &Vec<f32>, len: usize) -> Vec<f32> {
        buffer[..len].to_vec()
    }

    fn write_f64(&self, buffer: &mut Vec<f64>, values: &[f64]) {
        buffer[..values.len()].copy_from_slice(values);
    }

    fn read_f64(&self, buffer: &Vec<f64>, len: usize) -> Vec<f64> {
        buffer[..len].to_vec()
    }

    fn write_act(&self, buffer: &mut Vec<f32>, values: &[f32]) {
        buffer[..values.len()].copy_from_slice(values);
    }

    fn read_act(&self, buffer: &Vec<f32>, len: usize) -> Vec<f32> {
        buffer[..len].to_vec()
    }

    fn write_index(&self, buffer: &mut Vec<u32>, values: &[u32]) {
        buffer[..values.len()].copy_from_slice(values);
    }

    fn read_index(&self, buffer: &Vec<u32>, len: usize) -> Vec<u32> {
        buffer[..len].to_vec()
    }

    fn write_mask(&self, mask: &mut AttentionMask, visibility: Visibility<'_>) {
        mask.write(visibility);
    }

    fn embedding_forward(&self, y: &mut Vec<f32>, tables: &[(&Vec<u32>, &Matrix)], n_tokens: usize) {
        embedding::forward(self, y, tables, n_tokens);
    }

    fn embedding_backward(
        &self,
        d_table: &mut Vec<f32>,
        dy: &Vec<f32>,
        rows: &Vec<u32>,
        hidden: usize,
        n_tokens: usize,
    ) {
        embedding::backward(d_table, dy, rows, hidden, n_tokens);
    }

    fn rms_norm_forward(
        &self,
        y: &mut Vec<f32>,
        rstd: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Matrix,
        eps: f32,
        n_rows: usize,
    ) {
        rms_norm::forward(self, y, rstd, x, weight, eps, n_rows);
    }

    fn rms_norm_backward(
        &self,
        dx: &mut Vec<f32>,
        d_weight: Option<&mut Vec<f32>>,
        y: Option<&mut Vec<f32>>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        rstd: &Vec<f32>,
        weight: &Matrix,
        residual: Option<&Vec<f32>>,
        n_rows: usize,
    ) {
        let (d_weight, y) = (d_weight.map(Vec::as_mut_slice), y.map(Vec::as_mut_slice));
        rms_norm::backward(self, dx, d_weight, y, dy, x, rstd, weight, residual.map(Vec::as_slice), n_rows);
    }

    fn layer_norm_forward(
        &self,
        y: &mut Vec<f32>,
        mean: &mut Vec<f32>,
        rstd: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Matrix,
        bias: &Matrix,
        eps: f32,
        n_tokens: usize,
    ) {
        layer_norm::forward(self, y, mean, rstd, x, weight, bias, eps, n_tokens);
    }

    fn layer_norm_backward(
        &self,
        dx: &mut Vec<f32>,
        d_weight: Option<&mut Vec<f32>>,
        d_bias: Option<&mut Vec<f32>>,
        y: Option<&mut Vec<f32>>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        mean: &Vec<f32>,
        rstd: &Vec<f32>,
        weight: &Matrix,
        bias: &Matrix,
        n_tokens: usize,
    ) {
        let (d_weight, d_bias) = (d_weight.map(Vec::as_mut_slice), d_bias.map(Vec::as_mut_slice));
        let y = y.map(Vec::as_mut_slice);
        layer_norm::backward(self, dx, d_weight, d_bias, y, dy, x, mean, rstd, weight, bias, n_tokens);
    }

    fn rope_forward(
        &self,
        q: &mut Vec<f32>,
        k: &mut Vec<f32>,
        position: &Vec<u32>,
        cos: &Vec<f32>,
        sin: &Vec<f32>,
        shape: AttentionShape,
    ) {
        rope::rotate_both(self, q, k, position, cos, sin, shape, 1.0);
    }

    fn rope_backward(
        &self,
        dq: &mut Vec<f32>,
        dk: &mut Vec<f32>,
        position: &Vec<u32>,
        cos: &Vec<f32>,
        sin: &Vec<f32>,
        shape: AttentionShape,
    ) {
        rope::rotate_both(self, dq, dk, position, cos, sin, shape, -1.0);
    }

    fn attention_forward(
        &self,
        o: &mut Vec<f32>,
        lse: &mut Vec<f32>,
        q: &Vec<f32>,
        k: &Vec<f32>,
        v: &Vec<f32>,
        mask: &AttentionMask,
        shape: AttentionShape,
    ) {
        attention::forward(self, o, lse, q, k, v, mask, shape);
    }

    fn attention_backward(
        &self,
        dq: &mut Vec<f32>,
        dk: &mut Vec<f32>,
        dv: &mut Vec<f32>,
        delta: &mut Vec<f32>,
        d_o: &Vec<f32>,
        o: &Vec<f32>,
        lse: &Vec<f32>,
        q: &Vec<f32>,
        k: &Vec<f32>,
        v: &Vec<f32>,
        mask: &AttentionMask,
        shape: AttentionShape,
    ) {
        let inputs = attention::Saved { d_o, o, lse, q, k, v };
        attention::backward(self, dq, dk, dv, delta, inputs, mask, shape);
    }

    fn attention_cached(
        &self,
        o: &mut Vec<f32>,
        q: &Vec<f32>,
        k_cache: &Vec<f32>,
        v_cache: &Vec<f32>,
        n_past: usize,
        shape: AttentionShape,
    ) {
        attention_cached::forward(self, o, q, k_cache, v_cache, n_past, shape);
    }

    fn append_rows(&self, cache: &mut Vec<f32>, x: &Vec<f32>, at: usize, width: usize, n: usize) {
        cache[at * width..(at + n) * width].copy_from_slice(&x[..n * width]);
    }

    fn swiglu_forward(&self, y: &mut Vec<f32>, gate: &Vec<f32>, up: &Vec<f32>, width: usize, n_tokens: usize) {
        swiglu::forward(self, y, gate, up, width * n_tokens);
    }

    fn swiglu_backward(
        &self,
        d_gate: &mut Vec<f32>,
        d_up: &mut Vec<f32>,
        y: &mut Vec<f32>,
        dy: &Vec<f32>,
        gate: &Vec<f32>,
        up: &Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) {
        swiglu::forward(self, y, gate, up, width * n_tokens);
        swiglu::backward(self, d_gate, d_up, dy, gate, up, width * n_tokens);
    }

    fn gelu_forward(&self, y: &mut Vec<f32>, x: &Vec<f32>, width: usize, n_tokens: usize) {
        gelu::forward(self, y, x, width * n_tokens);
    }

    fn gelu_backward(
        &self,
        dx: &mut Vec<f32>,
        y: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) {
        gelu::forward(self, y, x, width * n_tokens);
        gelu::backward(self, dx, dy, x, width * n_tokens);
    }

    fn dropout_forward(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        dropout: Dropout<'_, Self>,
        width: usize,
        n_tokens: usize,
    ) {
        dropout::forward(self, y, x, dropout, width * n_tokens);
    }

    fn dropout_backward(
        &self,
        dx: &mut Vec<f32>,
        dy: &Vec<f32>,
        dropout: Dropout<'_, Self>,
        width: usize,
        n_tokens: usize,
    ) {
        dropout::backward(self, dx, dy, dropout, width * n_tokens);
    }

    fn low_rank_forward<const N: usize>(
        &self,
        h: [Option<&mut Vec<f32>>; N],
        x: &Vec<f32>,
        _: &Vec<f32>,
        modules: &Modules<'_, Self, N>,
        n_tokens: usize,
    ) {
        for (h, update) in h.into_iter().zip(&modules.low_rank) {
            if let (Some(h), Some(update)) = (h, update) {
                lora::down(self, h, x, update.a, n_tokens);
            }
        }
    }

    fn linear_forward<const N: usize>(
        &self,
        y: [&mut Vec<f32>; N],
        x: &Vec<f32>,
        h: [Option<&Vec<f32>>; N],
        modules: &Modules<'_, Self, N>,
        residual: Option<&Vec<f32>>,
        n_tokens: usize,
    ) {
        assert!(residual.is_none() || N == 1, "a residual is added to a single layer");
        for (i, y) in y.into_iter().enumerate() {
            linear::forward(self, y, x, modules.weight[i], n_tokens);
            if let Some(bias) = modules.bias[i] {
                linear::add_bias(self, y, bias, n_tokens);
            }
            if let (Some(h), Some(update)) = (h[i], &modules.low_rank[i]) {
                lora::add_up(self, y, h, update, n_tokens);
            }
            if let Some(residual) = residual {
                linear::add_residual(self, y, residual, n_tokens * modules.weight[i].rows);
            }
        }
    }

    fn low_rank_backward<const N: usize>(
        &self,
        d_h: [Option<&mut Vec<f32>>; N],
        dy: [&Vec<f32>; N],
        modules: &Modules<'_, Self, N>,
        n_tokens: usize,
    ) {
        for ((d_h, dy), update) in d_h.into_iter().zip(dy).zip(&modules.low_rank) {
            if let (Some(d_h), Some(update)) = (d_h, update) {
                lora::backward(self, d_h, dy, update, n_tokens);
            }
        }
    }

    fn linear_backward_input<const N: usize>(
        &self,
        dx: &mut Vec<f32>,
        dy: [&Vec<f32>; N],
        d_h: [Option<&Vec<f32>>; N],
        modules: &Modules<'_, Self, N>,
        residual: Option<&Vec<f32>>,
        n_tokens: usize,
    ) {
        if let Some(residual) = residual {
            let len = n_tokens * modules.weight[0].cols;
            dx[..len].copy_from_slice(&residual[..len]);
        }
        for i in 0..N {
            linear::backward_input(self, dx, dy[i], modules.weight[i], n_tokens, residual.is_some() || i > 0);
            if let (Some(d_h), Some(update)) = (d_h[i], &modules.low_rank[i]) {
                linear::backward_input(self, dx, d_h, update.a, n_tokens, true);
            }
        }
    }

    fn low_rank_input(&self, dx: &mut Vec<f32>, d_h: &Vec<f32>, a: &Matrix, n_tokens: usize) {
        linear::backward_input(self, dx, d_h, a, n_tokens, false);
    }

    fn low_rank_gradients(
        &self,
        trained: &mut [Trainable<Self>],
        updates: &[UpdateGradient<'_, Self>],
        n_tokens: usize,
    ) {
        for &UpdateGradient { a, b, scaling, dy, x, h, d_h } in updates {
            let b = &mut trained[b];
            let shape @ [_, rank] = [b.weight.rows, b.weight.cols];
            lora::b_gradient(self, &mut b.grad, dy, h, shape, scaling, n_tokens);
            let a = &mut trained[a];
            linear::backward_weight(self, &mut a.grad, d_h, x, rank, a.weight.cols, n_tokens);
        }
    }

    fn linear_backward_weight(
        &self,
        d_weight: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        out_features: usize,
        in_features: usize,
        n_tokens: usize,
    ) {
        linear::backward_weight(self, d_weight, dy, x, out_features, in_features, n_tokens);
    }

    fn linear_backward_bias(&self, d_bias: &mut Vec<f32>, dy: &Vec<f32>, out_features: usize, n_tokens: usize) {
        linear::backward_bias(self, d_bias, dy, out_features, n_tokens);
    }

    fn gather_rows(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        rows: &Vec<u32>,
        hidden: usize,
        n_rows: usize,
        n_tokens: usize,
    ) {
        gather::gather(self, y, x, rows, hidden, n_rows, n_tokens);
    }

    fn scatter_rows(
        &self,
        dx: &mut Vec<f32>,
        dy: &Vec<f32>,
        rows: &Vec<u32>,
        hidden: usize,
        n_rows: usize,
        n_tokens: usize,
    ) {
        gather::scatter(self, dx, dy, rows, hidden, n_rows, n_tokens);
    }

    fn mean_pool_forward(&self, y: &mut Vec<f32>, x: &Vec<f32>, offsets: &Vec<u32>, hidden: usize, n_segments: usize) {
        segment_mean::forward(self, y, x, &offsets[..=n_segments], hidden);
    }

    fn mean_pool_backward(
        &self,
        dx: &mut Vec<f32>,
        dy: &Vec<f32>,
        offsets: &Vec<u32>,
        hidden: usize,
        n_segments: usize,
        n_tokens: usize,
    ) {
        segment_mean::backward(self, dx, dy, &offsets[..=n_segments], hidden, n_tokens);
    }

    fn l2_normalize_forward(&self, y: &mut Vec<f32>, norm: &mut Vec<f32>, x: &Vec<f32>, dim: usize, n: usize) {
        l2_normalize::forward(self, y, norm, x, dim, n);
    }

    fn l2_normalize_backward(
        &self,
        dx: &mut Vec<f32>,
        dy: &Vec<f32>,
        y: &Vec<f32>,
        norm: &Vec<f32>,
        dim: usize,
        n: usize,
    ) {
        l2_normalize::backward(self, dx, dy, y, norm, dim, n);
    }

    fn linear_cross_entropy(
        &self,
        logprob: &mut Vec<f32>,
        argmax: &mut Vec<u32>,
        logits: &mut Vec<f32>,
        x: &Vec<f32>,
        head: &Matrix,
        edges: &EdgeBuffers<Self>,
        n_rows: usize,
        chunk_rows: usize,
        grad: Option<CrossEntropyGrad<'_, Self>>,
    ) {
        cross_entropy::linear_cross_entropy(self, logprob, argmax, logits, x, head, edges, n_rows, chunk_rows, grad);
    }

    fn project(&self, y: &mut Vec<f32>, x: &Vec<f32>, weight: &Matrix, n_rows: usize) {
        linear::forward(self, y, x, weight, n_rows);
    }

    fn sft_loss(
        &self,
        state: &mut StepState<Self>,
        logprob: &Vec<f32>,
        d_logprob: &Vec<f32>,
        edges: &EdgeBuffers<Self>,
        n_rows: usize,
    ) {
        let n_edges = edges.edge_start[n_rows] as usize;
        state.sums[0] += sft_loss::sft_loss(&logprob[..n_edges], &d_logprob[..n_edges]);
    }

    fn dpo_loss(
        &self,
        state: &mut StepState<Self>,
        d_logprob: &mut Vec<f32>,
        logprob: &Vec<f32>,
        pairs: &mut PairBuffers<Self>,
        edges: &EdgeBuffers<Self>,
        beta: f64,
        n_rows: usize,
    ) {
        let n_edges = edges.edge_start[n_rows] as usize;
        dpo_loss::dpo_loss(&mut state.sums, &mut d_logprob[..n_edges], &logprob[..n_edges], pairs, beta);
    }

    fn triplet_loss(
        &self,
        state: &mut StepState<Self>,
        d_embeddings: &mut Vec<f32>,
        embeddings: &Vec<f32>,
        triplets: &TripletBuffers<Self>,
        config: TripletConfig,
        hidden: usize,
        n_segments: usize,
    ) {
        let d_embeddings = &mut d_embeddings[..n_segments * hidden];
        triplet_loss::triplet_loss(&mut state.sums, d_embeddings, embeddings, triplets, config, hidden);
    }

    fn optimizer(&self, _: &[Trainable<Self>]) {}

    fn zero_gradients(&self, trained: &mut [Trainable<Self>], _: &()) {
        trained.iter_mut().for_each(|tensor| tensor.grad.fill(0.0));
    }

    fn end_step(&self, state: &mut StepState<Self>, trained: &[Trainable<Self>], _: &()) {
        adamw::end_step(self, state, trained);
    }

    fn adamw_step(&self, trained: &mut [Trainable<Self>], _: &(), state: &StepState<Self>, constants: AdamW) {
        adamw::step(self, trained, state, constants);
    }
}
