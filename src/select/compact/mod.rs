//! The kept elements of each row, or the others, in its order.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{CompactInputs, CompactOutputs, compact_rows};
pub use plan::{CompactPlan, CompactShape, Listed};
