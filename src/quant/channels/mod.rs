//! What channels are relative to, measured.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{ChannelViewsMut, MeasuredRows, measure_channels};
pub use plan::ChannelsPlan;
