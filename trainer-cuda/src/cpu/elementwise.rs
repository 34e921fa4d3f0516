//! The residual addition, and the grain of all element-wise work.

use super::Cpu;
use super::parallel::rows;

/// Values per task: 64 KiB, some 10 us of memory traffic, about what handing it to a thread costs.
pub(super) const GRAIN: usize = 16 * 1024;

pub(super) fn add(cpu: &Cpu, y: &mut [f32], x: &[f32], residual: &[f32], len: usize) {
    let (x, residual) = (&x[..len], &residual[..len]);
    cpu.for_rows(len, GRAIN, rows(y, len, 1), |range, y| {
        for ((y, x), residual) in y.into_slice().iter_mut().zip(&x[range.clone()]).zip(&residual[range]) {
            *y = x + residual;
        }
    });
}
