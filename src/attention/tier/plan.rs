//! The shape of a launch that resolves: pure arithmetic, no driver.

use crate::error::check_below;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::{Error, Result};

#[cfg(any(feature = "cuda", feature = "simt"))]
const THREADS_PER_BLOCK: u32 = 512;

/// Sizes of a launch of [`tier_resolve`](crate::attention::tier_resolve).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierShape {
    /// Requests.
    pub batch: u64,
    /// Lists of a request: 1, or one for each head of keys. Each has slots of its own.
    pub lists_per_request: u64,
    /// Entries of a list, at most 8,192.
    pub n: u64,
    /// Logical numbers of a request: its tokens, or its pages.
    pub n_logical: u64,
    /// Slots of a list, 1 to 32,768. With at least `n`, each entry gets one.
    pub n_slots: u64,
    /// Pages of the large tier.
    pub n_source_pages: u64,
}

/// A launch that resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierPlan {
    shape: TierShape,
}

impl TierPlan {
    /// # Errors
    /// [`Error::Range`] for a size that is not supported; it says what is.
    pub fn new(shape: TierShape) -> Result<Self> {
        let TierShape { batch, lists_per_request, n, n_logical, n_slots, n_source_pages } = shape;
        check_below("entries of a list", n, 8193, "0..=8192")?;
        for (what, value, most, allowed) in [
            ("slots of a list", n_slots, 32_768, "1..=32768"),
            ("lists of a request", lists_per_request, 65_535, "1..=65535"),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::Range { what, value, allowed });
            }
        }
        check_below("requests", batch, 1 << 31, "0..2^31")?;
        let n_lists = batch * lists_per_request;
        check_below("logical numbers of a request", n_logical, 1 << 31, "0..2^31")?;
        check_below("pages of the large tier", n_source_pages, 1 << 31, "0..2^31")?;
        for (what, each) in [
            ("entries of all lists", n),
            ("logical numbers of all lists", n_logical),
            ("slots of all lists", n_slots),
        ] {
            check_below(what, n_lists.saturating_mul(each), 1 << 31, "0..2^31")?;
        }
        Ok(Self { shape })
    }

    /// What it was made from.
    pub fn shape(&self) -> &TierShape {
        &self.shape
    }

    /// Lists of all requests.
    pub fn n_lists(&self) -> u64 {
        self.shape.batch * self.shape.lists_per_request
    }

    /// Entries of all lists.
    pub fn entries_len(&self) -> u64 {
        self.n_lists() * self.shape.n
    }

    /// Elements of `misses`: a pair for each entry.
    pub fn misses_len(&self) -> u64 {
        2 * self.entries_len()
    }

    /// Elements of `slot_of`.
    pub fn slot_of_len(&self) -> u64 {
        self.n_lists() * self.shape.n_logical
    }

    /// Elements of `logical_of`, and pages of the small tier.
    pub fn logical_of_len(&self) -> u64 {
        self.n_lists() * self.shape.n_slots
    }

    /// Words of `referenced`.
    pub fn referenced_len(&self) -> u64 {
        self.n_lists() * self.shape.n_slots.div_ceil(32)
    }

    /// Elements of `source_table`.
    pub fn source_table_len(&self) -> u64 {
        self.shape.batch * self.shape.n_logical
    }

    /// Bytes that any kernel moves of which so many entries of all lists hit, and so many numbers miss: an entry,
    /// its slot and its pair, both maps of it, and what it drives out; bits and hands once in and out.
    pub fn least_bytes(&self, n_hits: u64, n_misses: u64) -> u64 {
        let state = 2 * 4 * (self.referenced_len() + self.n_lists());
        16 * self.entries_len() + 8 * n_hits + 16 * n_misses + state + 4 * self.n_lists()
    }

    /// The grid of its launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        Grid {
            blocks: [self.n_lists() as u32, 1, 1],
            threads: [THREADS_PER_BLOCK, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
