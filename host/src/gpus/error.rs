use crate::memory::human;

/// No GPU of the table will do.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// Not even the largest has room.
    #[error(
        "no single GPU has room for this training: it takes {} with the reserve, and the nearest, {name}, has {}; {remedy}; more GPUs \
         help little, as each holds the whole model",
        human(*.needed), human(*.has)
    )]
    TooLarge {
        /// Bytes, with the reserve.
        needed: u64,
        /// The largest.
        name: &'static str,
        /// Bytes of it.
        has: u64,
        /// What would take less.
        remedy: String,
    },
}
