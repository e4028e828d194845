//! Attention of few queries over rows of paged caches.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub(super) use launch::params;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{AttendInputs, AttendOutputs, Segment, attend};
pub use plan::{AttendPlan, AttendShape, SegmentShape, Tokens};
