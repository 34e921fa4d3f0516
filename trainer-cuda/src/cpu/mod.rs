//! The CPU device: threads and SIMD. Activations and sums are f32; frozen weights may be less.

mod adamw;
mod attention;
mod attention_cached;
mod attention_kernels;
mod attention_tile;
mod bf16_products;
mod cross_entropy;
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
mod pages;
mod parallel;
mod rms_norm;
mod rope;
mod segment_mean;
mod simd;
mod simd_portable;
#[cfg(target_arch = "x86_64")]
mod simd_x86;
mod swiglu;
mod threads;
mod transpose;

pub use matrix::Matrix;
pub use simd::SimdLevel;

use crate::config::Precision;
use crate::device::{AdamW, AttentionMask, AttentionShape, CrossEntropyGrad, Device, Dropout, EdgeBuffers, Trainable};
use crate::formats::StoredTensor;

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
    type Act = Vec<f32>;
    type Index = Vec<u32>;
    type Weight = Matrix;

    fn describe(&self) -> String {
        let plural = if self.threads == 1 { "" } else { "s" };
        format!("cpu ({} thread{plural}, {})", self.threads, self.simd)
    }

    fn alloc_f32(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn alloc_act(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn alloc_index(&self, len: usize) -> Vec<u32> {
        vec![0; len]
    }

    fn upload_weight(&self, values: Vec<f32>, rows: usize, cols: usize) -> Matrix {
        Matrix::new(values, rows, cols)
    }

    fn upload_frozen(&self, tensor: &StoredTensor<'_>, precision: Precision) -> Matrix {
        Matrix::frozen(self, tensor, precision)
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

    fn zero_f32(&self, buffer: &mut Vec<f32>, len: usize) {
        buffer[..len].fill(0.0);
    }

    fn zero_act(&self, buffer: &mut Vec<f32>, len: usize) {
        buffer[..len].fill(0.0);
    }

    fn embedding_forward(&self, y: &mut Vec<f32>, token_ids: &Vec<u32>, table: &Matrix, n_tokens: usize) {
        embedding::forward(self, y, token_ids, table, n_tokens);
    }

    fn embedding_backward(
        &self,
        d_table: &mut Vec<f32>,
        dy: &Vec<f32>,
        token_ids: &Vec<u32>,
        hidden: usize,
        n_tokens: usize,
    ) {
        embedding::backward(d_table, dy, token_ids, hidden, n_tokens);
    }

    fn rms_norm_forward(
        &self,
        y: &mut Vec<f32>,
        rstd: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Matrix,
        eps: f32,
        n_tokens: usize,
    ) {
        rms_norm::forward(self, y, rstd, x, weight, eps, n_tokens);
    }

    fn rms_norm_backward(
        &self,
        dx: &mut Vec<f32>,
        d_weight: Option<&mut Vec<f32>>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        rstd: &Vec<f32>,
        weight: &Matrix,
        n_tokens: usize,
    ) {
        rms_norm::backward(self, dx, d_weight.map(Vec::as_mut_slice), dy, x, rstd, weight, n_tokens);
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
        dy: &Vec<f32>,
        x: &Vec<f32>,
        mean: &Vec<f32>,
        rstd: &Vec<f32>,
        weight: &Matrix,
        n_tokens: usize,
    ) {
        let (d_weight, d_bias) = (d_weight.map(Vec::as_mut_slice), d_bias.map(Vec::as_mut_slice));
        layer_norm::backward(self, dx, d_weight, d_bias, dy, x, mean, rstd, weight, n_tokens);
    }

    fn rope_forward(
        &self,
        x: &mut Vec<f32>,
        position: &Vec<u32>,
        cos: &Vec<f32>,
        sin: &Vec<f32>,
        heads: usize,
        head_dim: usize,
        n_tokens: usize,
    ) {
        rope::rotate(self, x, position, cos, sin, heads, head_dim, n_tokens, 1.0);
    }

    fn rope_backward(
        &self,
        dx: &mut Vec<f32>,
        position: &Vec<u32>,
        cos: &Vec<f32>,
        sin: &Vec<f32>,
        heads: usize,
        head_dim: usize,
        n_tokens: usize,
    ) {
        rope::rotate(self, dx, position, cos, sin, heads, head_dim, n_tokens, -1.0);
    }

    fn attention_forward(
        &self,
        o: &mut Vec<f32>,
        lse: &mut Vec<f32>,
        q: &Vec<f32>,
        k: &Vec<f32>,
        v: &Vec<f32>,
        mask: AttentionMask<'_, Self>,
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
        mask: AttentionMask<'_, Self>,
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

    fn swiglu_forward(&self, y: &mut Vec<f32>, gate: &Vec<f32>, up: &Vec<f32>, len: usize) {
        swiglu::forward(self, y, gate, up, len);
    }

    fn swiglu_backward(
        &self,
        d_gate: &mut Vec<f32>,
        d_up: &mut Vec<f32>,
        dy: &Vec<f32>,
        gate: &Vec<f32>,
        up: &Vec<f32>,
        len: usize,
    ) {
        swiglu::backward(self, d_gate, d_up, dy, gate, up, len);
    }

    fn gelu_forward(&self, y: &mut Vec<f32>, x: &Vec<f32>, len: usize) {
        gelu::forward(self, y, x, len);
    }

    fn gelu_backward(&self, dx: &mut Vec<f32>, dy: &Vec<f32>, x: &Vec<f32>, len: usize) {
        gelu::backward(self, dx, dy, x, len);
    }

    fn dropout_forward(&self, y: &mut Vec<f32>, x: &Vec<f32>, dropout: Dropout, len: usize) {
        dropout::forward(self, y, x, dropout, len);
    }

    fn dropout_backward(&self, dx: &mut Vec<f32>, dy: &Vec<f32>, dropout: Dropout, len: usize) {
        dropout::backward(self, dx, dy, dropout, len);
    }

    fn linear_forward(&self, y: &mut Vec<f32>, x: &Vec<f32>, weight: &Matrix, bias: Option<&Matrix>, n_tokens: usize) {
        linear::forward(self, y, x, weight, n_tokens);
        if let Some(bias) = bias {
            linear::add_bias(self, y, bias, n_tokens);
        }
    }

    fn linear_backward_input(
        &self,
        dx: &mut Vec<f32>,
        dy: &Vec<f32>,
        weight: &Matrix,
        n_tokens: usize,
        accumulate: bool,
    ) {
        linear::backward_input(self, dx, dy, weight, n_tokens, accumulate);
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

    fn lora_forward(
        &self,
        y: &mut Vec<f32>,
        h: &mut Vec<f32>,
        x: &Vec<f32>,
        a: &Matrix,
        b: &Matrix,
        scaling: f32,
        n_tokens: usize,
    ) {
        lora::forward(self, y, h, x, a, b, scaling, n_tokens);
    }

    fn lora_down(&self, h: &mut Vec<f32>, x: &Vec<f32>, a: &Matrix, n_tokens: usize) {
        lora::down(self, h, x, a, n_tokens);
    }

    fn lora_backward(
        &self,
        dx: &mut Vec<f32>,
        d_a: &mut Vec<f32>,
        d_b: &mut Vec<f32>,
        d_h: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        h: &Vec<f32>,
        a: &Matrix,
        b: &Matrix,
        scaling: f32,
        n_tokens: usize,
    ) {
        lora::backward(self, dx, d_a, d_b, d_h, dy, x, h, a, b, scaling, n_tokens);
    }

    fn add(&self, y: &mut Vec<f32>, x: &Vec<f32>, residual: &Vec<f32>, len: usize) {
        elementwise::add(self, y, x, residual, len);
    }

    fn gather_rows(&self, y: &mut Vec<f32>, x: &Vec<f32>, rows: &Vec<u32>, hidden: usize, n_rows: usize) {
        gather::gather(self, y, x, rows, hidden, n_rows);
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
    ) {
        segment_mean::backward(self, dx, dy, &offsets[..=n_segments], hidden);
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

    fn grad_norm(&self, trainables: &[Trainable<Self>]) -> f32 {
        adamw::grad_norm(self, trainables)
    }

    fn adamw_step(&self, trainables: &mut [Trainable<Self>], step: AdamW) {
        adamw::step(self, trainables, step);
    }
}
