//! The k largest scores of each row, exactly.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{TopkInputs, TopkOutputs, topk_rows};
pub use plan::{MAX_PICKS, TopkPlan, TopkShape};
