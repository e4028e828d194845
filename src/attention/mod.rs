//! Attention over the tokens that were selected, and over all of them by the same kernel.
//!
//! ```text
//! indices, slots ──► attend ──► outputs, log-sum-exps
//! ```

mod attend;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use attend::{AttendInputs, AttendOutputs, Segment, attend};
pub use attend::{AttendPlan, AttendShape, LogBase, Mask, SegmentShape, Tokens};

/// What the kernels of this room must do, written for reading.
pub mod reference {
    pub use super::attend::reference::{Attended, HostSegment, Rule, State, Token};
}
