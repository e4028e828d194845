//! Attention over tiered pages.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(crate) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{TieredInputs, attend_tiered};
pub use plan::TieredPlan;
