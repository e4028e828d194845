//! Keys and values in which tokens that matter less cost fewer bits.
#![doc = include_str!("format.md")]

mod append;
mod channels;
mod page;
mod pages;
mod row;
mod tier;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use append::{AppendOutputs, NewTokens, append_kv};
pub use append::{AppendPlan, AppendShape};
pub use channels::ChannelsPlan;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use channels::{ChannelViewsMut, MeasuredRows, measure_channels};
pub use page::{Page, PageShape, Place};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use pages::{
    ChannelViews, PageLists, TierPools, TierPoolsMut, dequantize_pages, quantize_pages,
};
pub use pages::{PagesPlan, PagesShape};
pub use tier::{Part, Tier};

pub use crate::turn::Turn;

/// What the kernels of this room must do, written for reading.
pub mod reference {
    pub use super::append::reference::{Appended, HostRows, HostTokens, append};
    pub use super::channels::reference::{Measured, Moments, measure};
    pub use super::row::{Channels, Row, dequantize, normalize, quantize};
}
