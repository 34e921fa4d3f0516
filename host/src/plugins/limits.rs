//! What one plugin call may use. Every call gets a fresh store with these limits.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// Caps on one plugin call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Limits {
    /// Wall time of one call; checked every [`Limits::TICK`].
    pub deadline: Duration,
    /// Linear memory of one instance, in bytes, over all its memories.
    pub memory_bytes: usize,
    /// Elements of one table (function references, mostly).
    pub table_elements: usize,
    /// Bytes that one call may hand back to the host. A guest can alias one string thousands of times, so its
    /// memory cap alone does not bound what the host copies: 1 MiB in a guest was lifted as 64 GiB.
    pub output_bytes: usize,
}

impl Limits {
    /// Resolution of [`Limits::deadline`].
    pub const TICK: Duration = Duration::from_millis(10);

    /// The deadline in ticks of the epoch clock, rounded up: a call is never stopped early.
    pub(super) fn deadline_ticks(&self) -> u64 {
        self.deadline.as_millis().div_ceil(Self::TICK.as_millis()).try_into().unwrap_or(u64::MAX / 2) + 1
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            memory_bytes: 64 << 20,
            // A C# guest in debug mode was seen with over 10,000 elements (wasmtime #8504).
            table_elements: 20_000,
            output_bytes: 16 << 20,
        }
    }
}

/// A cap that a call ran into, remembered because the trap itself does not name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Linear memory; the bytes asked for.
    Memory(usize),
    /// A table; the elements asked for.
    Table(usize),
}

/// The data of a call's store: enforces [`Limits`] on growth.
#[derive(Debug)]
pub(super) struct CallState {
    limits: Limits,
    memory_bytes: usize,
    pub(super) refused: Option<Refused>,
}

impl CallState {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, memory_bytes: 0, refused: None }
    }
}

impl ResourceLimiter for CallState {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes + (desired - current);
        if total > self.limits.memory_bytes {
            self.refused = Some(Refused::Memory(total));
            wasmtime::bail!("memory cap reached");
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.limits.table_elements {
            self.refused = Some(Refused::Table(desired));
            wasmtime::bail!("table cap reached");
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_cap_counts_all_memories_of_an_instance() {
        let mut state = CallState::new(Limits { memory_bytes: 3 << 16, ..Limits::default() });
        assert!(state.memory_growing(0, 2 << 16, None).unwrap());
        assert!(state.memory_growing(0, 2 << 16, None).is_err());
        assert_eq!(state.refused, Some(Refused::Memory(4 << 16)));
    }

    #[test]
    fn a_deadline_is_never_cut_short_by_the_tick_in_progress() {
        let limits = Limits { deadline: Duration::from_millis(15), ..Limits::default() };
        assert_eq!(limits.deadline_ticks(), 3);
    }
}
