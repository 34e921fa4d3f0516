//! A tensor as its file stores it.

use std::ops::Range;

use memmap2::Mmap;

use super::{BlockType, HostTensor};

/// A tensor in the element type of its file, row-major. Mapped bytes leave this process's memory when it is dropped.
pub struct StoredTensor<'a> {
    shape: Vec<usize>,
    block: BlockType,
    bytes: Bytes<'a>,
}

enum Bytes<'a> {
    Mapped(&'a Mmap, Range<usize>),
    Owned(Vec<u8>),
}

impl<'a> StoredTensor<'a> {
    /// A tensor of bytes in memory. Panics where they are not as many as the shape needs.
    pub fn new(shape: Vec<usize>, block: BlockType, bytes: Vec<u8>) -> Self {
        Self { shape, block, bytes: Bytes::Owned(bytes) }.checked()
    }

    pub(super) fn mapped(shape: Vec<usize>, block: BlockType, map: &'a Mmap, bytes: Range<usize>) -> Self {
        Self { shape, block, bytes: Bytes::Mapped(map, bytes) }.checked()
    }

    fn checked(self) -> Self {
        let (cols, bytes) = (self.cols(), self.bytes().len());
        assert!(cols.is_multiple_of(self.block.block().0), "rows of {cols} values in blocks of {:?}", self.block);
        assert_eq!(bytes, self.rows() * self.row_bytes(), "bytes of a {:?} tensor {:?}", self.block, self.shape);
        self
    }

    /// Extent of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn block_type(&self) -> BlockType {
        self.block
    }

    /// Rows of the tensor as a matrix: the product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        let (values, bytes) = self.block.block();
        self.cols() / values * bytes
    }

    /// All bytes, row after row.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map, range) => &map[range.clone()],
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Decodes rows from `first` on: as many as `values` holds.
    pub fn read_rows(&self, first: usize, values: &mut [f32]) {
        let n_rows = values.len() / self.cols().max(1);
        let bytes = &self.bytes()[first * self.row_bytes()..][..n_rows * self.row_bytes()];
        self.block.decode(bytes, values);
    }

    /// All values.
    pub fn to_host(&self) -> HostTensor {
        HostTensor { shape: self.shape.clone(), data: self.block.dequantize(self.bytes()) }
    }

    /// The same rows, or the same values of a vector, in another order: row `r` of the result is row `source(r)`.
    pub(super) fn with_rows(&self, source: impl Fn(usize) -> usize) -> StoredTensor<'static> {
        let n_rows = self.shape[0];
        let row_bytes = self.bytes().len() / n_rows;
        let mut bytes = Vec::with_capacity(self.bytes().len());
        for row in 0..n_rows {
            bytes.extend_from_slice(&self.bytes()[source(row) * row_bytes..][..row_bytes]);
        }
        StoredTensor { shape: self.shape.clone(), block: self.block, bytes: Bytes::Owned(bytes) }
    }
}

impl Drop for StoredTensor<'_> {
    fn drop(&mut self) {
        if let Bytes::Mapped(map, range) = &self.bytes {
            release(map, range.clone());
        }
    }
}

/// Gives mapped pages back to the page cache, so that a file read once does not stay in this process's memory.
pub(super) fn release(map: &Mmap, range: Range<usize>) {
    #[cfg(unix)]
    {
        // SAFETY: a read-only mapping of a file: whoever looks at these pages again gets the file's bytes again.
        let advised =
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        if let Err(error) = advised {
            tracing::debug!(%error, "cannot release mapped pages");
        }
    }
    #[cfg(not(unix))]
    let _ = (map, range);
}
