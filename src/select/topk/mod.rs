//! The first scores of each row, exactly, by one of four rules.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;
mod rule;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{TopkInputs, TopkOutputs, topk_rows};
pub use plan::{MAX_PICKS, TopkPages, TopkPlan, TopkShape};
pub use rule::{Order, Rule};
