//! The shape of the launches that merge tokens: pure arithmetic, no driver.

use crate::Result;
use crate::error::check_below;
use crate::kv::KvLayout;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;

/// Rows of either list that a block has.
#[cfg(any(feature = "cuda", feature = "simt"))]
const TILE: u64 = 32;

/// How a kept row and those merged into it are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MergeWeights {
    /// The paper's: exp(similarity) of each, the kept row's similarity being 1, over their sum.
    #[default]
    Softmax,
    /// The released code's: rows times their similarity, the kept row as it is, over how many there are.
    Released,
}

/// The launches that merge evicted tokens of a paged cache into kept ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergePlan {
    layout: KvLayout,
    n_evicted: u64,
    n_kept: u64,
}

impl MergePlan {
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for a size that is not supported; it says what is.
    pub fn new(layout: KvLayout, n_evicted: u64, n_kept: u64) -> Result<Self> {
        let n_lists = (layout.shape().batch * layout.shape().n_heads).max(1);
        check_below("lists of tokens", n_lists, 1 << 31, "0..2^31")?;
        check_below("elements of a merged row", layout.shape().row_len, 257, "0..=256")?;
        check_below("evicted tokens", n_lists.saturating_mul(n_evicted), 1 << 31, "0..2^31")?;
        check_below("kept tokens", n_lists.saturating_mul(n_kept), 1 << 31, "0..2^31")?;
        Ok(Self { layout, n_evicted, n_kept })
    }

    /// The cache's sizes.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Tokens of a list of those evicted.
    pub fn n_evicted(&self) -> u64 {
        self.n_evicted
    }

    /// Tokens of a list of those kept.
    pub fn n_kept(&self) -> u64 {
        self.n_kept
    }

    /// Requests times heads, and thresholds.
    pub fn n_lists(&self) -> u64 {
        self.layout.shape().batch * self.layout.shape().n_heads
    }

    /// Entries of all lists of evicted tokens, and of `nearest` and `similarities`.
    pub fn evicted_len(&self) -> u64 {
        self.n_lists() * self.n_evicted
    }

    /// Entries of all lists of kept tokens.
    pub fn kept_len(&self) -> u64 {
        self.n_lists() * self.n_kept
    }

    /// The grid of the first launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn near_grid(&self) -> Grid {
        grid(self.n_lists() * self.n_evicted.div_ceil(TILE), 256)
    }

    /// The grid of the second.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn threshold_grid(&self) -> Grid {
        grid(if self.n_evicted == 0 { 0 } else { self.n_lists() }, 256)
    }

    /// The grid of the third.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn merge_grid(&self) -> Grid {
        let is_empty = self.n_evicted == 0;
        grid(if is_empty { 0 } else { self.n_lists() * self.n_kept.div_ceil(TILE) }, 512)
    }
}

#[cfg(any(feature = "cuda", feature = "simt"))]
fn grid(n_blocks: u64, n_threads: u32) -> Grid {
    Grid {
        blocks: [n_blocks as u32, 1, 1],
        threads: [n_threads, 1, 1],
        dynamic_shared_bytes: 0,
        cluster_blocks: 1,
    }
}
