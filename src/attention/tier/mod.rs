//! Pages of a large tier in the slots of a small one.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{PartedSlots, TierInputs, TierOutputs, TierState, tier_resolve};
pub use plan::{TierPlan, TierShape};
