//! Attention over the tokens that were selected, and over all of them by the same kernel.
//!
//! ```text
//! indices, slots ──► attend, attend_low_rank ──► outputs, log-sum-exps ──► merge_partials
//! kept tokens    ──► attend_prefill          ──► outputs, log-sum-exps
//! tiered pages   ──► attend_tiered           ──► outputs, log-sum-exps, logits
//! indices        ──► tier_resolve            ──► slots; misses         ──► copy_pages
//! ```

mod attend;
mod check;
mod copy;
mod log_sums;
mod logits;
mod low_rank;
mod mask;
mod merge;
mod prefill;
mod state;
mod tier;
mod tiered;

pub use attend::{AttendPlan, AttendShape, SegmentShape, Tokens};
pub use copy::{CopyPlan, PoolShape, PoolsLayout};
pub use log_sums::LogSumOrder;
pub use logits::{LogBase, Logits};
pub use low_rank::{LowRankPlan, LowRankShape};
pub use mask::Mask;
pub use merge::{MergePlan, MergeShape, PartialShape};
pub use prefill::{Positions, PrefillPlan, PrefillShape};
pub use tier::{TierPlan, TierShape};
pub use tiered::TieredPlan;

pub use crate::turn::Turn;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use {
    attend::{AttendInputs, AttendOutputs, Segment, attend},
    copy::{CopyCheck, CopyInputs, CopyOutputs, Pools, copy_pages, copy_pages_within},
    low_rank::{LowRank, attend_low_rank},
    merge::{MergeOutputs, MergeTarget, Partial, merge_partials, merge_partials_in_place},
    prefill::{PrefillInputs, PrefillOutputs, attend_prefill},
    tier::{PartedSlots, TierInputs, TierOutputs, TierState, tier_resolve},
    tiered::{TieredInputs, attend_tiered},
};

/// What the kernels of this room must do, written for reading.
pub mod reference {
    pub use super::attend::reference::{Attended, HostSegment};
    pub use super::copy::reference::{HostPools, checksum, copy_pages};
    pub use super::low_rank::reference::HostLowRank;
    pub use super::merge::reference::{
        HostPartial, MergeWeights, merge_partials, merge_partials_in_place, merge_row,
    };
    pub use super::prefill::reference::Prefilled;
    pub use super::state::{Rule, State, Token};
    pub use super::tier::reference::{Resolved, Tier};
    pub use super::tiered::reference::TieredAttended;
}
