//! Rows as tiered pages, and back.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{
    ChannelViews, PageLists, TierPools, TierPoolsMut, dequantize_pages, quantize_pages,
};
pub use plan::{PagesPlan, PagesShape};
