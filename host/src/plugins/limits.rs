//! What one plugin call may use. Every call gets a fresh store with these limits.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use super::cost::CallCost;
use super::error::{CallSite, Fault};
use super::log::LogBudget;
use super::wasi::Random;

/// Caps on one plugin call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Limits {
    /// Wall time of one call; checked every [`Limits::TICK`].
    pub deadline: Duration,
    /// WebAssembly instructions of one call, about: the same verdict on every machine, where a deadline's depends on
    /// the load. Counting costs about a fifth of a call's time, so that it is off unless it is wanted.
    pub fuel: Option<u64>,
    /// Linear memory of one instance, in bytes, over all its memories.
    pub memory_bytes: usize,
    /// Call stack of the WebAssembly code. One for the whole engine.
    pub stack_bytes: usize,
    /// Elements of one table (function references, mostly).
    pub table_elements: usize,
    /// Bytes that one call may hand back to the host, and that one log line may have: what bounds the host's copying,
    /// which no deadline interrupts (16 MiB take some 10 ms). A guest can alias one string thousands of times, so its
    /// memory cap alone does not bound what the host copies: 1 MiB in a guest was lifted as 64 GiB.
    pub output_bytes: usize,
    /// Examples that an extractor may give for each span of a batch, and [`Limits::FREE_RECORDS`] more.
    pub records_per_span: usize,
    /// Bytes that one call may log, in at most [`Limits::LOG_LINES`] lines; what is over is dropped, and counted.
    pub log_bytes: usize,
    /// Size of a component that is compiled at all.
    pub component_bytes: usize,
}

impl Limits {
    /// Resolution of [`Limits::deadline`]: a call is stopped between its deadline and two ticks later, or when a busy
    /// machine next runs it. A deadline below 50 ms is for nobody.
    pub const TICK: Duration = Duration::from_millis(5);
    /// Lines that one call may log.
    pub const LOG_LINES: usize = 200;
    /// What an extractor may give beside [`Limits::records_per_span`]: a batch of one span can be the whole set.
    pub const FREE_RECORDS: usize = 1024;
    /// Rules that an extractor may select by; each is a condition of the store's query.
    pub const MATCH_RULES: usize = 1000;
    /// Size of one function. A compiler's time and memory go by it: one of 1 MB takes 3 s and 0.5 GiB. The largest
    /// of a Python component has 427 KB.
    pub const FUNCTION_BYTES: usize = 1 << 20;
    /// Functions of a component, over all its modules: 6 KB of the compiler's memory each. One of Python has 13,500.
    pub const FUNCTIONS: usize = 50_000;
    /// Modules and components in a component, at any depth: 8 MB of 810,000 empty ones took their compiler 20 GB, and
    /// 10,000 in one another 2 GB. A component of Python has forty.
    pub const PARTS: usize = 500;
    /// Core instances that a component may be made of; one of Python or JavaScript is some thirty.
    pub const INSTANCES: usize = 64;
    /// Tables, over all its core instances.
    pub const TABLES: usize = 64;
    /// Memories, over all its core instances.
    pub const MEMORIES: usize = 8;

    /// The stricter of each of two limits. What the engine fixed for all plugins stays as `ceiling` has it: the stack,
    /// and whether fuel is counted.
    pub fn within(&self, ceiling: &Self) -> Self {
        Self {
            deadline: self.deadline.min(ceiling.deadline),
            fuel: ceiling.fuel.map(|ceiling| self.fuel.map_or(ceiling, |own| own.min(ceiling))),
            memory_bytes: self.memory_bytes.min(ceiling.memory_bytes),
            stack_bytes: ceiling.stack_bytes,
            table_elements: self.table_elements.min(ceiling.table_elements),
            output_bytes: self.output_bytes.min(ceiling.output_bytes),
            records_per_span: self.records_per_span.min(ceiling.records_per_span),
            log_bytes: self.log_bytes.min(ceiling.log_bytes),
            component_bytes: self.component_bytes.min(ceiling.component_bytes),
        }
    }

    /// The laxer of each of two limits: those of an engine that leaves two plugins what each may have. Where fuel is
    /// counted for one of them, it is for the other too, and without an end.
    pub fn covering(&self, other: &Self) -> Self {
        Self {
            deadline: self.deadline.max(other.deadline),
            fuel: match (self.fuel, other.fuel) {
                (None, None) => None,
                (own, other) => Some(own.unwrap_or(u64::MAX).max(other.unwrap_or(u64::MAX))),
            },
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            stack_bytes: self.stack_bytes.max(other.stack_bytes),
            table_elements: self.table_elements.max(other.table_elements),
            output_bytes: self.output_bytes.max(other.output_bytes),
            records_per_span: self.records_per_span.max(other.records_per_span),
            log_bytes: self.log_bytes.max(other.log_bytes),
            component_bytes: self.component_bytes.max(other.component_bytes),
        }
    }

    /// Most examples, or skipped spans, of a batch.
    pub(super) fn records(&self, spans: usize) -> usize {
        self.records_per_span.saturating_mul(spans).saturating_add(Self::FREE_RECORDS)
    }

    /// The deadline in ticks of the epoch clock, rounded up: a call is never stopped early.
    pub(super) fn deadline_ticks(&self) -> u64 {
        self.deadline.as_millis().div_ceil(Self::TICK.as_millis()).try_into().unwrap_or(u64::MAX / 2) + 1
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            fuel: None,
            memory_bytes: 64 << 20,
            stack_bytes: 512 << 10,
            // A C# guest in debug mode was seen with over 10,000 elements (wasmtime #8504).
            table_elements: 20_000,
            output_bytes: 16 << 20,
            records_per_span: 64,
            log_bytes: 64 << 10,
            // A Python component is 18 MB.
            component_bytes: 64 << 20,
        }
    }
}

/// A cap that a call ran into, remembered because the trap itself does not name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// Linear memory; the bytes asked for.
    Memory(usize),
    /// A table; the elements asked for.
    Table(usize),
}

/// The data of a call's store: enforces [`Limits`] on growth, and takes the call's log lines.
#[derive(Debug)]
pub(super) struct CallState {
    limits: Limits,
    memory_bytes: usize,
    refused: Option<Refused>,
    pub(super) log: LogBudget,
    pub(super) random: Random,
}

impl CallState {
    pub(super) fn new(limits: Limits, site: CallSite) -> Self {
        Self {
            limits,
            memory_bytes: 0,
            refused: None,
            log: LogBudget::new(site, limits.log_bytes),
            random: Random::default(),
        }
    }

    /// The cap on memory or tables that the call ran into.
    pub(super) fn refused(&self) -> Option<Fault> {
        self.refused.map(|refused| match refused {
            Refused::Memory(wanted) => Fault::Memory { wanted, limit: self.limits.memory_bytes },
            Refused::Table(wanted) => Fault::Table { wanted, limit: self.limits.table_elements },
        })
    }

    /// What this side of the call knows of its cost.
    pub(super) fn cost(&self, wall: Duration, fuel: Option<u64>) -> CallCost {
        CallCost { wall, fuel, memory_bytes: self.memory_bytes, log_bytes: self.log.bytes() }
    }
}

impl ResourceLimiter for CallState {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired - current);
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

    // The pool has these caps too, but not every machine has the pool.
    fn instances(&self) -> usize {
        Limits::INSTANCES
    }

    fn tables(&self) -> usize {
        Limits::TABLES
    }

    fn memories(&self) -> usize {
        Limits::MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(limits: Limits) -> CallState {
        CallState::new(limits, CallSite { plugin: "p".into(), tenant: None, function: "format", batch: None })
    }

    #[test]
    fn the_memory_cap_counts_all_memories_of_an_instance() {
        let mut state = state(Limits { memory_bytes: 3 << 16, ..Limits::default() });
        assert!(state.memory_growing(0, 2 << 16, None).unwrap());
        assert!(state.memory_growing(0, 2 << 16, None).is_err());
        assert_eq!(state.refused(), Some(Fault::Memory { wanted: 4 << 16, limit: 3 << 16 }));
        assert_eq!(state.cost(Duration::ZERO, None).memory_bytes, 2 << 16);
    }

    #[test]
    fn a_deadline_is_never_cut_short_by_the_tick_in_progress() {
        let limits = Limits { deadline: Duration::from_millis(15), ..Limits::default() };
        assert_eq!(limits.deadline_ticks(), 4);
    }

    #[test]
    fn a_plugin_gets_the_stricter_of_what_it_asks_and_what_the_engine_has() {
        let ceiling = Limits { fuel: Some(100), stack_bytes: 1 << 20, ..Limits::default() };
        let asked = Limits {
            deadline: Duration::from_secs(60),
            memory_bytes: 1 << 20,
            table_elements: 7,
            log_bytes: 0,
            ..Limits::default()
        };
        assert_eq!(
            asked.within(&ceiling),
            Limits { memory_bytes: 1 << 20, table_elements: 7, log_bytes: 0, ..ceiling }
        );
        assert_eq!(Limits { fuel: Some(9), ..asked }.within(&ceiling).fuel, Some(9));
        // An engine that does not count fuel can't hold anyone to it.
        assert_eq!(Limits { fuel: Some(9), ..asked }.within(&Limits::default()).fuel, None);
    }

    #[test]
    fn records_are_bounded_by_the_spans_they_come_from() {
        assert_eq!(Limits::default().records(1), 64 + 1024);
        assert_eq!(Limits { records_per_span: usize::MAX, ..Limits::default() }.records(2), usize::MAX);
    }
}
