//! The memory plan: every buffer of a run as arithmetic, before anything is allocated.

use crate::batch::Budget;
use crate::config::DecoderConfig;
use crate::decoder::modules::{MODULE_NAMES, MODULE_PATHS};
use crate::device::{LOG_COLUMNS, PackedShape, SCALARS};

/// Parts of a row start at a multiple of so many values: sixteen bytes in bf16, the widest load of a GPU.
pub const ROW_ALIGNMENT: usize = 8;

/// Values that parts of the given widths take side by side.
pub fn side_by_side(widths: &[usize]) -> usize {
    widths.iter().map(|width| width.next_multiple_of(ROW_ALIGNMENT)).sum()
}

/// What a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Activations: f32 on the CPU, bf16 on a GPU.
    Act,
    /// Statistics and tables, f32.
    F32,
    /// Sums, f64.
    F64,
    /// Token ids and row numbers, u32.
    Index,
    /// Who sees whom.
    Mask,
}

/// One buffer, or several that lie row by row side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBuffer {
    /// Element kind.
    pub kind: Kind,
    /// Rows of each part.
    pub n_rows: usize,
    /// At least one.
    pub parts: Vec<PlannedPart>,
    /// Room for so many more values behind each row, on devices that multiply them with the row.
    pub tail: usize,
}

/// A buffer by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedPart {
    /// `layers.3.gate`
    pub name: String,
    /// Extents of a row; empty where it is one value.
    pub row: Vec<usize>,
}

impl PlannedPart {
    /// Values in a row.
    pub fn width(&self) -> usize {
        self.row.iter().product()
    }
}

impl PlannedBuffer {
    /// Values of all parts.
    pub fn len(&self) -> usize {
        self.n_rows * self.parts.iter().map(PlannedPart::width).sum::<usize>()
    }

    /// True where the buffer holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn cpu_bytes(&self) -> usize {
        let bytes_per_value = if matches!(self.kind, Kind::F64 | Kind::Mask) { 8 } else { 4 };
        bytes_per_value * self.len()
    }
}

/// One parameter, or several that a device multiplies as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedParameter {
    /// A frozen vector.
    Vector(usize),
    /// A frozen matrix, `[rows, cols]`, or the copy of a trained one that products read.
    Matrix([usize; 2]),
    /// The matrices and biases of linear layers that read one input.
    Packed(PackedShape),
    /// A tensor to train, with its gradient and moments.
    Trained(usize),
}

/// What of a run, beside the model and its batches, sizes the buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// `adapted[i]`: module `i` of a block, in the order of [`MODULE_NAMES`], has a low-rank update.
    pub adapted: [bool; 7],
    /// Rank of the updates.
    pub lora_rank: usize,
    /// Whether training drops inputs of the updates.
    pub dropout: bool,
    /// Whether the backward pass computes a block's activations again: all blocks share one set.
    pub recompute: bool,
    /// Whether batches are preference pairs.
    pub pairs: bool,
}

/// All buffers of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// In the order of allocation.
    pub buffers: Vec<PlannedBuffer>,
    /// The model.
    pub parameters: Vec<PlannedParameter>,
    /// Rows of logits held at a time; 0 for an encoder.
    pub chunk_rows: usize,
    /// Names of the sets of block activations, a set for each block or one that all share: `layers.3`.
    pub activation_sets: Vec<String>,
}

impl MemoryPlan {
    pub(crate) fn empty() -> Self {
        Self { buffers: Vec::new(), parameters: Vec::new(), chunk_rows: 0, activation_sets: Vec::new() }
    }

    /// Plans for batches up to `budget`, whose steps' figures are logged in `log_rows` rows.
    ///
    /// A layer keeps 5.8 hidden widths a token for its backward pass (SmolLM2-135M); the normalised inputs and
    /// the MLP's product are computed again there, which saves 4 more for under 1% of the time.
    pub fn new(config: &DecoderConfig, budget: Budget, options: PlanOptions, device: DeviceSizes) -> Self {
        let PlanOptions { adapted, lora_rank, dropout, recompute, pairs } = options;
        let Budget { n_tokens, n_rows, n_edges, max_position, n_sequences, n_labels } = budget;
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let [q, k, v, o, gate, up, down] = adapted.map(|adapted| if adapted { lora_rank } else { 0 });
        let tail = |ranks: &[usize]| side_by_side(ranks);

        let activation_sets = match recompute {
            true => vec!["layers.shared".to_owned()],
            false => (0..config.num_hidden_layers).map(|layer| format!("layers.{layer}")).collect(),
        };
        let mut plan = Self { activation_sets: activation_sets.clone(), ..Self::empty() };
        plan.chunk_rows = (device.logits_values / config.vocab_size).clamp(1, n_rows.max(1));
        plan.add_step(device.log_rows);
        for (name, len) in [("token_ids", n_tokens), ("position", n_tokens)] {
            plan.add(Kind::Index, format!("batch.{name}"), &[len]);
        }
        plan.add(Kind::Mask, "batch.mask".into(), &[n_tokens]);
        for (name, len) in [("rows", n_rows), ("edge_start", n_rows + 1), ("edge_target", n_edges), ("argmax", n_rows)]
        {
            plan.add(Kind::Index, format!("batch.{name}"), &[len]);
        }
        for name in ["logprob", "d_logprob"] {
            plan.add(Kind::F32, format!("batch.{name}"), &[n_edges]);
        }
        if pairs {
            plan.add(Kind::Index, "pairs.example_start".into(), &[n_sequences + 1]);
            plan.add(Kind::Index, "pairs.example_edges".into(), &[n_labels]);
            plan.add(Kind::F64, "pairs.reference".into(), &[n_sequences]);
            plan.add(Kind::Index, "pairs.n_pairs".into(), &[1]);
            plan.add(Kind::F32, "pairs.n_step".into(), &[1]);
        }
        for name in ["rope.cos", "rope.sin"] {
            plan.add(Kind::F32, name.into(), &[max_position, head_dim / 2]);
        }
        for layer in 0..config.num_hidden_layers {
            plan.add(Kind::Act, format!("layers.{layer}.x"), &[n_tokens, hidden]);
        }
        plan.add(Kind::Act, "x_final".into(), &[n_tokens, hidden]);
        for set in activation_sets {
            let at = |name: &str| format!("{set}.{name}");
            plan.add(Kind::F32, at("rstd_attn"), &[n_tokens]);
            let (queries, keys): (&[usize], &[usize]) = (&[heads, head_dim], &[kv_heads, head_dim]);
            plan.add_beside(n_tokens, &[(at("q"), queries), (at("k"), keys), (at("v"), keys)], 0);
            plan.add_beside(n_tokens, &[(at("attn"), queries)], tail(&[o]));
            plan.add(Kind::F32, at("lse"), &[n_tokens, heads]);
            plan.add(Kind::Act, at("x_mid"), &[n_tokens, hidden]);
            plan.add(Kind::F32, at("rstd_mlp"), &[n_tokens]);
            plan.add_beside(n_tokens, &[(at("gate"), &[intermediate]), (at("up"), &[intermediate])], 0);
            plan.add_low_rank(n_tokens, &at("lora"), options);
        }
        plan.add_beside(n_tokens, &[("scratch.normed".into(), &[hidden])], tail(&[q, k, v]).max(tail(&[gate, up])));
        plan.add_beside(n_tokens, &[("scratch.mlp".into(), &[intermediate])], tail(&[down]));
        plan.add_beside(n_tokens, &[("scratch.dx".into(), &[hidden])], tail(&[down]));
        plan.add_beside(n_tokens, &[("scratch.dx_mid".into(), &[hidden])], tail(&[o]));
        plan.add(Kind::Act, "scratch.d_normed".into(), &[n_tokens, hidden]);
        plan.add(Kind::Act, "scratch.d_attn".into(), &[n_tokens, heads, head_dim]);
        let (queries, keys): (&[usize], &[usize]) = (&[heads, head_dim], &[kv_heads, head_dim]);
        let d_qkv =
            ["scratch.dq", "scratch.dk", "scratch.dv"].map(str::to_owned).into_iter().zip([queries, keys, keys]);
        plan.add_beside(n_tokens, &d_qkv.collect::<Vec<_>>(), tail(&[q, k, v]));
        plan.add(Kind::Act, "scratch.d_mlp".into(), &[n_tokens, intermediate]);
        let width: &[usize] = &[intermediate];
        let d_gate_up = ["scratch.d_gate", "scratch.d_up"].map(|name| (name.to_owned(), width));
        plan.add_beside(n_tokens, &d_gate_up, tail(&[gate, up]));
        plan.add_low_rank(n_tokens, "scratch.d_h", options);
        if dropout {
            let adapted = MODULE_PATHS.each().into_iter().zip(adapted).filter(|(_, adapted)| *adapted);
            let widest = adapted.map(|(path, _)| config.module_shape(path).1).max().unwrap_or(0);
            plan.add(Kind::Act, "scratch.dropped".into(), &[n_tokens, widest]);
            plan.add(Kind::Act, "scratch.d_dropped".into(), &[n_tokens, widest]);
            plan.add(Kind::Index, "dropout.seeds".into(), &[MODULE_NAMES.len() * config.num_hidden_layers, 2]);
        }
        plan.add(Kind::F32, "scratch.delta".into(), &[n_tokens, heads]);
        plan.add_head_scratch(config, n_tokens);
        if config.qk_norm {
            plan.add(Kind::Act, "scratch.normed_dq".into(), &[n_tokens, heads, head_dim]);
            plan.add(Kind::Act, "scratch.normed_dk".into(), &[n_tokens, kv_heads, head_dim]);
        }
        for name in ["x", "normed", "d_normed", "dx"] {
            plan.add(Kind::Act, format!("head.{name}"), &[n_rows, hidden]);
        }
        plan.add(Kind::F32, "head.rstd".into(), &[n_rows]);
        plan.add(Kind::Act, "head.logits".into(), &[plan.chunk_rows, config.vocab_size]);
        plan
    }

    /// Extents of the buffer of that name.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (buffer, part) = self.find(name)?;
        Some([&[buffer.n_rows], part.row.as_slice()].concat())
    }

    /// The buffer that the name is a part of.
    pub(crate) fn find(&self, name: &str) -> Option<(&PlannedBuffer, &PlannedPart)> {
        let parts = self.buffers.iter().flat_map(|buffer| buffer.parts.iter().map(move |part| (buffer, part)));
        parts.into_iter().find(|(_, part)| part.name == name)
    }

    /// What a step of the optimiser keeps.
    pub(crate) fn add_step(&mut self, log_rows: usize) {
        self.add(Kind::F32, "step.scalars".into(), &[SCALARS]);
        self.add(Kind::F64, "step.sums".into(), &[LOG_COLUMNS]);
        self.add(Kind::F32, "step.control".into(), &[2]);
        self.add(Kind::F64, "step.log".into(), &[log_rows, LOG_COLUMNS]);
    }

    /// What normalised heads take, in models that have them.
    pub(crate) fn add_head_scratch(&mut self, config: &DecoderConfig, n_tokens: usize) {
        let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        if config.qk_norm {
            self.add(Kind::Act, "scratch.normed_q".into(), &[n_tokens, heads, head_dim]);
            self.add(Kind::Act, "scratch.normed_k".into(), &[n_tokens, kv_heads, head_dim]);
            self.add(Kind::F32, "scratch.rstd_q".into(), &[n_tokens, heads]);
            self.add(Kind::F32, "scratch.rstd_k".into(), &[n_tokens, kv_heads]);
        }
    }

    /// `x A^T` of each adapted module of a block, those of one input side by side.
    pub(crate) fn add_low_rank(&mut self, n_tokens: usize, prefix: &str, options: PlanOptions) {
        let PlanOptions { adapted, lora_rank, .. } = options;
        let rank = [lora_rank];
        let named: Vec<_> = MODULE_NAMES.iter().zip(adapted).collect();
        for group in [0..3, 3..4, 4..6, 6..7] {
            let adapted = named[group].iter().filter(|(_, adapted)| *adapted);
            let parts: Vec<_> = adapted.map(|(name, _)| (format!("{prefix}.{name}"), &rank[..])).collect();
            if !parts.is_empty() {
                self.add_beside(n_tokens, &parts, 0);
            }
        }
    }

    /// A buffer of its own.
    pub(crate) fn add(&mut self, kind: Kind, name: String, shape: &[usize]) {
        let part = PlannedPart { name, row: shape[1..].to_vec() };
        self.buffers.push(PlannedBuffer { kind, n_rows: shape[0], parts: vec![part], tail: 0 });
    }

    /// Activations side by side, with room for `tail` more values behind each row.
    pub(crate) fn add_beside(&mut self, n_rows: usize, parts: &[(String, &[usize])], tail: usize) {
        let part = |(name, row): &(String, &[usize])| PlannedPart { name: name.clone(), row: row.to_vec() };
        let parts = parts.iter().map(part).collect();
        self.buffers.push(PlannedBuffer { kind: Kind::Act, n_rows, parts, tail });
    }

    /// Bytes that all buffers take on the CPU.
    pub fn cpu_bytes(&self) -> usize {
        self.buffers.iter().map(PlannedBuffer::cpu_bytes).sum()
    }
}

/// What of a device sizes the buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceSizes {
    /// Steps that are logged before the log is read: the loop waits for the device no more often.
    pub log_rows: usize,
    /// Logits held at a time.
    pub logits_values: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LORA: PlanOptions =
        PlanOptions { adapted: [true; 7], lora_rank: 8, dropout: false, recompute: false, pairs: false };
    const SIZES: DeviceSizes = DeviceSizes { log_rows: 1, logits_values: 8 << 20 };

    fn budget(n_tokens: usize, n_rows: usize) -> Budget {
        Budget { n_tokens, n_rows, n_edges: n_rows, max_position: 64, n_sequences: 4, n_labels: 100 }
    }

    /// Bytes that a token more takes.
    fn per_token(config: &DecoderConfig, options: PlanOptions) -> usize {
        let bytes = |n_tokens| MemoryPlan::new(config, budget(n_tokens, 10), options, SIZES).cpu_bytes();
        let per_token = bytes(101) - bytes(100);
        assert_eq!(bytes(1100) - bytes(100), 1000 * per_token, "the plan grows by the token alone");
        per_token
    }

    #[test]
    fn a_token_takes_what_its_buffers_take() {
        // By hand: 2 indices and the mask's two; per layer x, q, attn, x_mid of 48, k and v of 24, gate and up of 96, two
        // rstd, four lse and seven ranks; x_final and six of 48 in scratch, dk and dv, four of 96, seven ranks, four of delta.
        let per_layer = 4 * 48 + 2 * 24 + 2 * 96 + 2 + 4 + 7 * 8;
        let scratch = 7 * 48 + 2 * 24 + 4 * 96 + 7 * 8 + 4;
        let llama = crate::config::tests::llama();
        assert_eq!(per_token(&llama, LORA), 4 * (4 + 2 * per_layer + scratch));
        // Two buffers of the widest adapted input, that of the down projection.
        let dropout = PlanOptions { dropout: true, ..LORA };
        assert_eq!(per_token(&llama, dropout) - per_token(&llama, LORA), 4 * 2 * 96);
        // Normalised heads: four of 12, two of 12, their gradients, and a statistic for each.
        let qwen3 = DecoderConfig { qk_norm: true, ..llama.clone() };
        assert_eq!(per_token(&qwen3, LORA) - per_token(&llama, LORA), 4 * (2 * 6 * 12 + 6));
    }

    #[test]
    fn recomputation_keeps_the_inputs_of_the_blocks_and_one_set_of_activations() {
        let deep = |layers| DecoderConfig { num_hidden_layers: layers, ..crate::config::tests::llama() };
        let recompute = PlanOptions { recompute: true, ..LORA };
        assert_eq!(per_token(&deep(1), recompute), per_token(&deep(1), LORA));
        assert_eq!(per_token(&deep(30), recompute) - per_token(&deep(1), recompute), 29 * 4 * 48);
    }

    #[test]
    fn logits_are_held_in_chunks() {
        let config = DecoderConfig { vocab_size: 1 << 17, ..crate::config::tests::llama() };
        let plan = MemoryPlan::new(&config, budget(500, 400), LORA, SIZES);
        assert_eq!(plan.chunk_rows, 64);
        assert_eq!(plan.shape("head.logits").expect("planned"), [64, 1 << 17]);
    }
}
