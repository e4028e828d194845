//! Keys and values in which tokens that matter less cost fewer bits.
#![doc = include_str!("format.md")]

mod page;
mod pages;
mod retier;
mod row;
mod tier;

pub use page::{Page, PageShape, Place};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use pages::{
    ChannelViews, PageLists, TierPools, TierPoolsMut, dequantize_pages, quantize_pages,
};
pub use pages::{PagesPlan, PagesShape};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use retier::{RetierInputs, RetierOutputs, retier_pages};
pub use retier::{RetierPlan, RetierShape};
pub use tier::{Part, Tier};

/// What the kernels of this room must do, written for reading.
pub mod reference {
    pub use super::retier::{Token, retier_page};
    pub use super::row::{Channels, Row, dequantize, normalize, quantize};
}
