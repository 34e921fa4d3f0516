//! Work over the rows of one or more buffers, on all threads.
//!
//! Which thread gets which rows never shows in a result: no operation combines values of different groups, except
//! [`Cpu::sum`], whose tree is fixed by the length alone.

use std::ops::Range;

use super::Cpu;

/// A buffer, or a tuple of buffers, that can be cut between two rows.
pub(super) trait Split: Sized + Send {
    /// The first `row` rows and the rest.
    fn split_at(self, row: usize) -> (Self, Self);
}

/// A buffer of rows of equal width.
pub(super) struct Rows<'a, T> {
    data: &'a mut [T],
    width: usize,
}

/// `n_rows` rows of `width` values from the front of `data`.
pub(super) fn rows<T>(data: &mut [T], n_rows: usize, width: usize) -> Rows<'_, T> {
    Rows { data: &mut data[..n_rows * width], width }
}

impl<'a, T> Rows<'a, T> {
    pub(super) fn into_slice(self) -> &'a mut [T] {
        self.data
    }
}

impl<T: Send> Split for Rows<'_, T> {
    fn split_at(self, row: usize) -> (Self, Self) {
        let (head, tail) = self.data.split_at_mut(row * self.width);
        (Rows { data: head, width: self.width }, Rows { data: tail, width: self.width })
    }
}

/// A buffer whose row `r` is `offsets[r] - offsets[0]..offsets[r + 1] - offsets[0]`.
pub(super) struct Ragged<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) offsets: &'a [u32],
}

impl Split for Ragged<'_> {
    fn split_at(self, row: usize) -> (Self, Self) {
        let (head, tail) = self.data.split_at_mut((self.offsets[row] - self.offsets[0]) as usize);
        (Ragged { data: head, offsets: &self.offsets[..=row] }, Ragged { data: tail, offsets: &self.offsets[row..] })
    }
}

impl Split for () {
    fn split_at(self, _row: usize) -> (Self, Self) {
        ((), ())
    }
}

impl<A: Split, B: Split> Split for (A, B) {
    fn split_at(self, row: usize) -> (Self, Self) {
        let (a, b) = (self.0.split_at(row), self.1.split_at(row));
        ((a.0, b.0), (a.1, b.1))
    }
}

impl<A: Split, B: Split, C: Split> Split for (A, B, C) {
    fn split_at(self, row: usize) -> (Self, Self) {
        let (a, b, c) = (self.0.split_at(row), self.1.split_at(row), self.2.split_at(row));
        ((a.0, b.0, c.0), (a.1, b.1, c.1))
    }
}

impl Cpu {
    /// Calls `body(range, buffers of range)` for ranges that cover `0..n_rows`; cuts fall on multiples of `grain`.
    pub(super) fn for_rows<B: Split>(
        &self,
        n_rows: usize,
        grain: usize,
        buffers: B,
        body: impl Fn(Range<usize>, B) + Sync,
    ) {
        fn halve<B: Split>(range: Range<usize>, grain: usize, buffers: B, body: &(impl Fn(Range<usize>, B) + Sync)) {
            if range.len() <= grain {
                return body(range, buffers);
            }
            let left_rows = range.len().div_ceil(grain) / 2 * grain;
            let middle = range.start + left_rows;
            let (left, right) = buffers.split_at(left_rows);
            rayon::join(
                || halve(range.start..middle, grain, left, body),
                || halve(middle..range.end, grain, right, body),
            );
        }

        match &self.pool {
            // Less than a grain of work is done before a sleeping thread wakes (about 10 us).
            Some(pool) if n_rows > grain => pool.install(|| halve(0..n_rows, grain, buffers, &body)),
            _ if n_rows > 0 => body(0..n_rows, buffers),
            _ => {}
        }
    }

    /// Calls `body` for parts of `0..n` that cover it.
    pub(super) fn for_range(&self, n: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
        self.for_rows(n, grain, (), |range, ()| body(range));
    }

    /// Sum of `part` over groups of `grain` in `0..n`, as a tree that depends on `n` and `grain` alone.
    pub(super) fn sum(&self, n: usize, grain: usize, part: impl Fn(Range<usize>) -> f64 + Sync) -> f64 {
        fn halve(
            range: Range<usize>,
            grain: usize,
            part: &(impl Fn(Range<usize>) -> f64 + Sync),
            threads: bool,
        ) -> f64 {
            if range.len() <= grain {
                return part(range);
            }
            let middle = range.start + range.len().div_ceil(grain) / 2 * grain;
            let left = || halve(range.start..middle, grain, part, threads);
            let right = || halve(middle..range.end, grain, part, threads);
            let (left, right) = if threads { rayon::join(left, right) } else { (left(), right()) };
            left + right
        }
        match &self.pool {
            Some(pool) if n > grain => pool.install(|| halve(0..n, grain, &part, true)),
            _ => halve(0..n, grain, &part, false),
        }
    }
}
