//! The shape of a launch that gathers tokens into new pages: pure arithmetic, no driver.

use crate::error::{check_below, check_between};
use crate::kv::MAX_ROWS;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::quant::page::check_written;
use crate::quant::{PagesPlan, PagesShape, Tier};
use crate::{Error, Result};

/// Sizes of a launch of [`retier_pages`](crate::quant::retier_pages).
///
/// ```
/// use lacuna::kv::{KvLayout, KvShape};
/// use lacuna::quant::{PagesShape, RetierPlan, RetierShape};
///
/// let shape = KvShape {
///     batch: 4, n_heads: 8, row_len: 128, n_pages: 1000, page_size: 16, table_stride: 250,
///     ..KvShape::default()
/// };
/// let layout = KvLayout::new(shape.hnd())?;
/// // Up to 60 pages of each of three tiers, in one table; all old pages are in one of 90.
/// let n_pool_pages = [0, 2000, 4000, 4000];
/// let pages = PagesShape { n_pool_pages, ..PagesShape::of(layout, 60) };
/// let plan = RetierPlan::new(RetierShape {
///     n_runs: 3, n_old_pages: 90, n_new_pages: 180, ..RetierShape::of(pages)
/// })?;
/// assert_eq!(plan.new_entries_len(), 4 * 8 * 180);
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetierShape {
    /// The cache, pools, whose lists there are, and pages of a run. All pages of a list have the same channels: one span.
    pub pages: PagesShape,
    /// Runs of a list, 1 to 16: each makes pages that follow each other in the new table, as many as its tokens fill. A run for each tier,
    /// or for each pair of tiers that keys and values have, is what a table needs.
    pub n_runs: u64,
    /// Pages of an old table.
    pub n_old_pages: u64,
    /// Pages of a new one.
    pub n_new_pages: u64,
    /// Positions of a request that slots are known of.
    pub n_positions: u64,
}

impl RetierShape {
    /// One run a list, tables of as many pages as it has, and positions as many as the cache holds.
    pub fn of(pages: PagesShape) -> Self {
        let n_positions = pages.layout.n_rows();
        Self {
            pages,
            n_runs: 1,
            n_old_pages: pages.n_pages,
            n_new_pages: pages.n_pages,
            n_positions,
        }
    }
}

/// A launch that gathers tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetierPlan {
    shape: RetierShape,
    pages: PagesPlan,
}

impl RetierPlan {
    /// # Errors
    /// [`Error::Range`] for a size that is not supported; it says what is.
    pub fn new(shape: RetierShape) -> Result<Self> {
        let pages = PagesPlan::new(shape.pages)?;
        check_written(shape.pages.tail)?;
        if pages.n_spans() > 1 {
            let allowed = "1: a token's channels stay what they are";
            return Err(Error::Range { what: "spans of a list", value: pages.n_spans(), allowed });
        }
        check_between("runs of a list", shape.n_runs, 16, "1..=16")?;
        let n_pages = pages.entries_len() * shape.n_runs;
        check_below("pages of all lists", n_pages, 1 << 31, "0..2^31")?;
        check_below("pages of an old table", shape.n_old_pages, 1 << 20, "0..2^20")?;
        check_below("pages of a new table", shape.n_new_pages, 1 << 20, "0..2^20")?;
        let kv = shape.pages.layout.shape();
        let n_tables = kv.batch * kv.n_heads;
        check_below("pages of all old tables", n_tables * shape.n_old_pages, 1 << 31, "0..2^31")?;
        check_below("pages of all new tables", n_tables * shape.n_new_pages, 1 << 31, "0..2^31")?;
        check_below("positions of a request", shape.n_positions, MAX_ROWS + 1, "0..=2^26")?;
        Ok(Self { shape, pages })
    }

    /// What it was made from.
    pub fn shape(&self) -> &RetierShape {
        &self.shape
    }

    /// Of cache and pools, as of a launch that makes a run's pages.
    pub fn pages(&self) -> &PagesPlan {
        &self.pages
    }

    /// Runs of all lists.
    pub fn runs_len(&self) -> u64 {
        self.pages.n_lists() * self.shape.n_runs
    }

    /// Indices of all runs.
    pub fn indices_len(&self) -> u64 {
        self.pages.indices_len() * self.shape.n_runs
    }

    /// Entries of keys' old pages, and of values'.
    pub fn old_entries_len(&self) -> u64 {
        self.n_heads() * self.shape.n_old_pages
    }

    /// Entries of keys' new pages, and of values'.
    pub fn new_entries_len(&self) -> u64 {
        self.n_heads() * self.shape.n_new_pages
    }

    /// Slots of all positions, old ones and new ones.
    pub fn slots_len(&self) -> u64 {
        self.n_heads() * self.shape.n_positions
    }

    fn n_heads(&self) -> u64 {
        let kv = self.shape.pages.layout.shape();
        kv.batch * kv.n_heads
    }

    /// Bytes that any kernel moves that reads so many old pages, keys' and values' (of 16, 8, 4 and 2 bits), and so many rows of the cache,
    /// and makes so many new pages, all full: each once, lists once, and slots and entries of the heads.
    pub fn least_bytes(&self, n_old: [u64; 4], n_rows: u64, n_new: [u64; 4]) -> u64 {
        let page = self.pages.page(crate::quant::Part::Keys);
        let of_tier = |tier: Tier| {
            let at = tier.tag() as usize;
            (n_old[at] + n_new[at]) * (page.page_bytes(tier) as u64 + 4)
        };
        let n_tokens = 64 * n_new.iter().sum::<u64>() / 2;
        let pages: u64 = Tier::ALL.into_iter().map(of_tier).sum();
        pages + n_rows * 2 * page.head_dim() as u64 + 4 * self.indices_len() + 8 * n_tokens
    }

    /// The grid of the launch: a block for each page of keys, and of values.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let mut grid = self.pages.grid();
        grid.blocks[0] *= self.shape.n_runs as u32;
        grid
    }
}
