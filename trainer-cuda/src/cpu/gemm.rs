//! Matrix products: one driver for every layout, after BLIS (Van Zee & van de Geijn 2015).
//!
//! The factor B is panels of sixteen columns, k after k: a frozen weight lies so in memory and is multiplied where it
//! is; any other is packed, a group of columns at a time, by the thread that multiplies it. A is read where it lies,
//! unless its rows are too far apart. K is never split over threads and its blocks depend on the factors' layout and on
//! `k` alone: the same bytes on any number of threads, and for any number of rows beside a row.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::elementwise::GRAIN;
use super::gemm_pack::{Factor, pack, pack_rows};
use super::gemm_tiles::{Panels, Rows, Target, multiply_tiles};
use super::parallel::rows;
use super::simd::{LANES, Lanes};
use super::{Cpu, bf16_products};

/// Panels of B that a tile multiplies together: 48 columns, the width of the AVX-512 tile.
pub(super) const PANELS: usize = 3;
/// Longest piece of K: 48 columns of B are then 144 KiB, which stay in an L2 of 256 KiB while all rows pass.
const K_BLOCK: usize = 768;
/// Words of packed or rounded A: 4 MiB, pieces of K of `A_DEPTH` by 512 rows or more.
const A_WORDS: usize = 1 << 20;
const A_DEPTH: usize = 2048;
/// Rows of A farther apart than this are packed: eight of them would share cache sets and pages' entries.
const FAR: usize = 16 * 1024;
/// Up to this depth (the rank of an update) C is most of the traffic: it is walked row by row, past all of B at once.
const THIN: usize = 32;
/// Vectors of products that make a task: some 5 us, several times what handing it to a thread costs.
const TASK: usize = 20_000;

thread_local! {
    /// Each thread's packed columns of B, allocated by its first product.
    static PACKED_B: RefCell<Vec<Lanes>> = RefCell::new(vec![Lanes::ZERO; K_BLOCK * PANELS]);
}

/// Packed or rounded rows of A, shared by the threads of one product.
pub(super) struct Scratch(Mutex<Vec<Lanes>>);

impl Scratch {
    pub(super) fn new() -> Self {
        Scratch(Mutex::new(vec![Lanes::ZERO; A_WORDS / LANES]))
    }

    /// To be called outside of the pool: a thread of it that waited here could hold up the owner.
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Lanes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A factor in f32, seen as lanes (rows of A, columns of B) by k.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) data: &'a [f32],
    pub(super) lane_stride: usize,
    pub(super) k_stride: usize,
}

impl<'a> Operand<'a> {
    /// Row-major with k along the rows: A as stored, B transposed.
    pub(super) fn k_contiguous(data: &'a [f32], k: usize) -> Self {
        Operand { data, lane_stride: k, k_stride: 1 }
    }

    /// Row-major with k down the columns: A transposed, B as stored.
    pub(super) fn lane_contiguous(data: &'a [f32], lanes: usize) -> Self {
        Operand { data, lane_stride: 1, k_stride: lanes }
    }

    fn assert_holds(&self, lanes: usize, k: usize) {
        let last = (lanes - 1) * self.lane_stride + (k - 1) * self.k_stride;
        assert!(last < self.data.len(), "{lanes} by {k} values in {}", self.data.len());
    }
}

/// Sizes of a product `[m, k] x [k, n]`, its factor, and where it goes.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) alpha: f32,
    /// It is added to what C holds.
    pub(super) accumulate: bool,
    /// C is `[n, m]`.
    pub(super) transposed: bool,
}

impl Product {
    /// `c = a b`.
    pub(super) fn new(m: usize, n: usize, k: usize) -> Self {
        Product { m, n, k, alpha: 1.0, accumulate: false, transposed: false }
    }
}

/// `c = alpha * a b`, or `c += alpha * a b`.
pub(super) fn gemm(cpu: &Cpu, c: &mut [f32], a: Operand<'_>, b: Factor<'_>, product: Product) {
    let Product { m, n, k, alpha, accumulate, transposed } = product;
    let c = &mut c[..m * n];
    if k == 0 && !accumulate {
        c.fill(0.0);
    }
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    a.assert_holds(m, k);
    let (row_stride, col_stride) = if transposed { (1, m) } else { (n, 1) };
    let c = c.as_mut_ptr();
    let target = |accumulate, row: usize| {
        // SAFETY: a row of C.
        let c = unsafe { c.add(row * row_stride) };
        Target { c, row_stride, col_stride, n_rows: 0, n_cols: n, accumulate, alpha }
    };
    let pairs = b.multiplies_pairs(cpu.simd);
    let words = if pairs { k.div_ceil(2) } else { k };
    if !pairs && (m <= LANES || (a.k_stride == 1 && a.lane_stride <= FAR)) {
        let rows = Rows {
            data: a.data.as_ptr(),
            row_stride: a.lane_stride,
            sixteen: LANES * a.lane_stride,
            k_stride: a.k_stride,
        };
        return multiply(cpu, rows, b, Block { n_rows: m, n, k_start: 0, depth: words, pairs }, target(accumulate, 0));
    }

    let mut scratch = cpu.scratch.lock();
    for k_start in (0..words).step_by(A_DEPTH) {
        let depth = A_DEPTH.min(words - k_start);
        // Whole vectors, so that a row starts where a cache line does.
        let stride = depth.next_multiple_of(LANES);
        let m_step = A_WORDS / stride / LANES * LANES;
        for m_start in (0..m).step_by(m_step) {
            let n_rows = m_step.min(m - m_start);
            let strips = n_rows.div_ceil(LANES);
            let parts = rows(&mut scratch, strips, stride);
            cpu.for_rows(strips, GRAIN.div_ceil(LANES * depth), parts, |range, packed| {
                for (strip, packed) in range.zip(packed.into_slice().chunks_exact_mut(stride)) {
                    let row = m_start + strip * LANES;
                    match pairs {
                        true => bf16_products::round_rows(cpu.simd, packed, a, row, m - row, 2 * k_start, k, depth),
                        false => pack_rows(cpu.simd, &mut packed[..depth], a, row, m - row, k_start),
                    }
                }
            });
            let (row_stride, k_stride) = if pairs { (stride, 1) } else { (1, LANES) };
            let rows = Rows { data: scratch.as_ptr().cast(), row_stride, sixteen: LANES * stride, k_stride };
            let block = Block { n_rows, n, k_start, depth, pairs };
            multiply(cpu, rows, b, block, target(accumulate || k_start > 0, m_start));
        }
    }
}

#[derive(Clone, Copy)]
struct Block {
    n_rows: usize,
    n: usize,
    /// In words: values, or pairs of them.
    k_start: usize,
    depth: usize,
    pairs: bool,
}

/// Rows of A times all columns of B, over one piece of K: what its tasks share.
struct Tasks<'a> {
    cpu: &'a Cpu,
    a: Rows,
    b: Factor<'a>,
    block: Block,
    target: Target,
    /// Panels of a task.
    panels: usize,
    k_block: usize,
    row_groups: usize,
    group_rows: usize,
    /// Rows that go past the panels together: sixteen where they should go past many panels.
    strip: usize,
}

// SAFETY: tasks read A and B and write disjoint parts of C.
unsafe impl Sync for Tasks<'_> {}

fn multiply(cpu: &Cpu, a: Rows, b: Factor<'_>, block: Block, target: Target) {
    let Block { n_rows, n, depth, .. } = block;
    let is_thin = depth <= THIN && matches!(b, Factor::Values(_));
    let panels = if is_thin { K_BLOCK * PANELS / THIN } else { b.group_panels() };
    let longest = K_BLOCK * PANELS / panels;
    let k_block = depth.div_ceil(depth.div_ceil(longest)).next_multiple_of(b.k_multiple());

    let column_groups = n.div_ceil(LANES * panels);
    // Few columns, or many threads: the rows are split as well, and B, if it must be, is packed by each part.
    let row_groups = (4 * cpu.threads).div_ceil(column_groups).min(n_rows.div_ceil(4 * LANES));
    let group_rows = n_rows.div_ceil(row_groups).next_multiple_of(LANES);
    let strip = if is_thin || b.is_far_apart() { LANES } else { group_rows };
    let grain = TASK.div_ceil(group_rows * panels * depth);
    let tasks = Tasks { cpu, a, b, block, target, panels, k_block, row_groups, group_rows, strip };
    cpu.for_range(column_groups * row_groups, grain, |range| {
        PACKED_B.with_borrow_mut(|packed| range.for_each(|task| tasks.run(task, packed)));
    });
}

impl Tasks<'_> {
    fn run(&self, task: usize, packed: &mut [Lanes]) {
        let Block { n_rows, n, k_start, depth, pairs } = self.block;
        let row = task % self.row_groups * self.group_rows;
        let columns = self.columns(task);
        if row >= n_rows {
            return;
        }
        let (n_rows, n_panels) = ((n_rows - row).min(self.group_rows), columns.len().div_ceil(LANES));
        for k in (0..depth).step_by(self.k_block) {
            let k_block = self.k_block.min(depth - k);
            let (simd, column) = (self.cpu.simd, columns.start);
            let b = self.b.in_place(pairs, column, n, k_start + k, n_rows).unwrap_or_else(|| {
                let packed = &mut packed[..k_block * n_panels];
                pack(simd, packed, simd, self.b, pairs, column, n, k_start + k, k_block);
                Panels { data: packed.as_ptr().cast(), k_stride: LANES, panel_stride: LANES * k_block }
            });
            for first in (0..n_rows).step_by(self.strip) {
                self.prefetch_after(task, k + k_block, first / self.strip, n_rows.div_ceil(self.strip));
                let a = self.a.at(row + first, k);
                let target = Target {
                    // SAFETY: the row and the column are inside C.
                    c: unsafe {
                        self.target.c.add((row + first) * self.target.row_stride + column * self.target.col_stride)
                    },
                    n_rows: self.strip.min(n_rows - first),
                    n_cols: columns.len(),
                    accumulate: self.target.accumulate || k > 0,
                    ..self.target
                };
                match pairs {
                    true => bf16_products::multiply_tiles(simd, a, b, k_block, &target),
                    false => multiply_tiles(simd, a, b, k_block, &target),
                }
            }
        }
    }

    fn columns(&self, task: usize) -> Range<usize> {
        let column = task / self.row_groups * LANES * self.panels;
        column..(column + LANES * self.panels).min(self.block.n)
    }

    /// While a strip is multiplied, its share of what is packed next comes from memory.
    fn prefetch_after(&self, task: usize, k: usize, share: usize, shares: usize) {
        let Block { n, k_start, depth, pairs, .. } = self.block;
        // The tasks in between are the other threads'.
        let (task, k) = if k < depth { (task, k) } else { (task + self.cpu.threads, 0) };
        let columns = self.columns(task);
        if columns.start < n {
            let words = k_start + k..k_start + depth.min(k + self.k_block);
            self.b.prefetch_columns(pairs, columns, words, share, shares);
        }
    }
}
