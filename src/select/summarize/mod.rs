//! Rows that stand for several keys each.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{SummarizeInputs, SummarizeOutputs, summarize};
pub use plan::{SummarizePlan, SummarizeShape, Summary};
