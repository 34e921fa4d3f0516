//! What lies in the arena: buffers, activations, masks; and the way between them and the host.

use super::Cuda;
use super::arena::Arena;
use super::layout::MASK_TILE;
use crate::device::Visibility;
use crate::plan::{ROW_ALIGNMENT, side_by_side};
use cudarc::driver::{result, sys};
use half::bf16;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;

/// Values of one type, one behind the other.
pub struct Buffer<T> {
    address: u64,
    len: usize,
    arena: Rc<Arena>,
    values: PhantomData<T>,
}

impl<T> Buffer<T> {
    pub(super) fn new(arena: &Rc<Arena>, address: u64, len: usize) -> Self {
        Self { address, len, arena: arena.clone(), values: PhantomData }
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The allocation that it is a part of.
    pub(super) fn arena(&self) -> &Rc<Arena> {
        &self.arena
    }
}

/// Rows of bf16, the start of each a multiple of sixteen bytes. Several may share their rows, one beside the other.
pub struct Act {
    pub(super) address: u64,
    /// Distance of two rows, in values.
    pub(super) stride: usize,
    /// Values of a row that count.
    pub(super) width: usize,
    pub(super) n_rows: usize,
    /// Where the room behind the first row begins, for low-rank values of this one and of those beside it; 0 without.
    pub(super) tail: u64,
    _arena: Rc<Arena>,
}

impl Act {
    /// Checks that an operation stays inside.
    pub(super) fn assert_holds(&self, what: &str, n_rows: usize, width: usize) {
        assert!(
            n_rows <= self.n_rows && width <= self.width,
            "{n_rows} rows of {width} in `{what}` of {} rows of {}",
            self.n_rows,
            self.width
        );
    }
}

/// Query `q` sees key `k` iff `first[k] <= q && q < end[k]`: the rule of forests and that of segments.
pub struct Mask {
    pub(super) first: Buffer<u32>, // [n_tokens]
    pub(super) end: Buffer<u32>,   // [n_tokens]
    /// Least `first` and largest `end` of each tile of keys.
    pub(super) tile_first: Buffer<u32>, // [n_tokens / MASK_TILE]
    pub(super) tile_end: Buffer<u32>, // [n_tokens / MASK_TILE]
}

/// The mask as kernels take it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct MaskPointers {
    first: u64,
    end: u64,
    tile_first: u64,
    tile_end: u64,
}

impl Mask {
    pub(super) fn pointers(&self) -> MaskPointers {
        MaskPointers {
            first: self.first.address,
            end: self.end.address,
            tile_first: self.tile_first.address,
            tile_end: self.tile_end.address,
        }
    }
}

impl Cuda {
    pub(super) fn arena(&self) -> Rc<Arena> {
        self.arena.borrow().clone().expect("memory is reserved before it is taken")
    }

    /// A buffer of zeros.
    pub(super) fn alloc<T>(&self, len: usize, name: &str) -> Buffer<T> {
        let arena = self.arena();
        let buffer = Buffer::new(&arena, arena.take(len * size_of::<T>(), name), len);
        self.zero(buffer.address, len * size_of::<T>());
        buffer
    }

    /// Activations side by side, with room for `tail` more values behind each row. What is between them is zero, and stays
    /// so: products read it.
    pub(super) fn alloc_beside<const N: usize>(&self, n_rows: usize, widths: [usize; N], tail: usize) -> [Act; N] {
        let arena = self.arena();
        let (padded, whole) = (side_by_side(&widths), widths.iter().sum::<usize>());
        let stride = padded + tail;
        let bytes = 2 * n_rows * stride;
        let base = arena.take(bytes, "activations");
        if stride > whole {
            self.zero(base, bytes);
        }
        let mut start = 0;
        widths.map(|width| {
            let address = base + 2 * start as u64;
            start += width.next_multiple_of(ROW_ALIGNMENT);
            let tail = if tail > 0 { base + 2 * padded as u64 } else { 0 };
            Act { address, stride, width, n_rows, tail, _arena: arena.clone() }
        })
    }

    pub(super) fn zero(&self, address: u64, bytes: usize) {
        if bytes > 0 && !self.failure.is_set() {
            // SAFETY: a range of the arena.
            let zeroed = unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) };
            self.failure.catch("zeroing a buffer", zeroed);
        }
    }

    /// Copies to the device, in the order of the stream; does not wait for it.
    pub(super) fn write<T: Copy>(&self, address: u64, values: &[T]) {
        // SAFETY: values without padding, of which every byte is initialised: f32, f64, u32, u8, bf16.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        for (index, bytes) in bytes.chunks(STAGE_BYTES).enumerate() {
            self.stage(bytes, address + (index * STAGE_BYTES) as u64);
        }
    }

    /// Copies up to [`STAGE_BYTES`] to the device.
    pub(super) fn stage(&self, bytes: &[u8], address: u64) {
        if bytes.is_empty() || self.failure.is_set() {
            return;
        }
        let copied = self.staging.copy(&self.context, self.stream.cu_stream(), bytes, address);
        self.failure.catch("copying to the GPU", copied);
    }

    /// Copies from the device, after all that was handed to the stream; zeros, where anything failed.
    pub(super) fn read<T: Copy + Default>(&self, address: u64, len: usize) -> Vec<T> {
        let mut values = vec![T::default(); len];
        if len == 0 || self.failure.is_set() {
            return values;
        }
        let read = self.context.bind_to_thread().and_then(|()| {
            // SAFETY: as many values as the range of the arena has; the stream is waited for before they are looked at.
            unsafe { result::memcpy_dtoh_async(&mut values, address, self.stream.cu_stream()) }?;
            self.stream.synchronize()
        });
        self.failure.catch("copying from the GPU", read);
        values
    }

    /// Writes the first values of a buffer.
    pub(super) fn write_front<T: Copy>(&self, buffer: &Buffer<T>, values: &[T]) {
        assert!(values.len() <= buffer.len, "{} values in a buffer of {}", values.len(), buffer.len);
        self.write(buffer.address, values);
    }

    /// The first `len` values of a buffer.
    pub(super) fn read_front<T: Copy + Default>(&self, buffer: &Buffer<T>, len: usize) -> Vec<T> {
        assert!(len <= buffer.len, "{len} values of a buffer of {}", buffer.len);
        self.read(buffer.address, len)
    }

    pub(super) fn write_rows(&self, act: &Act, values: &[f32]) {
        let n_rows = values.len().div_ceil(act.width.max(1));
        act.assert_holds("write", n_rows, act.width);
        for (row, values) in values.chunks(act.width.max(1)).enumerate() {
            let values: Vec<bf16> = values.iter().map(|&value| bf16::from_f32(value)).collect();
            self.write(act.address + (2 * row * act.stride) as u64, &values);
        }
    }

    pub(super) fn read_rows(&self, act: &Act, len: usize) -> Vec<f32> {
        let n_rows = len.div_ceil(act.width.max(1));
        act.assert_holds("read", n_rows, act.width);
        if n_rows == 0 {
            return Vec::new();
        }
        // From the first value to the last, with whatever is beside.
        let values: Vec<u16> = self.read(act.address, (n_rows - 1) * act.stride + act.width);
        let rows = values.chunks(act.stride).flat_map(|row| &row[..act.width]);
        rows.take(len).map(|&bits| bf16::from_bits(bits).to_f32()).collect()
    }

    pub(super) fn write_visibility(&self, mask: &Mask, visibility: Visibility<'_>) {
        let (first, end): (Vec<u32>, &[u32]) = match visibility {
            Visibility::Forest { subtree_end } => ((0..subtree_end.len() as u32).collect(), subtree_end),
            Visibility::Segments { segment_start, segment_end } => (segment_start.to_vec(), segment_end),
        };
        crate::device::assert_visible(visibility);
        assert!(end.len() <= mask.end.len(), "{} tokens in a mask of {}", end.len(), mask.end.len());
        let tile_first: Vec<u32> = first.chunks(MASK_TILE).filter_map(|tile| tile.iter().copied().min()).collect();
        let tile_end: Vec<u32> = end.chunks(MASK_TILE).filter_map(|tile| tile.iter().copied().max()).collect();
        self.write(mask.first.address, &first);
        self.write(mask.end.address, end);
        self.write(mask.tile_first.address, &tile_first);
        self.write(mask.tile_end.address, &tile_end);
    }
}

/// Bytes of each half of the staging memory: a batch of 8,192 tokens with its labels and mask is 200 KB.
pub(super) const STAGE_BYTES: usize = 4 << 20;

/// Pinned memory in two halves: copies from one are under way while the host fills the other.
pub(super) struct Staging {
    halves: [*mut u8; 2],
    /// Recorded behind the last copy from a half.
    events: [sys::CUevent; 2],
    current: Cell<usize>,
    used: Cell<usize>,
    /// Whether a half has copies that its event stands behind.
    pending: RefCell<[bool; 2]>,
}

impl Staging {
    pub(super) fn new() -> Result<Self, cudarc::driver::DriverError> {
        let half = || {
            // SAFETY: the context is current.
            unsafe { result::malloc_host(STAGE_BYTES, 0) }.map(|half| half.cast::<u8>())
        };
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let (halves, events) = ([half()?, half()?], [event()?, event()?]);
        Ok(Self { halves, events, current: Cell::new(0), used: Cell::new(0), pending: RefCell::new([false; 2]) })
    }

    fn copy(
        &self,
        context: &cudarc::driver::CudaContext,
        stream: sys::CUstream,
        bytes: &[u8],
        address: u64,
    ) -> Result<(), cudarc::driver::DriverError> {
        context.bind_to_thread()?;
        if self.used.get() + bytes.len() > STAGE_BYTES {
            let full = self.current.get();
            // SAFETY: events that live as long as this.
            unsafe { result::event::record(self.events[full], stream) }?;
            self.pending.borrow_mut()[full] = true;
            let next = 1 - full;
            if std::mem::take(&mut self.pending.borrow_mut()[next]) {
                // SAFETY: as above. What was copied from this half is on the device then.
                unsafe { result::event::synchronize(self.events[next]) }?;
            }
            self.current.set(next);
            self.used.set(0);
        }
        let at = self.used.get();
        // SAFETY: the half has room behind `at`, and no copy reads there: it was waited for when the half became current.
        let staged = unsafe {
            let to = self.halves[self.current.get()].add(at);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            std::slice::from_raw_parts(to, bytes.len())
        };
        // Copies start at multiples of 16 bytes.
        self.used.set((at + bytes.len()).next_multiple_of(16).min(STAGE_BYTES));
        // SAFETY: a range of the arena, and pinned memory that stays as it is until the event behind it.
        unsafe { result::memcpy_htod_async(address, staged, stream) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for half in self.halves {
            // SAFETY: allocated by `malloc_host`. The driver waits for copies from it.
            let _ = unsafe { result::free_host(half.cast()) };
        }
        for event in self.events {
            // SAFETY: created in `new`, and not used again.
            let _ = unsafe { result::event::destroy(event) };
        }
    }
}
