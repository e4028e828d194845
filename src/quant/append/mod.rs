//! New tokens into a paged cache.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{AppendOutputs, NewTokens, append_kv};
pub use plan::{AppendPlan, AppendShape};
