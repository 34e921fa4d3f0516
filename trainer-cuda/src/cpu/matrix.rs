//! Parameters of the CPU device: row-major where they are trained, in the products' own layout where they are frozen.

use half::bf16;

use super::pages::Pages;
use super::parallel::rows;
use super::simd::{LANES, Lanes, Pairs, Simd, dispatch};
use super::transpose::rows_to_lanes;
use super::{Cpu, gemm_pack};
use crate::config::Precision;
use crate::formats::{BlockType, StoredTensor};

/// A parameter `[rows, cols]`.
pub struct Matrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) storage: Storage,
}

/// A forward product has sixteen rows of the matrix in its lanes, so panels of sixteen rows are multiplied where they
/// lie; the backward product transposes sixteen by sixteen of them at a time. There is no second copy.
pub(super) enum Storage {
    /// Row-major `[rows, cols]`: what is trained, and vectors.
    Rows(Vec<f32>),
    /// `[rows / 16, cols, 16]`; rows past the last are zero.
    Panels(Pages<Lanes>),
    /// `[rows / 16, cols / 2, 16, 2]`: neighbours of a row are a pair, as bf16 dot products want them.
    PairPanels {
        pairs: Pages<Pairs>,
        /// Whether products may round the other factor to bf16.
        round: bool,
    },
    /// Row-major blocks, as in the file.
    Blocks { block: BlockType, bytes: Vec<u8> },
}

impl Matrix {
    /// A trained parameter, or a vector.
    pub(super) fn new(values: Vec<f32>, rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "values of a [{rows}, {cols}] parameter");
        Matrix { rows, cols, storage: Storage::Rows(values) }
    }

    /// A frozen matrix.
    pub(super) fn frozen(cpu: &Cpu, tensor: &StoredTensor<'_>, precision: Precision) -> Self {
        let storage = match (precision, tensor.block_type()) {
            (Precision::F32, _) | (Precision::Quantized, BlockType::F32) => Storage::Panels(panels(cpu, tensor)),
            (Precision::Bf16, _) => Storage::PairPanels { pairs: pair_panels(cpu, tensor), round: true },
            (Precision::Quantized, BlockType::BF16) => {
                Storage::PairPanels { pairs: pair_panels(cpu, tensor), round: false }
            }
            (Precision::Quantized, block) => Storage::Blocks { block, bytes: tensor.bytes().to_vec() },
        };
        Matrix { rows: tensor.rows(), cols: tensor.cols(), storage }
    }

    /// Bytes that its values take.
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::Rows(values) => size_of_val(values.as_slice()),
            Storage::Panels(panels) => size_of_val(panels.as_slice()),
            Storage::PairPanels { pairs, .. } => size_of_val(pairs.as_slice()),
            Storage::Blocks { bytes, .. } => bytes.len(),
        }
    }

    /// The values of a trained parameter or a vector, row-major.
    pub(super) fn values(&self) -> &[f32] {
        match &self.storage {
            Storage::Rows(values) => values,
            _ => panic!("a frozen matrix has no values that are row-major f32"),
        }
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::Rows(values) => values,
            _ => panic!("a frozen matrix can't be written"),
        }
    }

    /// Copies a row.
    pub(super) fn read_row(&self, row: usize, values: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let (panel, lane) = (row / LANES, row % LANES);
        match &self.storage {
            Storage::Rows(all) => values.copy_from_slice(&all[row * self.cols..][..self.cols]),
            Storage::Panels(lanes) => {
                for (value, lanes) in values.iter_mut().zip(&lanes.as_slice()[panel * self.cols..]) {
                    *value = lanes.0[lane];
                }
            }
            Storage::PairPanels { pairs, .. } => {
                let pairs = &pairs.as_slice()[panel * self.cols.div_ceil(2)..];
                for (values, pairs) in values.chunks_mut(2).zip(pairs) {
                    for (value, stored) in values.iter_mut().zip(pairs.0[lane]) {
                        *value = stored.to_f32();
                    }
                }
            }
            Storage::Blocks { block, bytes } => {
                block.decode(&bytes[gemm_pack::row_bytes(*block, self.cols, row)..], values);
            }
        }
    }
}

/// Sixteen rows at a time, so that no copy of the whole tensor exists in f32.
fn panels(cpu: &Cpu, tensor: &StoredTensor<'_>) -> Pages<Lanes> {
    let (n_rows, cols) = (tensor.rows(), tensor.cols());
    let n_panels = n_rows.div_ceil(LANES);
    let mut panels = Pages::zeroed(n_panels * cols);
    cpu.for_rows(n_panels, 1, rows(panels.as_mut_slice(), n_panels, cols), |range, panels| {
        let mut values = vec![0.0; LANES * cols];
        for (panel, lanes) in range.zip(panels.into_slice().chunks_exact_mut(cols)) {
            let values = &mut values[..(n_rows - panel * LANES).min(LANES) * cols];
            tensor.read_rows(panel * LANES, values);
            transpose(cpu.simd, lanes, values, cols);
        }
    });
    panels
}

dispatch! { fn transpose = transpose_simd(lanes: &mut [Lanes], values: &[f32], cols: usize) }

#[inline(always)]
fn transpose_simd<S: Simd>(lanes: &mut [Lanes], values: &[f32], cols: usize) {
    rows_to_lanes::<S>(lanes, 1, cols, values.len() / cols, |row| &values[row * cols..][..cols]);
}

fn pair_panels(cpu: &Cpu, tensor: &StoredTensor<'_>) -> Pages<Pairs> {
    let (n_rows, cols) = (tensor.rows(), tensor.cols());
    let (n_panels, n_pairs) = (n_rows.div_ceil(LANES), cols.div_ceil(2));
    let mut panels: Pages<Pairs> = Pages::zeroed(n_panels * n_pairs);
    cpu.for_rows(n_panels, 1, rows(panels.as_mut_slice(), n_panels, n_pairs), |range, panels| {
        let mut values = vec![0.0; cols];
        for (panel, pairs) in range.zip(panels.into_slice().chunks_exact_mut(n_pairs)) {
            for lane in 0..(n_rows - panel * LANES).min(LANES) {
                tensor.read_rows(panel * LANES + lane, &mut values);
                for (pairs, values) in pairs.iter_mut().zip(values.chunks(2)) {
                    for (stored, value) in pairs.0[lane].iter_mut().zip(values) {
                        *stored = bf16::from_f32(*value);
                    }
                }
            }
        }
    });
    panels
}
