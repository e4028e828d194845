//! Evicted tokens merged into kept ones.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{MergeInputs, MergeState, merge_rows};
pub use plan::{MergePlan, MergeWeights};
