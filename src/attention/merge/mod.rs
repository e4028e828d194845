//! Partial results of attention, as one.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{MergeOutputs, MergeTarget, Partial, merge_partials, merge_partials_in_place};
pub use plan::{MergePlan, MergeShape, PartialShape};
