//! The operations, as they are listed in [`Device`].

use super::attention::Saved;
use super::layout::{self, MASK_TILE, TrainedLayout};
use super::memory::{Act, Buffer, Mask};
use super::weights::{Optimizer, Packed, Trained, Weight};
use super::{Arena, Cuda};
use crate::Result;
use crate::config::{Precision, TripletConfig};
use crate::device::{
    AdamW, AttentionShape, CrossEntropyGrad, Device, Dropout, EdgeBuffers, Modules, PackedShape, PairBuffers, Place,
    ReplayKey, StepState, Trainable, TripletBuffers, UpdateGradient, Visibility,
};
use crate::formats::StoredTensor;
use crate::plan::{DeviceSizes, MemoryPlan};
use crate::ranks::{Collective, Group};
use std::rc::Rc;

impl Device for Cuda {
    type F32 = Buffer<f32>;
    type F64 = Buffer<f64>;
    type Act = Act;
    type Index = Buffer<u32>;
    type Mask = Mask;
    type Weight = Weight;
    type Packed = Packed;
    type Optimizer = Optimizer;

    const KIND: &'static str = "cuda";
    const SIZES: DeviceSizes = layout::SIZES;

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn check(&self) -> Result<()> {
        self.failure.check()
    }

    fn join(&self, group: Group) -> Result<Box<dyn Collective<Self>>> {
        self.join_by_nccl(group)
    }

    fn reserve(&self, plan: &MemoryPlan) -> Result<()> {
        self.graphs.clear();
        self.trained.take();
        self.arena.take();
        let arena = Rc::new(Arena::new(&self.context, layout::arena_bytes(plan))?);
        self.arena.replace(Some(arena.clone()));
        self.workspace.set(arena.take(layout::WORKSPACE_BYTES, "workspace"));
        self.counters.set(arena.take(4 * layout::COUNTERS, "counters"));
        self.zero(self.counters.get(), 4 * layout::COUNTERS);
        self.staged.set(arena.take(layout::staging_bytes(&plan.parameters), "a tensor of the file"));
        self.dequantized.set(arena.take(layout::dequantized_bytes(&plan.parameters), "a dequantised matrix"));
        let trained = Trained::new(self, TrainedLayout::new(&plan.parameters));
        self.trained.replace(Some(trained));
        self.check()
    }

    /// Eight sizes between a power of two and the next: 6% more than there is, on average.
    fn padded(&self, n: usize, most: usize) -> usize {
        let step = (n.max(1).next_power_of_two() / 16).max(MASK_TILE / 2);
        n.next_multiple_of(step).min(most)
    }

    fn replay(&self, key: ReplayKey, body: &mut dyn FnMut()) {
        self.run_or_replay(key, body);
    }

    fn alloc_f32(&self, len: usize) -> Buffer<f32> {
        self.alloc(len, "f32 values")
    }

    fn alloc_f64(&self, len: usize) -> Buffer<f64> {
        self.alloc(len, "f64 values")
    }

    fn alloc_index(&self, len: usize) -> Buffer<u32> {
        self.alloc(len, "indices")
    }

    fn alloc_mask(&self, n_tokens: usize) -> Mask {
        let n_tiles = n_tokens.div_ceil(MASK_TILE);
        Mask {
            first: self.alloc(n_tokens, "mask"),
            end: self.alloc(n_tokens, "mask"),
            tile_first: self.alloc(n_tiles, "tiles of the mask"),
            tile_end: self.alloc(n_tiles, "tiles of the mask"),
        }
    }

    fn alloc_acts<const N: usize>(&self, n_rows: usize, widths: [usize; N], tail: usize) -> [Act; N] {
        self.alloc_beside(n_rows, widths, tail)
    }

    fn pack(&self, shape: &PackedShape) -> Packed {
        self.pack_modules(shape)
    }

    fn upload_frozen(&self, tensor: &StoredTensor<'_>, precision: Precision, place: Place<'_, Self>) -> Weight {
        self.upload_matrix(tensor, precision, place)
    }

    fn upload_vector(&self, values: Vec<f32>, place: Place<'_, Self>) -> Weight {
        self.upload_values(&values, place)
    }

    fn upload_trained(
        &self,
        name: String,
        values: Vec<f32>,
        rows: usize,
        cols: usize,
        place: Place<'_, Self>,
    ) -> Trainable<Self> {
        self.upload_tensor(name, &values, rows, cols, place)
    }

    fn write_weight(&self, weight: &mut Weight, values: &[f32]) {
        self.write_trained(weight, values);
    }

    fn weight_shape(&self, weight: &Weight) -> [usize; 2] {
        [weight.rows, weight.cols]
    }

    fn read_weight(&self, weight: &Weight) -> Vec<f32> {
        self.read_parameter(weight)
    }

    fn write_f32(&self, buffer: &mut Buffer<f32>, values: &[f32]) {
        self.write_front(buffer, values);
    }

    fn read_f32(&self, buffer: &Buffer<f32>, len: usize) -> Vec<f32> {
        self.read_front(buffer, len)
    }

    fn write_f64(&self, buffer: &mut Buffer<f64>, values: &[f64]) {
        self.write_front(buffer, values);
    }

    fn read_f64(&self, buffer: &Buffer<f64>, len: usize) -> Vec<f64> {
        self.read_front(buffer, len)
    }

    fn write_act(&self, buffer: &mut Act, values: &[f32]) {
        self.write_rows(buffer, values);
    }

    fn read_act(&self, buffer: &Act, len: usize) -> Vec<f32> {
        self.read_rows(buffer, len)
    }

    fn write_index(&self, buffer: &mut Buffer<u32>, values: &[u32]) {
        self.write_front(buffer, values);
    }

    fn read_index(&self, buffer: &Buffer<u32>, len: usize) -> Vec<u32> {
        self.read_front(buffer, len)
    }

    fn write_mask(&self, mask: &mut Mask, visibility: Visibility<'_>) {
        self.write_visibility(mask, visibility);
    }

    fn embedding_forward(&self, y: &mut Act, tables: &[(&Buffer<u32>, &Weight)], n_tokens: usize) {
        self.look_up(y, tables, n_tokens);
    }

    fn embedding_backward(
        &self,
        d_table: &mut Buffer<f32>,
        dy: &Act,
        rows: &Buffer<u32>,
        hidden: usize,
        n_tokens: usize,
    ) {
        self.look_up_backward(d_table, dy, rows, hidden, n_tokens);
    }

    fn rms_norm_forward(&self, y: &mut Act, rstd: &mut Buffer<f32>, x: &Act, weight: &Weight, eps: f32, n_rows: usize) {
        self.rms_norm(y, rstd, x, weight, eps, n_rows);
    }

    fn rms_norm_backward(
        &self,
        dx: &mut Act,
        d_weight: Option<&mut Buffer<f32>>,
        y: Option<&mut Act>,
        dy: &Act,
        x: &Act,
        rstd: &Buffer<f32>,
        weight: &Weight,
        residual: Option<&Act>,
        n_rows: usize,
    ) {
        self.rms_norm_gradient(dx, d_weight.as_deref(), y.as_deref(), dy, x, rstd, weight, residual, n_rows);
    }

    fn layer_norm_forward(
        &self,
        y: &mut Act,
        mean: &mut Buffer<f32>,
        rstd: &mut Buffer<f32>,
        x: &Act,
        weight: &Weight,
        bias: &Weight,
        eps: f32,
        n_tokens: usize,
    ) {
        self.layer_norm(y, mean, rstd, x, [weight, bias], eps, n_tokens);
    }

    fn layer_norm_backward(
        &self,
        dx: &mut Act,
        d_weight: Option<&mut Buffer<f32>>,
        d_bias: Option<&mut Buffer<f32>>,
        y: Option<&mut Act>,
        dy: &Act,
        x: &Act,
        mean: &Buffer<f32>,
        rstd: &Buffer<f32>,
        weight: &Weight,
        bias: &Weight,
        n_tokens: usize,
    ) {
        let parameters = d_weight.zip(d_bias).map(|(d_weight, d_bias)| [&*d_weight, &*d_bias]);
        self.layer_norm_gradient(dx, parameters, y.as_deref(), dy, x, [mean, rstd], [weight, bias], n_tokens);
    }

    fn rope_forward(
        &self,
        q: &mut Act,
        k: &mut Act,
        position: &Buffer<u32>,
        cos: &Buffer<f32>,
        sin: &Buffer<f32>,
        shape: AttentionShape,
    ) {
        self.rotate(q, k, position, cos, sin, shape, 1.0);
    }

    fn rope_backward(
        &self,
        dq: &mut Act,
        dk: &mut Act,
        position: &Buffer<u32>,
        cos: &Buffer<f32>,
        sin: &Buffer<f32>,
        shape: AttentionShape,
    ) {
        self.rotate(dq, dk, position, cos, sin, shape, -1.0);
    }

    fn attention_forward(
        &self,
        o: &mut Act,
        lse: &mut Buffer<f32>,
        q: &Act,
        k: &Act,
        v: &Act,
        mask: &Mask,
        shape: AttentionShape,
    ) {
        self.attend(o, lse, q, k, v, mask, shape);
    }

    fn attention_backward(
        &self,
        dq: &mut Act,
        dk: &mut Act,
        dv: &mut Act,
        delta: &mut Buffer<f32>,
        d_o: &Act,
        o: &Act,
        lse: &Buffer<f32>,
        q: &Act,
        k: &Act,
        v: &Act,
        mask: &Mask,
        shape: AttentionShape,
    ) {
        self.attend_backward(dq, dk, dv, delta, &Saved { d_o, o, lse, q, k, v }, mask, shape);
    }

    fn attention_cached(
        &self,
        o: &mut Act,
        q: &Act,
        k_cache: &Act,
        v_cache: &Act,
        n_past: usize,
        shape: AttentionShape,
    ) {
        self.attend_cached(o, q, k_cache, v_cache, n_past, shape);
    }

    fn append_rows(&self, cache: &mut Act, x: &Act, at: usize, width: usize, n: usize) {
        cache.assert_holds("cache", at + n, width);
        x.assert_holds("x", n, width);
        let to = cache.address + (2 * at * cache.stride) as u64;
        self.copy_rows(to, cache.stride, x.address, x.stride, n, width);
    }

    fn swiglu_forward(&self, y: &mut Act, gate: &Act, up: &Act, width: usize, n_tokens: usize) {
        self.swiglu(y, gate, up, width, n_tokens);
    }

    fn swiglu_backward(
        &self,
        d_gate: &mut Act,
        d_up: &mut Act,
        y: &mut Act,
        dy: &Act,
        gate: &Act,
        up: &Act,
        width: usize,
        n_tokens: usize,
    ) {
        self.swiglu_derivative(d_gate, d_up, y, dy, gate, up, width, n_tokens);
    }

    fn gelu_forward(&self, y: &mut Act, x: &Act, width: usize, n_tokens: usize) {
        self.gelu(y, x, width, n_tokens);
    }

    fn gelu_backward(&self, dx: &mut Act, y: &mut Act, dy: &Act, x: &Act, width: usize, n_tokens: usize) {
        self.gelu_derivative(dx, y, dy, x, width, n_tokens);
    }

    fn dropout_forward(&self, y: &mut Act, x: &Act, dropout: Dropout<'_, Self>, width: usize, n_tokens: usize) {
        self.drop("dropout_forward", y, x, dropout, width, n_tokens);
    }

    fn dropout_backward(&self, dx: &mut Act, dy: &Act, dropout: Dropout<'_, Self>, width: usize, n_tokens: usize) {
        self.drop("dropout_backward", dx, dy, dropout, width, n_tokens);
    }

    fn low_rank_forward<const N: usize>(
        &self,
        h: [Option<&mut Act>; N],
        x: &Act,
        beside: &Act,
        modules: &Modules<'_, Self, N>,
        n_tokens: usize,
    ) {
        self.down(h.map(|h| h.map(|h| &*h)), x, beside, modules, n_tokens);
    }

    fn linear_forward<const N: usize>(
        &self,
        y: [&mut Act; N],
        x: &Act,
        h: [Option<&Act>; N],
        modules: &Modules<'_, Self, N>,
        residual: Option<&Act>,
        n_tokens: usize,
    ) {
        let with_updates = h.iter().any(Option::is_some);
        self.project_modules(y.map(|y| &*y), x, with_updates, modules, residual, n_tokens);
    }

    fn low_rank_backward<const N: usize>(
        &self,
        d_h: [Option<&mut Act>; N],
        dy: [&Act; N],
        modules: &Modules<'_, Self, N>,
        n_tokens: usize,
    ) {
        self.down_gradient(d_h.map(|d_h| d_h.map(|d_h| &*d_h)), dy, modules, n_tokens);
    }

    fn linear_backward_input<const N: usize>(
        &self,
        dx: &mut Act,
        dy: [&Act; N],
        d_h: [Option<&Act>; N],
        modules: &Modules<'_, Self, N>,
        residual: Option<&Act>,
        n_tokens: usize,
    ) {
        let with_updates = d_h.iter().any(Option::is_some);
        self.project_back(dx, dy, with_updates, modules, residual, n_tokens);
    }

    fn low_rank_input(&self, dx: &mut Act, d_h: &Act, a: &Weight, n_tokens: usize) {
        self.update_input(dx, d_h, a, n_tokens);
    }

    fn low_rank_gradients(
        &self,
        trained: &mut [Trainable<Self>],
        updates: &[UpdateGradient<'_, Self>],
        n_tokens: usize,
    ) {
        self.update_gradients(trained, updates, n_tokens);
    }

    fn linear_backward_weight(
        &self,
        d_weight: &mut Buffer<f32>,
        dy: &Act,
        x: &Act,
        out_features: usize,
        in_features: usize,
        n_tokens: usize,
    ) {
        self.weight_gradient(d_weight, dy, x, [out_features, in_features], n_tokens);
    }

    fn linear_backward_bias(&self, d_bias: &mut Buffer<f32>, dy: &Act, out_features: usize, n_tokens: usize) {
        self.bias_gradient(d_bias, dy, out_features, n_tokens);
    }

    fn gather_rows(&self, y: &mut Act, x: &Act, rows: &Buffer<u32>, hidden: usize, n_rows: usize, n_tokens: usize) {
        self.gather(y, x, rows, hidden, n_rows, n_tokens);
    }

    fn scatter_rows(&self, dx: &mut Act, dy: &Act, rows: &Buffer<u32>, hidden: usize, n_rows: usize, n_tokens: usize) {
        self.scatter(dx, dy, rows, hidden, n_rows, n_tokens);
    }

    fn mean_pool_forward(&self, y: &mut Act, x: &Act, offsets: &Buffer<u32>, hidden: usize, n_segments: usize) {
        self.mean_pool(y, x, offsets, hidden, n_segments);
    }

    fn mean_pool_backward(
        &self,
        dx: &mut Act,
        dy: &Act,
        offsets: &Buffer<u32>,
        hidden: usize,
        n_segments: usize,
        n_tokens: usize,
    ) {
        self.mean_pool_gradient(dx, dy, offsets, hidden, n_segments, n_tokens);
    }

    fn l2_normalize_forward(&self, y: &mut Act, norm: &mut Buffer<f32>, x: &Act, dim: usize, n: usize) {
        self.normalize(y, norm, x, dim, n);
    }

    fn l2_normalize_backward(&self, dx: &mut Act, dy: &Act, y: &Act, norm: &Buffer<f32>, dim: usize, n: usize) {
        self.normalize_gradient(dx, dy, y, norm, dim, n);
    }

    fn linear_cross_entropy(
        &self,
        logprob: &mut Buffer<f32>,
        argmax: &mut Buffer<u32>,
        logits: &mut Act,
        x: &Act,
        head: &Weight,
        edges: &EdgeBuffers<Self>,
        n_rows: usize,
        chunk_rows: usize,
        grad: Option<CrossEntropyGrad<'_, Self>>,
    ) {
        self.score_rows(logprob, argmax, logits, x, head, edges, n_rows, chunk_rows, grad);
    }

    fn project(&self, y: &mut Act, x: &Act, weight: &Weight, n_rows: usize) {
        self.project_alone(y, x, weight, n_rows);
    }

    fn sft_loss(
        &self,
        state: &mut StepState<Self>,
        logprob: &Buffer<f32>,
        d_logprob: &Buffer<f32>,
        edges: &EdgeBuffers<Self>,
        n_rows: usize,
    ) {
        self.weighted_sum(state, logprob, d_logprob, edges, n_rows);
    }

    fn dpo_loss(
        &self,
        state: &mut StepState<Self>,
        d_logprob: &mut Buffer<f32>,
        logprob: &Buffer<f32>,
        pairs: &mut PairBuffers<Self>,
        edges: &EdgeBuffers<Self>,
        beta: f64,
        n_rows: usize,
    ) {
        self.preferences(state, d_logprob, logprob, pairs, edges, beta, n_rows);
    }

    fn triplet_loss(
        &self,
        state: &mut StepState<Self>,
        d_embeddings: &mut Act,
        embeddings: &Act,
        triplets: &TripletBuffers<Self>,
        config: TripletConfig,
        hidden: usize,
        n_segments: usize,
    ) {
        self.triplets(state, d_embeddings, embeddings, triplets, config, hidden, n_segments);
    }

    fn optimizer(&self, _: &[Trainable<Self>]) -> Optimizer {
        self.make_optimizer()
    }

    fn zero_gradients(&self, _: &mut [Trainable<Self>], optimizer: &Optimizer) {
        self.zero(optimizer.grads, 4 * optimizer.n_values);
    }

    fn end_step(&self, state: &mut StepState<Self>, _: &[Trainable<Self>], optimizer: &Optimizer) {
        self.norm_and_log(state, optimizer);
    }

    fn adamw_step(&self, _: &mut [Trainable<Self>], optimizer: &Optimizer, state: &StepState<Self>, constants: AdamW) {
        self.update(optimizer, state, constants);
    }
}
