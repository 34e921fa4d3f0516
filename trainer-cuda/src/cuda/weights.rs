//! Parameters in the arena: frozen ones as products read them, trained ones as the optimiser does, with a copy for products.

use super::Cuda;
use super::arena::Arena;
use super::launch::{Source, octets, quads, source};
use super::layout::{IMAGE_BYTES, PackedLayout, STAGED_BYTES, TrainedLayout};
use super::memory::Buffer;
use crate::config::Precision;
use crate::device::{PackedShape, Place, Trainable};
use crate::formats::{BlockType, StoredTensor};
use crate::plan::side_by_side;
use half::bf16;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

static ADAMW: Source = source!("adamw");
static DEQUANTIZE: Source = source!("dequantize");
static ROWS: Source = source!("rows");

/// A parameter.
pub struct Weight {
    pub(super) rows: usize,
    pub(super) cols: usize,
    storage: Storage,
}

enum Storage {
    /// A frozen vector in f32: a norm's.
    Vector(Buffer<f32>),
    /// A matrix in bf16, of its own or a part of a packed one; a packed bias.
    Matrix(Rows),
    /// The blocks of its file, row after row.
    Blocks { block: BlockType, bytes: Buffer<u8> },
    /// Values that the optimiser changes, and the matrix that follows them; a vector has none, but for a packed bias.
    Trained { values: Buffer<f32>, image: Option<(Image, Rc<Arena>)> },
}

/// Rows of bf16.
pub(super) struct Rows {
    pub(super) address: u64,
    pub(super) stride: usize,
    _arena: Rc<Arena>,
}

/// The copy in bf16 of a trained tensor: value `(r, c)` times `scale` is at `to + r row_stride + c`, and once more transposed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Image {
    /// The tensor's first value among all that are trained.
    start: u64,
    to: u64,
    transposed_to: u64,
    rows: i32,
    cols: i32,
    row_stride: i32,
    transposed_row_stride: i32,
    scale: f32,
    /// Every byte of an entry is written.
    _padding: u32,
}

const _: () = assert!(size_of::<Image>() == IMAGE_BYTES);

/// A table of images as kernels take it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Images {
    image: u64,
    n: i32,
}

/// All trained tensors: values, gradients and moments, each one behind the other in the same order.
pub(super) struct Trained {
    values: Buffer<f32>,
    grads: Buffer<f32>,
    exp_avg: Buffer<f32>,
    exp_avg_sq: Buffer<f32>,
    table: Buffer<u8>,
    used: Cell<usize>,
    images: RefCell<Vec<Image>>,
}

/// What AdamW's kernels take beside the tensors.
pub struct Optimizer {
    pub(super) values: u64,
    pub(super) grads: u64,
    pub(super) exp_avg: u64,
    pub(super) exp_avg_sq: u64,
    /// Of each of the four.
    pub(super) n_values: usize,
    pub(super) images: Images,
    _arena: Rc<Arena>,
}

/// Linear layers that read one input, as one matrix: see [`PackedLayout`].
pub struct Packed {
    pub(super) layout: PackedLayout,
    /// The whole matrix, or where blocks stay as they are, only its lower rows.
    matrix: u64,
    /// `s B` apart, where blocks stay as they are.
    b: u64,
    /// `(s B)^T`.
    pub(super) b_transposed: u64, // [rank, out]
    /// Of all modules, zero for those without; 0 where none has one.
    pub(super) bias: u64, // [out]
    blocks: RefCell<Vec<Option<(u64, BlockType)>>>,
    arena: Rc<Arena>,
}

impl Weight {
    /// Of a norm.
    pub(super) fn vector(&self) -> &Buffer<f32> {
        match &self.storage {
            Storage::Vector(values) | Storage::Trained { values, image: None } => values,
            _ => panic!("a matrix where a vector is wanted"),
        }
    }

    /// Address and row stride of the bf16 matrix that products read.
    pub(super) fn matrix(&self) -> (u64, usize) {
        match &self.storage {
            Storage::Matrix(Rows { address, stride, .. }) => (*address, *stride),
            Storage::Trained { image: Some((image, _)), .. } => (image.to, image.row_stride as usize),
            _ => panic!("a vector where a matrix is wanted"),
        }
    }
}

impl Packed {
    /// Where `A` of each module is, one below the other; and the distance of its rows.
    pub(super) fn a(&self) -> (u64, usize) {
        let stride = self.layout.stride();
        let rows_above = if self.layout.quantized { 0 } else { self.layout.out_padded };
        (self.matrix + (2 * rows_above * stride) as u64, stride)
    }
}

impl Trained {
    pub(super) fn new(cuda: &Cuda, layout: TrainedLayout) -> Self {
        let buffer = |name| cuda.alloc(layout.n_values, name);
        Self {
            values: buffer("trained values"),
            grads: buffer("gradients"),
            exp_avg: buffer("first moments"),
            exp_avg_sq: buffer("second moments"),
            table: cuda.alloc(IMAGE_BYTES * layout.n_tensors, "trained tensors"),
            used: Cell::new(0),
            images: RefCell::default(),
        }
    }
}

impl Cuda {
    pub(super) fn pack_modules(&self, shape: &PackedShape) -> Packed {
        let (layout, arena) = (PackedLayout::new(shape), self.arena());
        let zeroed = |bytes: usize, name: &str| {
            let address = arena.take(bytes, name);
            self.zero(address, bytes);
            address
        };
        let (rank, out) = (layout.rank_padded, layout.out_padded);
        let (matrix, b, mut blocks) = match layout.quantized {
            false => (zeroed(2 * layout.rows() * layout.stride(), "packed matrix"), 0, Vec::new()),
            true => {
                let blocks = layout
                    .block_bytes
                    .iter()
                    .zip(&shape.modules)
                    .map(|(&bytes, module)| Some((arena.take(bytes, "blocks of a matrix"), module.stored)));
                let blocks = blocks.collect();
                (zeroed(2 * rank * layout.stride(), "packed A"), zeroed(2 * out * rank, "packed B"), blocks)
            }
        };
        blocks.resize(shape.modules.len(), None);
        let b_transposed = zeroed(2 * rank * out, "packed B, transposed");
        let bias = if layout.bias { zeroed(2 * out, "packed bias") } else { 0 };
        Packed { layout, matrix, b, b_transposed, bias, blocks: RefCell::new(blocks), arena }
    }

    /// The packed matrix in bf16: where it lies, or dequantised into the memory that all share. Its lower right corner,
    /// which no product reads, is of no meaning.
    pub(super) fn packed_matrix(&self, packed: &Packed) -> u64 {
        let layout = &packed.layout;
        if !layout.quantized {
            return packed.matrix;
        }
        let (to, stride, rank) = (self.dequantized.get(), layout.stride(), layout.rank_padded);
        let blocks = packed.blocks.borrow();
        let whole: usize = layout.out_padded;
        for (module, block) in blocks.iter().enumerate() {
            let Some((address, block)) = *block else { continue };
            let end = layout.out_start.get(module + 1).copied().unwrap_or(whole);
            let start = layout.out_start[module];
            let (values, bytes) = block.block();
            let rows = layout.block_bytes[module] / (layout.in_padded / values * bytes);
            let first = to + (2 * start * stride) as u64;
            self.dequantize(first, stride, address, block, rows, layout.in_padded);
            // Rows of padding, which another matrix may have left its own values in.
            let padding = end - start - rows;
            self.zero(first + (2 * rows * stride) as u64, 2 * padding * stride);
        }
        self.copy_rows(to + 2 * layout.in_padded as u64, stride, packed.b, rank, layout.out_padded, rank);
        let (a, _) = packed.a();
        self.copy_rows(to + (2 * layout.out_padded * stride) as u64, stride, a, stride, rank, layout.in_padded);
        to
    }

    pub(super) fn upload_matrix(
        &self,
        tensor: &StoredTensor<'_>,
        precision: Precision,
        place: Place<'_, Self>,
    ) -> Weight {
        let (rows, cols, arena) = (tensor.rows(), tensor.cols(), self.arena());
        if let Place::Weight(packed, module) = place
            && packed.layout.quantized
        {
            let (address, block) = packed.blocks.borrow()[module].expect("each module has its blocks");
            assert_eq!((precision, block), (Precision::Quantized, tensor.block_type()), "as the layers were packed");
            self.write(address, tensor.bytes());
            let bytes = Buffer::new(&packed.arena, address, tensor.bytes().len());
            return Weight { rows, cols, storage: Storage::Blocks { block, bytes } };
        }
        let (address, stride) = match place {
            Place::Weight(packed, module) => {
                let stride = packed.layout.stride();
                (packed.matrix + (2 * packed.layout.out_start[module] * stride) as u64, stride)
            }
            _ => {
                let stride = side_by_side(&[cols]);
                let address = arena.take(2 * rows * stride, "matrix");
                if stride > cols {
                    self.zero(address, 2 * rows * stride);
                }
                (address, stride)
            }
        };
        // Through the staging memory, as many rows at a time as it holds.
        let rows_at_once = (STAGED_BYTES / tensor.row_bytes().max(1)).max(1);
        assert!(tensor.row_bytes() <= STAGED_BYTES, "a row of {} bytes", tensor.row_bytes());
        let staged = self.staged.get();
        for first in (0..rows).step_by(rows_at_once) {
            let n = rows_at_once.min(rows - first);
            self.write(staged, &tensor.bytes()[first * tensor.row_bytes()..][..n * tensor.row_bytes()]);
            self.dequantize(address + (2 * first * stride) as u64, stride, staged, tensor.block_type(), n, cols);
        }
        Weight { rows, cols, storage: Storage::Matrix(Rows { address, stride, _arena: arena }) }
    }

    pub(super) fn upload_values(&self, values: &[f32], place: Place<'_, Self>) -> Weight {
        let (rows, cols) = (1, values.len());
        let Place::Bias(packed, module) = place else {
            let buffer = self.alloc(cols, "vector");
            self.write(buffer.address(), values);
            return Weight { rows, cols, storage: Storage::Vector(buffer) };
        };
        let address = packed.bias + 2 * packed.layout.out_start[module] as u64;
        let values: Vec<bf16> = values.iter().map(|&value| bf16::from_f32(value)).collect();
        self.write(address, &values);
        Weight { rows, cols, storage: Storage::Matrix(Rows { address, stride: cols, _arena: packed.arena.clone() }) }
    }

    pub(super) fn upload_tensor(
        &self,
        name: String,
        values: &[f32],
        rows: usize,
        cols: usize,
        place: Place<'_, Self>,
    ) -> Trainable<Self> {
        assert_eq!(values.len(), rows * cols, "values of `{name}`, [{rows}, {cols}]");
        let arena = self.arena();
        let trained = self.trained.borrow();
        let trained = trained.as_ref().expect("memory is reserved before it is taken");
        let start = trained.used.get();
        trained.used.set(start + TrainedLayout::padded(rows * cols));
        assert!(trained.used.get() <= trained.values.len(), "`{name}` is not in the memory plan");
        let part = |all: &Buffer<f32>| Buffer::new(&arena, all.address() + 4 * start as u64, rows * cols);

        let mut image = Image {
            start: start as u64,
            to: 0,
            transposed_to: 0,
            rows: rows as i32,
            cols: cols as i32,
            row_stride: cols as i32,
            transposed_row_stride: 0,
            scale: 1.0,
            _padding: 0,
        };
        match place {
            Place::Weight(packed, module) => {
                let stride = packed.layout.stride();
                image.to = packed.matrix + (2 * packed.layout.out_start[module] * stride) as u64;
                image.row_stride = stride as i32;
            }
            Place::Bias(packed, module) => image.to = packed.bias + 2 * packed.layout.out_start[module] as u64,
            Place::A(packed, module) => {
                let (a, stride) = packed.a();
                image.to = a + (2 * packed.layout.rank_start[module] * stride) as u64;
                image.row_stride = stride as i32;
            }
            Place::B(packed, module, scaling) => {
                let PackedLayout { in_padded, out_start, out_padded, rank_start, rank_padded, quantized, .. } =
                    &packed.layout;
                let (out, rank) = (out_start[module], rank_start[module]);
                (image.to, image.row_stride) = match quantized {
                    true => (packed.b + 2 * (out * rank_padded + rank) as u64, *rank_padded as i32),
                    false => {
                        let stride = packed.layout.stride();
                        (packed.matrix + 2 * (out * stride + in_padded + rank) as u64, stride as i32)
                    }
                };
                image.scale = scaling;
                image.transposed_to = packed.b_transposed + 2 * (rank * out_padded + out) as u64;
                image.transposed_row_stride = *out_padded as i32;
            }
            Place::Matrix => {
                let stride = side_by_side(&[cols]);
                image.to = arena.take(2 * rows * stride, "copy of a trained matrix");
                self.zero(image.to, 2 * rows * stride);
                image.row_stride = stride as i32;
            }
            Place::Vector => {}
        }
        trained.images.borrow_mut().push(image);
        let image = (image.to != 0).then(|| (image, arena.clone()));
        let weight = Weight { rows, cols, storage: Storage::Trained { values: part(&trained.values), image } };
        self.write_trained(&weight, values);
        Trainable {
            name,
            weight,
            grad: part(&trained.grads),
            exp_avg: part(&trained.exp_avg),
            exp_avg_sq: part(&trained.exp_avg_sq),
        }
    }

    /// Overwrites a trained tensor, and what products read of it.
    pub(super) fn write_trained(&self, weight: &Weight, values: &[f32]) {
        let Storage::Trained { values: buffer, image } = &weight.storage else {
            panic!("a frozen parameter can't be written");
        };
        self.write(buffer.address(), values);
        if let Some((image, _)) = image {
            // A table of one tensor, in memory that no kernel needs between two launches.
            let table = self.workspace.get();
            self.write(table, &[Image { start: 0, ..*image }]);
            let n_values = TrainedLayout::padded(values.len());
            self.kernel(&ADAMW, "refresh_images")
                .address(buffer.address())
                .by_value(Images { image: table, n: 1 })
                .size(n_values)
                .launch(quads(n_values));
        }
    }

    pub(super) fn read_parameter(&self, weight: &Weight) -> Vec<f32> {
        let (rows, cols) = (weight.rows, weight.cols);
        match &weight.storage {
            Storage::Vector(values) | Storage::Trained { values, .. } => self.read(values.address(), rows * cols),
            Storage::Matrix(Rows { address, stride, .. }) => {
                let values: Vec<u16> = self.read(*address, (rows - 1) * stride + cols);
                let rows = values.chunks(*stride).flat_map(|row| &row[..cols]);
                rows.map(|&bits| bf16::from_bits(bits).to_f32()).collect()
            }
            Storage::Blocks { block, bytes } => block.dequantize(&self.read::<u8>(bytes.address(), bytes.len())),
        }
    }

    pub(super) fn make_optimizer(&self) -> Optimizer {
        let trained = self.trained.borrow();
        let trained = trained.as_ref().expect("memory is reserved before it is taken");
        let images = trained.images.borrow();
        self.write(trained.table.address(), &images);
        Optimizer {
            values: trained.values.address(),
            grads: trained.grads.address(),
            exp_avg: trained.exp_avg.address(),
            exp_avg_sq: trained.exp_avg_sq.address(),
            n_values: trained.used.get(),
            images: Images { image: trained.table.address(), n: images.len() as i32 },
            _arena: trained.values.arena().clone(),
        }
    }

    fn dequantize(&self, to: u64, stride: usize, blocks: u64, block: BlockType, rows: usize, cols: usize) {
        self.kernel(&DEQUANTIZE, "dequantize")
            .address(to)
            .int(stride)
            .address(blocks)
            .int(kernel_number(block))
            .int(rows)
            .int(cols)
            .launch(octets(rows, cols));
    }

    pub(super) fn copy_rows(&self, to: u64, to_stride: usize, from: u64, stride: usize, n_rows: usize, width: usize) {
        self.kernel(&ROWS, "copy_rows")
            .address(to)
            .int(to_stride)
            .address(from)
            .int(stride)
            .int(n_rows)
            .int(width)
            .launch(octets(n_rows, width));
    }
}

/// The number that `dequantize.cu` knows a block type by: ggml's.
fn kernel_number(block: BlockType) -> usize {
    match block {
        BlockType::F32 => 0,
        BlockType::F16 => 1,
        BlockType::Q4_0 => 2,
        BlockType::Q4_1 => 3,
        BlockType::Q5_0 => 6,
        BlockType::Q5_1 => 7,
        BlockType::Q8_0 => 8,
        BlockType::Q4K => 12,
        BlockType::Q5K => 13,
        BlockType::Q6K => 14,
        BlockType::BF16 => 30,
    }
}
