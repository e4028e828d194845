//! Attention over the tokens that were selected, and over all of them by the same kernel.
//!
//! ```text
//! indices, slots ──► attend ──► outputs, log-sum-exps
//! indices ──► tier_resolve ──► slots; misses ──► copy_pages
//! ```

mod attend;
mod copy;
mod tier;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use attend::{AttendInputs, AttendOutputs, Segment, attend};
pub use attend::{AttendPlan, AttendShape, LogBase, Mask, SegmentShape, Tokens};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use copy::{CopyCheck, CopyInputs, CopyOutputs, Pools, copy_pages, copy_pages_within};
pub use copy::{CopyPlan, PoolShape, PoolsLayout};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use tier::{PartedSlots, TierInputs, TierOutputs, TierState, tier_resolve};
pub use tier::{TierPlan, TierShape};

/// What the kernels of this room must do, written for reading.
pub mod reference {
    pub use super::attend::reference::{Attended, HostSegment, Rule, State, Token};
    pub use super::copy::reference::{HostPools, checksum, copy_pages};
    pub use super::tier::reference::{Resolved, Tier};
}
