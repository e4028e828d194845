//! Scores of a query's heads against keys, or against what stands for several.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{ScoreInputs, ScoreOutputs, SoftmaxOutputs, VoteOutputs, score_rows, score_votes};
pub(crate) use plan::MAX_SUMMED;
pub use plan::{GroupReduction, ScoreKind, ScorePlan, ScoreShape};
