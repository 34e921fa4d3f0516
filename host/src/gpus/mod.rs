//! Kinds of GPU: what each has, what an hour of it costs, and which is the smallest that a training fits.

mod error;
mod recommend;
mod table;

pub use error::GpuError;
pub use recommend::{Load, RESERVE_BYTES, Recommendation, Row, UTILISATION, recommend};
pub use table::{GPUS, Gpu, LIST_PRICES_OF, MINIMUM_COMPUTE_CAPABILITY, Price, price};
