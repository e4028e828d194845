//! Attention over keys that are made on chip.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{LowRank, attend_low_rank};
pub use plan::{LowRankPlan, LowRankShape};
