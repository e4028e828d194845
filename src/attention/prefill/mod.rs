//! Attention of chunks of prompts over rows of a paged cache that were kept.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{PrefillInputs, PrefillOutputs, attend_prefill};
pub use plan::{Positions, PrefillPlan, PrefillShape};
