//! What a process has asked of its devices.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Counts since the start, or since the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Counters {
    /// By the kernel's name.
    pub kernels: BTreeMap<String, Kernel>,
    /// cuBLASLt.
    pub blas: MatrixProducts,
    /// Launches of whole graphs; what is in them is counted with the kernels and the matrix products.
    pub graph_launches: u64,
    /// Of a stream, an event or the context.
    pub synchronisations: u64,
    /// Memsets.
    pub memsets: Transfers,
    /// Copies from the host.
    pub host_to_device: Transfers,
    /// Copies to the host.
    pub device_to_host: Transfers,
    /// Copies within the devices' memory.
    pub device_to_device: Transfers,
    /// Allocations of device memory.
    pub allocations: Transfers,
    /// Allocations of pinned memory of the host.
    pub host_allocations: Transfers,
    /// The most device memory that was allocated at a time.
    pub peak_bytes: u64,
}

/// What a kernel's launches did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Kernel {
    /// Launches outside of graphs.
    pub launches: u64,
    /// Launches as nodes of graphs.
    pub graph_launches: u64,
    /// A fused multiply-add counts as two.
    pub flops: u64,
    /// Bytes, counted with each access of each thread.
    pub global_read_bytes: u64,
    /// Likewise.
    pub global_written_bytes: u64,
    /// Likewise.
    pub shared_read_bytes: u64,
    /// Likewise.
    pub shared_written_bytes: u64,
}

/// Matrix products by cuBLASLt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct MatrixProducts {
    /// Calls outside of graphs.
    pub calls: u64,
    /// Calls as nodes of graphs.
    pub graph_calls: u64,
    /// By their shapes.
    pub flops: u64,
}

/// How many there were, and of how many bytes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Transfers {
    /// How many.
    pub count: u64,
    /// Of all of them.
    pub bytes: u64,
}
