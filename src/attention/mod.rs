//! Attention over the tokens that were selected, and over all of them by the same kernel.
//!
//! ```text
//! indices, slots ──► attend ──► outputs, log-sum-exps ──► merge_partials ──► outputs, log-sum-exps
//! ```

mod attend;
mod merge;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use attend::{AttendInputs, AttendOutputs, Segment, attend};
pub use attend::{AttendPlan, AttendShape, LogBase, Mask, SegmentShape, Tokens};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use merge::{MergeOutputs, MergeTarget, Partial, merge_partials, merge_partials_in_place};
pub use merge::{MergePlan, MergeShape};

/// What the kernels of this room must do, written for reading.
pub mod reference {
    pub use super::attend::reference::{Attended, HostSegment, Rule, State, Token};
    pub use super::merge::reference::{
        HostPartial, MergeWeights, merge_partials, merge_partials_in_place, merge_row,
    };
}
