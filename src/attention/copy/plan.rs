//! The shape of a launch that copies pages: pure arithmetic, no driver.

use crate::error::check_below;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::{Error, Result};

const THREADS_PER_BLOCK: u64 = 128;
/// A lane's share of a chunk of a page.
const LANE_BYTES: u64 = 256;

/// The pages of one pool, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// From the first of a page to its last: a multiple of 4 bytes.
    pub page_len: u64,
    /// From page to page, no less; a multiple of 4 bytes.
    pub page_stride: u64,
}

/// Pools whose pages bear the same numbers: of each layer one where keys and values are fused, else two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolsLayout {
    n_pages: u64,
    element_bytes: u32,
    pools: Vec<PoolShape>,
    /// Elements of all pools' pages, where they follow each other in one buffer.
    packed_len: Option<u64>,
}

impl PoolsLayout {
    /// Each pool in a buffer of its own, `n_pages` pages of elements of `element_bytes`.
    ///
    /// # Errors
    /// [`Error::Range`] for a size that is not supported; it says what is.
    pub fn new(n_pages: u64, element_bytes: u32, pools: Vec<PoolShape>) -> Result<Self> {
        check_below("pages of a pool", n_pages, 1 << 31, "0..2^31")?;
        let value = pools.len() as u64;
        if !(1..=65_535).contains(&value) {
            return Err(Error::Range { what: "pools", value, allowed: "1..=65535" });
        }
        let bytes_of = |len: u64| len.saturating_mul(element_bytes.into());
        let mut n_words = 0_u64;
        for pool in &pools {
            let [page_bytes, stride_bytes] = [bytes_of(pool.page_len), bytes_of(pool.page_stride)];
            for (what, value) in
                [("bytes of a page", page_bytes), ("bytes from page to page", stride_bytes)]
            {
                if value == 0 || !value.is_multiple_of(4) {
                    let allowed = "the multiples of 4 above 0";
                    return Err(Error::Range { what, value, allowed });
                }
            }
            check_below("bytes of a page", page_bytes, 1 << 31, "0..2^31")?;
            if pool.page_stride < pool.page_len {
                let what = "stride between pages, in elements";
                let allowed = "the elements of a page and more";
                return Err(Error::Range { what, value: pool.page_stride, allowed });
            }
            let pool_bytes = stride_bytes.saturating_mul(n_pages);
            check_below("bytes of a pool", pool_bytes, 1 << 47, "0..2^47")?;
            n_words += page_bytes / 4;
        }
        check_below("words of a page in all pools", n_words, 1 << 31, "0..2^31")?;
        Ok(Self { n_pages, element_bytes, pools, packed_len: None })
    }

    /// The same pages, `n_pages` of them, in one buffer: of each page what all pools have of it, in their order
    /// and without gaps. This is what is sent elsewhere.
    ///
    /// # Errors
    /// [`Error::Range`] for more than 2^47 bytes.
    pub fn packed(&self, n_pages: u64) -> Result<Self> {
        let page_stride = self.pools.iter().map(|pool| pool.page_len).sum();
        let pools = self.pools.iter().map(|pool| PoolShape { page_stride, ..*pool }).collect();
        let layout = Self::new(n_pages, self.element_bytes, pools)?;
        Ok(Self { packed_len: Some(n_pages * page_stride), ..layout })
    }

    /// Pages of each pool.
    pub fn n_pages(&self) -> u64 {
        self.n_pages
    }

    /// Its pools.
    pub fn pools(&self) -> &[PoolShape] {
        &self.pools
    }

    /// Elements of each buffer: of each pool's, from the first of the first page to the last of the last; of the
    /// one where pages are packed.
    pub fn lens(&self) -> Vec<u64> {
        match self.packed_len {
            Some(len) => vec![len],
            None => {
                let len = |pool: &PoolShape| {
                    crate::plan::spread(self.n_pages, pool.page_stride, pool.page_len)
                };
                self.pools.iter().map(len).collect()
            }
        }
    }

    /// The elements of its buffer before the pool's first.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn starts(&self) -> impl Iterator<Item = u64> {
        let is_packed = self.packed_len.is_some();
        self.pools.iter().scan(0, move |next, pool| {
            let start = *next;
            *next += if is_packed { pool.page_len } else { 0 };
            Some(start)
        })
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn element_bytes(&self) -> u64 {
        self.element_bytes.into()
    }

    /// Bytes of a page in all pools.
    pub fn page_bytes(&self) -> u64 {
        let len: u64 = self.pools.iter().map(|pool| pool.page_len).sum();
        len * u64::from(self.element_bytes)
    }
}

/// A launch that copies pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyPlan {
    n_lists: u64,
    n_pairs: u64,
    n_pools: u64,
    n_pages: [u64; 2],
    page_bytes: u64,
    /// Of the pool whose pages are longest.
    longest_bytes: u64,
    most_blocks: u64,
}

impl CopyPlan {
    /// `n_lists` lists of up to `n_pairs` pages, out of pools into others of as many bytes a page.
    ///
    /// # Errors
    /// [`Error::Range`] for a size that is not supported, and [`Error::Shape`] where the pools do not match.
    pub fn new(
        n_lists: u64,
        n_pairs: u64,
        sources: &PoolsLayout,
        targets: &PoolsLayout,
    ) -> Result<Self> {
        let check = |what, expected: u64, got: u64| {
            if expected == got { Ok(()) } else { Err(Error::Shape { what, expected, got }) }
        };
        check("pools of targets", sources.pools.len() as u64, targets.pools.len() as u64)?;
        check(
            "bytes of an element of targets",
            sources.element_bytes.into(),
            targets.element_bytes.into(),
        )?;
        for (source, target) in sources.pools.iter().zip(&targets.pools) {
            check("elements of a target's page", source.page_len, target.page_len)?;
        }
        check_below("lists of pairs", n_lists, 1 << 31, "0..2^31")?;
        // A team is at most 32 threads.
        let n_all = n_lists.max(1).saturating_mul(n_pairs);
        check_below("pairs of all lists", n_all, 1 << 31, "0..2^31")?;
        let longest = sources.pools.iter().map(|pool| pool.page_len).max().unwrap_or(0);
        let plan = Self {
            n_lists,
            n_pairs,
            n_pools: sources.pools.len() as u64,
            n_pages: [sources.n_pages, targets.n_pages],
            page_bytes: sources.page_bytes(),
            longest_bytes: longest * u64::from(sources.element_bytes),
            most_blocks: u64::MAX,
        };
        check_below("tiles of all pairs, pools and chunks", plan.n_tiles(), 1 << 31, "0..2^31")?;
        Ok(plan)
    }

    /// The same by so many blocks at most, of 128 threads, at least 1: a copy over the bus needs few, and leaves
    /// the multiprocessors to attention that runs beside it. The bits are the same.
    pub fn with_blocks(self, most_blocks: u64) -> Self {
        Self { most_blocks: most_blocks.max(1), ..self }
    }

    /// Pairs of all lists.
    pub fn n_all_pairs(&self) -> u64 {
        self.n_lists * self.n_pairs
    }

    /// Numbers of pages of all pairs: two of each.
    pub fn pairs_len(&self) -> u64 {
        2 * self.n_all_pairs()
    }

    /// Lists of pairs.
    pub fn n_lists(&self) -> u64 {
        self.n_lists
    }

    /// Words of the workspace of a launch that sums: zeroed once, and zero again after every launch.
    pub fn workspace_len(&self) -> u64 {
        2 * self.n_all_pairs()
    }

    /// Bytes that any kernel moves which copies all pairs: each page read once and written once, by its pair, and
    /// its checksum.
    pub fn least_bytes(&self, n_sums: u64) -> u64 {
        self.n_all_pairs().saturating_mul(2 * self.page_bytes + 8 + 8 * n_sums)
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn most_blocks(&self) -> u64 {
        self.most_blocks
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn n_pairs(&self) -> u64 {
        self.n_pairs
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn n_pools(&self) -> u64 {
        self.n_pools
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn n_pages(&self) -> [u64; 2] {
        self.n_pages
    }

    /// As many lanes have a chunk as its units of 16 bytes, 32 at most.
    pub(super) fn lane_bits(&self) -> u32 {
        let n_units = self.longest_bytes.div_ceil(16);
        n_units.clamp(1, 32).next_power_of_two().trailing_zeros()
    }

    pub(super) fn n_chunks(&self) -> u64 {
        self.longest_bytes.div_ceil(LANE_BYTES << self.lane_bits())
    }

    /// Blocks' parts of the pairs.
    pub(super) fn n_pair_tiles(&self) -> u64 {
        (self.n_all_pairs() << self.lane_bits()).div_ceil(THREADS_PER_BLOCK)
    }

    fn n_tiles(&self) -> u64 {
        (self.n_pair_tiles() * self.n_pools).saturating_mul(self.n_chunks())
    }

    /// The grid of its launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        Grid {
            blocks: [self.n_tiles().min(self.most_blocks) as u32, 1, 1],
            threads: [THREADS_PER_BLOCK as u32, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
