//! Work over the rows of one or more buffers, on all threads.
//!
//! Which thread gets which rows never shows in a result: no operation combines values of different groups, except
//! [`Cpu::sum`], whose tree is fixed by the length alone.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::Cpu;

/// Parts a thread: the work of equal ranges is not equal (attention sees ever more keys).
const PARTS: usize = 8;

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
        let grains = n_rows.div_ceil(grain);
        match &self.pool {
            // Less than a grain of work is done before another thread has begun.
            Some(pool) if grains > 1 => {
                let n_parts = grains.min(PARTS * self.threads);
                let mut rest = Some((0, buffers));
                let cut = |part: usize| {
                    let (start, buffers) = rest.take()?;
                    let end = (grains * (part + 1) / n_parts * grain).min(n_rows);
                    let (head, tail) = buffers.split_at(end - start);
                    rest = Some((end, tail));
                    Some(Mutex::new(Some((start..end, head))))
                };
                let parts: Vec<_> = (0..n_parts).map_while(cut).collect();
                pool.run(n_parts, &|part| {
                    let taken = parts[part].lock().unwrap_or_else(PoisonError::into_inner).take();
                    if let Some((range, buffers)) = taken {
                        body(range, buffers);
                    }
                });
            }
            _ if n_rows > 0 => body(0..n_rows, buffers),
            _ => {}
        }
    }

    /// Calls `body` for parts of `0..n` that cover it.
    pub(super) fn for_range(&self, n: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
        let parts = n.div_ceil(grain.max(1));
        let part = |part: usize| body(part * grain..((part + 1) * grain).min(n));
        match &self.pool {
            Some(pool) if parts > 1 => pool.run(parts, &part),
            _ => (0..parts).for_each(part),
        }
    }

    /// Sum of `part` over groups of `grain` in `0..n`, as a tree that depends on `n` and `grain` alone.
    pub(super) fn sum(&self, n: usize, grain: usize, part: impl Fn(Range<usize>) -> f64 + Sync) -> f64 {
        fn tree(parts: &[f64]) -> f64 {
            match parts {
                [] => 0.0,
                [part] => *part,
                _ => {
                    let (left, right) = parts.split_at(parts.len() / 2);
                    tree(left) + tree(right)
                }
            }
        }
        let mut parts = vec![0.0; n.div_ceil(grain)];
        let n_parts = parts.len();
        self.for_rows(n_parts, 1, rows(&mut parts, n_parts, 1), |range, sums| {
            for (index, sum) in range.zip(sums.into_slice()) {
                *sum = part(index * grain..((index + 1) * grain).min(n));
            }
        });
        tree(&parts)
    }
}
