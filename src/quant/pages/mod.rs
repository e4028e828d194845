//! Rows as tiered pages, and back.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{
    ChannelViews, PageLists, TierPools, TierPoolsMut, dequantize_pages, quantize_pages,
};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub(super) use launch::{POOL, each_pool};
pub use plan::{PagesPlan, PagesShape};
