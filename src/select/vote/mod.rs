//! The weights that softmaxes give to each token, over heads.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{VoteInputs, vote_rows};
pub use plan::{Together, VotePlan, VoteReduction, VoteRule};
