//! How things lie in a GPU's memory, as arithmetic: the arena is as large as this says, and nothing is allocated beside it.

use crate::config::Precision;
use crate::device::PackedShape;
use crate::formats::BlockType;
use crate::plan::{
    DeviceSizes, Kind, MemoryPlan, PlannedBuffer, PlannedParameter, PlannedPart, ROW_ALIGNMENT, side_by_side,
};

/// 16 steps of SmolLM2-135M are a quarter of a second on an H100. 128 Mi logits are 256 MiB, 2,730 rows of its vocabulary
/// and 1,046 of Llama 3's: enough of them to fill the machine.
pub const SIZES: DeviceSizes = DeviceSizes { log_rows: 16, logits_values: 128 << 20 };

/// Whatever lies in the arena starts at a multiple of so many bytes.
pub const ALIGNMENT: usize = 256;
/// Keys of a tile of attention.
pub const MASK_TILE: usize = 64;
/// For cuBLASLt: what NVIDIA recommends on Hopper. Partial sums of our own kernels lie there too: no two kernels run at once.
pub const WORKSPACE_BYTES: usize = 32 << 20;
/// Counters of blocks that are done, zero between kernels.
pub const COUNTERS: usize = 4096;
/// Bytes of an entry of the optimiser's table of tensors.
pub const IMAGE_BYTES: usize = 48;
/// Trained tensors start at a multiple of so many f32 values.
const TRAINED_ALIGNMENT: usize = 4;

const BF16: usize = 2;
const F32: usize = 4;

/// Bytes that something takes in the arena.
pub fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Bytes of everything that `plan` lists, and of the workspaces.
pub fn arena_bytes(plan: &MemoryPlan) -> usize {
    let buffers = plan.buffers.iter().map(buffer_bytes).sum::<usize>();
    buffers + parameters_bytes(&plan.parameters) + workspaces_bytes()
}

/// Bytes of what every run has.
pub fn workspaces_bytes() -> usize {
    aligned(WORKSPACE_BYTES) + aligned(F32 * COUNTERS)
}

/// Bytes of a buffer.
pub fn buffer_bytes(buffer: &PlannedBuffer) -> usize {
    let len = buffer.len();
    match buffer.kind {
        Kind::Act => {
            let widths: Vec<usize> = buffer.parts.iter().map(PlannedPart::width).collect();
            aligned(BF16 * buffer.n_rows * (side_by_side(&widths) + buffer.tail))
        }
        Kind::F32 | Kind::Index => aligned(4 * len),
        Kind::F64 => aligned(8 * len),
        Kind::Mask => 2 * aligned(4 * len) + 2 * aligned(4 * len.div_ceil(MASK_TILE)),
    }
}

/// Bytes of all parameters, and of what the optimiser and dequantised matrices need.
pub fn parameters_bytes(parameters: &[PlannedParameter]) -> usize {
    let own: usize = parameters
        .iter()
        .map(|parameter| match parameter {
            PlannedParameter::Vector(len) => aligned(F32 * len),
            &PlannedParameter::Matrix([rows, cols]) => aligned(BF16 * rows * side_by_side(&[cols])),
            PlannedParameter::Packed(shape) => PackedLayout::new(shape).bytes(),
            PlannedParameter::Trained(_) => 0,
        })
        .sum();
    let trained = TrainedLayout::new(parameters);
    own + trained.bytes() + aligned(dequantized_bytes(parameters)) + aligned(staging_bytes(parameters))
}

/// Bytes of the largest matrix that is dequantised for each product; 0 where there is none.
pub fn dequantized_bytes(parameters: &[PlannedParameter]) -> usize {
    let packed = parameters.iter().filter_map(|parameter| match parameter {
        PlannedParameter::Packed(shape) => Some(PackedLayout::new(shape)),
        _ => None,
    });
    packed.filter(|layout| layout.quantized).map(|layout| BF16 * layout.rows() * layout.stride()).max().unwrap_or(0)
}

/// Bytes of a matrix as its file has it that are on their way to the kernel which turns them into bf16.
pub const STAGED_BYTES: usize = 8 << 20;

/// Bytes of [`STAGED_BYTES`], where there are parameters.
pub fn staging_bytes(parameters: &[PlannedParameter]) -> usize {
    if parameters.is_empty() { 0 } else { STAGED_BYTES }
}

/// The trained tensors, one behind the other, four times: values, gradients, both moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainedLayout {
    /// f32 values of each of the four.
    pub n_values: usize,
    /// Tensors.
    pub n_tensors: usize,
}

impl TrainedLayout {
    /// Of those among `parameters`.
    pub fn new(parameters: &[PlannedParameter]) -> Self {
        let trained = parameters.iter().filter_map(|parameter| match parameter {
            PlannedParameter::Trained(len) => Some(Self::padded(*len)),
            _ => None,
        });
        trained.fold(Self { n_values: 0, n_tensors: 0 }, |all, len| Self {
            n_values: all.n_values + len,
            n_tensors: all.n_tensors + 1,
        })
    }

    /// Values that a tensor of `len` takes.
    pub fn padded(len: usize) -> usize {
        len.next_multiple_of(TRAINED_ALIGNMENT)
    }

    /// Bytes of all four, and of the table of tensors.
    pub fn bytes(self) -> usize {
        4 * aligned(F32 * self.n_values) + aligned(IMAGE_BYTES * self.n_tensors)
    }
}

/// Linear layers that read one input as one matrix of bf16, with room for their low-rank updates:
///
/// ```text
///                 in            rank
///        +-----------------+----------+
///   out  |  W of module 0  |  s B     |   s B of module i stands in the columns of its own rank:
///        |  W of module 1  |      s B |   [x | h] times the upper rows is x W^T + s h B^T
///        +-----------------+----------+
///  rank  |  A of module 0  |    0     |   [dy | d_h] times the left columns is dy W + d_h A
///        |  A of module 1  |          |
///        +-----------------+----------+
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedLayout {
    /// Columns of the matrices, padded.
    pub in_padded: usize,
    /// First row of each module.
    pub out_start: Vec<usize>,
    /// Rows of all, each padded.
    pub out_padded: usize,
    /// First column of each module behind `in_padded`, first row behind `out_padded`.
    pub rank_start: Vec<usize>,
    /// Of all, each padded.
    pub rank_padded: usize,
    /// Whether the matrices lie as the blocks of their file, and are dequantised for each product.
    pub quantized: bool,
    /// Bytes of each module's blocks; empty otherwise.
    pub block_bytes: Vec<usize>,
    /// Whether any module has a bias.
    pub bias: bool,
}

impl PackedLayout {
    /// Of layers of that shape.
    pub fn new(shape: &PackedShape) -> Self {
        let starts = |widths: &dyn Fn(usize) -> usize| {
            let mut end = 0;
            let starts: Vec<usize> = (0..shape.modules.len())
                .map(|module| {
                    let start = end;
                    end += widths(module).next_multiple_of(ROW_ALIGNMENT);
                    start
                })
                .collect();
            (starts, end)
        };
        let (out_start, out_padded) = starts(&|module| shape.modules[module].out_features);
        let (rank_start, rank_padded) = starts(&|module| shape.modules[module].rank);
        let is_block = |stored: BlockType| !matches!(stored, BlockType::F32 | BlockType::F16 | BlockType::BF16);
        let quantized =
            shape.precision == Precision::Quantized && shape.modules.iter().any(|module| is_block(module.stored));
        let block_bytes = shape.modules.iter().map(|module| {
            let (values, bytes) = module.stored.block();
            module.out_features * (shape.in_features / values * bytes)
        });
        Self {
            in_padded: shape.in_features.next_multiple_of(ROW_ALIGNMENT),
            out_start,
            out_padded,
            rank_start,
            rank_padded,
            quantized,
            block_bytes: if quantized { block_bytes.collect() } else { Vec::new() },
            bias: shape.modules.iter().any(|module| module.bias),
        }
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.out_padded + self.rank_padded
    }

    /// Distance of two rows in values.
    pub fn stride(&self) -> usize {
        self.in_padded + self.rank_padded
    }

    /// Bytes of everything that belongs to these layers.
    pub fn bytes(&self) -> usize {
        let matrix = match self.quantized {
            false => aligned(BF16 * self.rows() * self.stride()),
            // The blocks, and the updates apart from them.
            true => {
                let blocks: usize = self.block_bytes.iter().map(|&bytes| aligned(bytes)).sum();
                blocks
                    + aligned(BF16 * self.rank_padded * self.stride())
                    + aligned(BF16 * self.out_padded * self.rank_padded)
            }
        };
        // (s B)^T once more, rank by out: what d_h = s dy B reads row by row.
        let transposed = aligned(BF16 * self.rank_padded * self.out_padded);
        matrix + transposed + if self.bias { aligned(BF16 * self.out_padded) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::PackedModule;

    fn module(out_features: usize, rank: usize, stored: BlockType) -> PackedModule {
        PackedModule { out_features, rank, bias: false, stored, trained: false }
    }

    #[test]
    fn modules_and_ranks_start_at_multiples_of_eight() {
        let modules =
            vec![module(12, 4, BlockType::BF16), module(6, 0, BlockType::BF16), module(6, 9, BlockType::BF16)];
        let layout = PackedLayout::new(&PackedShape { in_features: 20, modules, precision: Precision::F32 });
        assert_eq!((layout.in_padded, layout.out_start.as_slice(), layout.out_padded), (24, &[0, 16, 24][..], 32));
        assert_eq!((layout.rank_start.as_slice(), layout.rank_padded), (&[0, 8, 8][..], 24));
        assert_eq!(layout.bytes(), aligned(2 * (32 + 24) * (24 + 24)) + aligned(2 * 24 * 32));
    }

    #[test]
    fn blocks_stay_as_they_are_where_the_precision_says_so() {
        let modules = vec![module(32, 8, BlockType::Q4_0)];
        let shape = |precision| PackedShape { in_features: 64, modules: modules.clone(), precision };
        assert!(!PackedLayout::new(&shape(Precision::Bf16)).quantized);
        let layout = PackedLayout::new(&shape(Precision::Quantized));
        // Two blocks of 18 bytes a row.
        assert_eq!((layout.quantized, layout.block_bytes.as_slice()), (true, &[32 * 2 * 18][..]));
        let planned = PlannedParameter::Packed(shape(Precision::Quantized));
        assert_eq!(dequantized_bytes(&[planned]), 2 * (32 + 8) * (64 + 8));
    }
}
