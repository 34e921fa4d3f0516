//! The grain of all element-wise work.

/// Values per task: 64 KiB, some 10 us of memory traffic, about what handing it to a thread costs.
pub(super) const GRAIN: usize = 16 * 1024;
