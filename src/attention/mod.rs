//! Attention over the tokens that were selected, and over all of them by the same kernel.
//!
//! ```text
//! indices, slots ──► attend         ──► outputs, log-sum-exps
//! kept tokens    ──► attend_prefill ──► outputs, log-sum-exps
//! ```

mod attend;
#[cfg(any(feature = "cuda", feature = "simt"))]
mod cache;
mod logits;
mod low_rank;
mod mask;
mod prefill;
mod state;

pub use attend::{AttendPlan, AttendShape, SegmentShape, Tokens};
pub use logits::{LogBase, Logits};
pub use low_rank::{LowRankPlan, LowRankShape, Turn};
pub use mask::Mask;
pub use prefill::{Positions, PrefillPlan, PrefillShape};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use {
    attend::{AttendInputs, AttendOutputs, Segment, attend},
    low_rank::{LowRank, attend_low_rank},
    prefill::{PrefillInputs, PrefillOutputs, attend_prefill},
};

/// What the kernels of this room must do, written for reading.
pub mod reference {
    pub use super::attend::reference::{Attended, HostSegment};
    pub use super::low_rank::reference::HostLowRank;
    pub use super::prefill::reference::Prefilled;
    pub use super::state::{Rule, State, Token};
}
