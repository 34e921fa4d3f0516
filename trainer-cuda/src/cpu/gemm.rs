//! Matrix products: one driver for every layout, after BLIS (Van Zee & van de Geijn 2015).
//!
//! Both operands are packed into panels of sixteen lanes by `K_BLOCK`. A is packed once for all threads; then each
//! thread packs groups of B's columns for itself and multiplies them with all of A while they are in its cache, so a
//! weight is read from memory once per call. K is never split over threads and its blocks depend on `k` alone:
//! the same bytes on any number of threads.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use super::Cpu;
use super::elementwise::GRAIN;
use super::gemm_kernels::{Target, pack, strip};
use super::parallel::rows;
use super::simd::{LANES, Lanes};

/// Panels of B that a thread packs together: 48 columns, the width of the AVX-512 tile.
pub(super) const PANELS: usize = 3;
/// Longest piece of K: 48 columns of B are then 96 KiB, 16 rows of A 32 KiB; both fit into a 512 KiB L2.
const K_BLOCK: usize = 512;
/// Rows of A that are packed at a time: 4 MiB of scratch.
const M_BLOCK: usize = 2048;
/// Multiplications that make a task: 11 us at 90 GFLOP/s, about what handing it to a thread costs.
const TASK: usize = 512 * 1024;

thread_local! {
    /// Each thread's packed columns of B, allocated by its first product.
    static PACKED_B: RefCell<Vec<Lanes>> = RefCell::new(vec![Lanes::ZERO; K_BLOCK * PANELS]);
}

/// Packed rows of A, shared by the threads of one product.
pub(super) struct Scratch(Mutex<Vec<Lanes>>);

impl Scratch {
    pub(super) fn new() -> Self {
        Scratch(Mutex::new(vec![Lanes::ZERO; M_BLOCK / LANES * K_BLOCK]))
    }
}

/// A factor, seen as lanes (rows of A, columns of B) by k.
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
}

/// Sizes of a product `[m, k] x [k, n]`, its factor, and whether it is added to what C holds.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) alpha: f32,
    pub(super) accumulate: bool,
}

/// `c = alpha * a b`, or `c += alpha * a b`.
pub(super) fn gemm(cpu: &Cpu, c: &mut [f32], a: Operand<'_>, b: Operand<'_>, product: Product) {
    let Product { m, n, k, alpha, accumulate } = product;
    let c = &mut c[..m * n];
    if k == 0 && !accumulate {
        c.fill(0.0);
    }
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    // Locked before the pool is entered: a pool thread that waited here could hold up the lock's owner.
    let mut packed_a = cpu.scratch.0.lock().unwrap_or_else(PoisonError::into_inner);

    let depth = k.div_ceil(k.div_ceil(K_BLOCK)).next_multiple_of(LANES);
    for k_start in (0..k).step_by(depth) {
        let depth = depth.min(k - k_start);
        for m_start in (0..m).step_by(M_BLOCK) {
            let n_rows = M_BLOCK.min(m - m_start);
            let strips = n_rows.div_ceil(LANES);
            cpu.for_rows(strips, GRAIN.div_ceil(LANES * depth), rows(&mut packed_a, strips, depth), |range, packed| {
                for (strip, packed) in range.zip(packed.into_slice().chunks_exact_mut(depth)) {
                    let row = strip * LANES;
                    pack(cpu.simd, packed, 1, a, m_start + row, n_rows - row, k_start, depth);
                }
            });

            let c = SendPointer(c[m_start * n..].as_mut_ptr());
            let block = Block { n_rows, n, k_start, depth, alpha, accumulate: accumulate || k_start > 0 };
            multiply(cpu, c, &packed_a, b, block);
        }
    }
}

/// The start of a block of C.
#[derive(Clone, Copy)]
struct SendPointer(*mut f32);

impl SendPointer {
    fn get(self) -> *mut f32 {
        self.0
    }
}

// SAFETY: the tasks of `multiply` write disjoint strips.
unsafe impl Send for SendPointer {}
// SAFETY: as above.
unsafe impl Sync for SendPointer {}

#[derive(Clone, Copy)]
struct Block {
    n_rows: usize,
    n: usize,
    k_start: usize,
    depth: usize,
    alpha: f32,
    accumulate: bool,
}

/// Packed rows of A times all columns of B, over one block of K.
fn multiply(cpu: &Cpu, c: SendPointer, packed_a: &[Lanes], b: Operand<'_>, block: Block) {
    let Block { n_rows, n, k_start, depth, alpha, accumulate } = block;
    let strips = n_rows.div_ceil(LANES);
    let column_groups = n.div_ceil(LANES * PANELS);
    // A thin product (LoRA) has too few columns for all threads: its rows are split as well, and B, which is
    // small, is packed by each part.
    let row_groups = (4 * cpu.threads).div_ceil(column_groups).min(strips.div_ceil(8));
    let group_strips = strips.div_ceil(row_groups);

    let grain = TASK.div_ceil(group_strips * LANES * LANES * PANELS * depth);
    cpu.for_range(column_groups * row_groups, grain, |tasks| {
        PACKED_B.with_borrow_mut(|packed_b| {
            for task in tasks {
                let column = task / row_groups * LANES * PANELS;
                let n_cols = (n - column).min(LANES * PANELS);
                let panels = n_cols.div_ceil(LANES);
                let packed_b = &mut packed_b[..depth * panels];
                for panel in 0..panels {
                    let first = column + panel * LANES;
                    pack(cpu.simd, &mut packed_b[panel..], panels, b, first, n - first, k_start, depth);
                }
                let first_strip = task % row_groups * group_strips;
                for s in first_strip..(first_strip + group_strips).min(strips) {
                    let row = s * LANES;
                    // SAFETY: `row < n_rows` and `column < n`; C holds `n_rows * n` values from here.
                    let c = unsafe { c.get().add(row * n + column) };
                    let n_rows = (n_rows - row).min(LANES);
                    let target = Target { c, row_stride: n, n_rows, n_cols, accumulate, alpha };
                    strip(cpu.simd, &packed_a[s * depth..][..depth], packed_b, panels, &target);
                }
            }
        });
    });
}
