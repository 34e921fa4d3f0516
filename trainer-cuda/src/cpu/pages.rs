//! Memory for weights: zeroed by the system page by page as threads fill it, in huge pages where there are any.

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;

use memmap2::MmapMut;

/// Values that may be all zero bits.
///
/// # Safety
/// Every bit pattern is a value, and its alignment divides a page's.
pub(super) unsafe trait Plain: Copy + Send + Sync {}

/// A buffer of `T`, zero at first.
pub(super) struct Pages<T: Plain> {
    map: MmapMut,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Pages<T> {
    /// `len` zeros; ends the process where there is no memory, as `Vec` does.
    pub(super) fn zeroed(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        // A mapping has at least a byte.
        let map = MmapMut::map_anon(bytes.max(1)).unwrap_or_else(|_| {
            let layout = Layout::array::<T>(len).unwrap_or(Layout::new::<T>());
            handle_alloc_error(layout)
        });
        #[cfg(target_os = "linux")]
        if let Err(error) = map.advise(memmap2::Advice::HugePage) {
            tracing::debug!(%error, "no huge pages");
        }
        Pages { map, len, of: PhantomData }
    }

    pub(super) fn as_slice(&self) -> &[T] {
        // SAFETY: the mapping holds `len` values, any bits are one, and a page's alignment is enough.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.len) }
    }
}
