//! The shape of a launch that picks: pure arithmetic, no driver.

use super::rule::{Order, Rule};
use crate::error::check_below;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::select::Score;
use crate::{Error, Result};

/// The most picks of a row.
pub const MAX_PICKS: u32 = 8192;
/// Of dynamic shared memory, so much is left beside the kernel's own on every device that images are for
/// (99 KiB a block on 8.6, 8.9 and 12.0; others have more). A plan knows no device.
#[cfg(any(feature = "cuda", feature = "simt"))]
const SHARED_BYTES: u64 = 96 << 10;
#[cfg(any(feature = "cuda", feature = "simt"))]
const VECTOR_BYTES: u64 = 16;
/// The most blocks of a cluster that any device runs.
const MOST_BLOCKS: u32 = 16;
/// The most that have a row unless more are asked for: all devices with clusters run so many.
#[cfg(any(feature = "cuda", feature = "simt"))]
const USUAL_BLOCKS: u64 = 8;
/// Of a slice of a row, at least: a vector for each thread.
#[cfg(any(feature = "cuda", feature = "simt"))]
const SLICE_VECTORS: u64 = 1024;
/// A slice has whole warps' vectors.
#[cfg(any(feature = "cuda", feature = "simt"))]
const WARP: u64 = 32;

/// Sizes of a launch of [`topk_rows`](crate::select::topk_rows), and what it picks:
///
/// ```
/// use half::bf16;
/// use lacuna::select::{Order, Rule, TopkPlan, TopkShape};
///
/// let shape = TopkShape {
///     n_first: 4,
///     rule: Rule::Mass { share: 0.975 },
///     order: Order::Score,
///     ..TopkShape::of::<bf16>(32, 4096, 512)
/// };
/// let plan = TopkPlan::new(shape)?;
/// assert_eq!(plan.picks_len(), 32 * 512);
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopkShape {
    /// Rows of scores, below 2^31.
    pub n_rows: u64,
    /// Scores of a row: below 2^31, with pages at most 2^26, by mass at most 2^24.
    pub n: u64,
    /// Elements between the starts of two rows, at least `n`.
    pub row_stride: u64,
    /// Places for picks in a row, at most [`MAX_PICKS`]; none where only a mask or a number is asked for.
    pub k: u64,
    /// So many of a row's first candidates come before all others (attention sinks),
    pub n_first: u64,
    /// and so many of its last (the local window).
    pub n_last: u64,
    /// Rows that share a request's length and its entries of the page table, one after the other: its heads, or its
    /// queries.
    pub rows_per_request: u64,
    /// Tokens that a score stands for, in which lengths are: 1, or those of a page or a chunk. Below 2^31.
    pub tokens_per_score: u64,
    /// Bytes of a score: 2 or 4.
    pub score_bytes: u32,
    /// Which candidates are picked.
    pub rule: Rule,
    /// In which order they come.
    pub order: Order,
    /// The pages that indices are translated through, where slots are asked for.
    pub pages: Option<TopkPages>,
}

impl TopkShape {
    /// The `k` largest of each of `n_rows` rows of `n` scores, one after the other: nothing forced, by index, each row
    /// a request's and each score a token's.
    pub fn of<T: Score>(n_rows: u64, n: u64, k: u64) -> Self {
        Self {
            n_rows,
            n,
            row_stride: n,
            k,
            n_first: 0,
            n_last: 0,
            rows_per_request: 1,
            tokens_per_score: 1,
            score_bytes: size_of::<T>() as u32,
            rule: Rule::Largest,
            order: Order::Index,
            pages: None,
        }
    }
}

/// A page table that turns indices into slots of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopkPages {
    /// Pages of the pool; a number outside is that of no page.
    pub n_pages: u64,
    /// Indices of a page, 1 to 256.
    pub page_size: u64,
    /// Entries of the table from request to request: what a row has past them has no page.
    pub table_stride: u64,
}

/// A launch that picks the first scores of each row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopkPlan {
    shape: TopkShape,
    n_blocks: Option<u32>,
}

impl TopkPlan {
    /// # Errors
    /// [`Error::Range`] and [`Error::Number`] for what is not supported; they say what is.
    pub fn new(shape: TopkShape) -> Result<Self> {
        check_below("rows of scores", shape.n_rows, 1 << 31, "0..2^31")?;
        check_below("scores of a row", shape.n, 1 << 31, "0..2^31")?;
        check_below("picks of a row", shape.k, u64::from(MAX_PICKS) + 1, "0..=8192")?;
        check_below("forced first candidates", shape.n_first, 1 << 31, "0..2^31")?;
        check_below("forced last candidates", shape.n_last, 1 << 31, "0..2^31")?;
        if shape.rows_per_request == 0 {
            let (what, value) = ("rows of a request", shape.rows_per_request);
            return Err(Error::Range { what, value, allowed: "1 and more" });
        }
        if !(1..1 << 31).contains(&shape.tokens_per_score) {
            let (what, value) = ("tokens of a score", shape.tokens_per_score);
            return Err(Error::Range { what, value, allowed: "1..2^31" });
        }
        let is_known = shape.score_bytes == 2 || shape.score_bytes == 4;
        if !is_known {
            let value = shape.score_bytes.into();
            return Err(Error::Range { what: "bytes of a score", value, allowed: "2 and 4" });
        }
        if shape.row_stride < shape.n {
            let (what, value) = ("stride between rows, in elements", shape.row_stride);
            return Err(Error::Range { what, value, allowed: "the scores of a row and more" });
        }
        let last_row = shape.n_rows.saturating_sub(1);
        let n_bytes = last_row
            .checked_mul(shape.row_stride)
            .and_then(|n| n.checked_add(shape.n))
            .and_then(|n| n.checked_mul(shape.score_bytes.into()));
        check_below("bytes of scores", n_bytes.unwrap_or(u64::MAX), 1 << 47, "0..2^47")?;
        shape.rule.check()?;
        if let Rule::Mass { .. } = shape.rule {
            check_below("scores of a row by mass", shape.n, (1 << 24) + 1, "0..=2^24")?;
        }
        if let Some(pages) = &shape.pages {
            pages.check(&shape)?;
        }
        Ok(Self { shape, n_blocks: None })
    }

    /// The same with a cluster of `n_blocks` for each row, 1 to 16, in place of what the length of rows says; or of
    /// as many as a queue has. For measurements: the bits are the same.
    ///
    /// # Errors
    /// [`Error::Range`] for a number of blocks that no device has.
    pub fn with_blocks(self, n_blocks: u32) -> Result<Self> {
        if !(1..=MOST_BLOCKS).contains(&n_blocks) {
            let (what, value) = ("thread blocks of a row", n_blocks.into());
            return Err(Error::Range { what, value, allowed: "1..=16" });
        }
        Ok(Self { n_blocks: Some(n_blocks), ..self })
    }

    /// What it was made from.
    pub fn shape(&self) -> &TopkShape {
        &self.shape
    }

    /// Scores from the first of the first row to the last of the last.
    pub fn scores_len(&self) -> u64 {
        if self.shape.n_rows == 0 {
            return 0;
        }
        (self.shape.n_rows - 1) * self.shape.row_stride + self.shape.n
    }

    /// Elements of `indices`, and of `values` and `slots`.
    pub fn picks_len(&self) -> u64 {
        self.shape.n_rows * self.shape.k
    }

    /// Bytes of `kept`.
    pub fn mask_len(&self) -> u64 {
        self.shape.n_rows * self.shape.n
    }

    /// Elements of `lengths`.
    pub fn n_requests(&self) -> u64 {
        self.shape.n_rows.div_ceil(self.shape.rows_per_request)
    }

    /// Entries of the page table.
    pub fn table_len(&self) -> u64 {
        self.shape.pages.map_or(0, |pages| self.n_requests() * pages.table_stride)
    }

    /// Bytes that any kernel moves for whole rows: every score read once, every index, count and byte of a mask
    /// written once.
    pub fn least_bytes(&self, has_mask: bool) -> u64 {
        let TopkShape { n_rows, n, k, score_bytes, .. } = self.shape;
        n_rows * (n * u64::from(score_bytes) + 4 * k + 4 + if has_mask { n } else { 0 })
    }

    /// Blocks that have a row together, where a queue has clusters of `most`: by the length of rows alone. Powers of
    /// two, as devices have multiprocessors for.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn n_blocks(&self, most: u32) -> u64 {
        let n_slices = self.n_vectors() / SLICE_VECTORS;
        let usual = 1 << n_slices.clamp(1, USUAL_BLOCKS).ilog2();
        let n_blocks = self.n_blocks.map_or(usual, u64::from).min(most.max(1).into());
        // No grid has more.
        if self.shape.n_rows * n_blocks < 1 << 31 { n_blocks } else { 1 }
    }

    /// Vectors of a row; one that begins within one has one more.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn n_vectors(&self) -> u64 {
        let score_bytes = u64::from(self.shape.score_bytes);
        (self.shape.n * score_bytes + VECTOR_BYTES - score_bytes).div_ceil(VECTOR_BYTES)
    }

    /// Of a block's slice, at most.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn n_slice_vectors(&self, n_blocks: u64) -> u64 {
        let n_vectors = self.n_vectors();
        if n_blocks == 1 { n_vectors } else { n_vectors.div_ceil(n_blocks).next_multiple_of(WARP) }
    }

    /// Threads of a block: a vector of scores each, before any has two.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn n_threads(&self, n_blocks: u64) -> u64 {
        let n_bytes = self.shape.n * u64::from(self.shape.score_bytes);
        let n_vectors = n_bytes.div_ceil(VECTOR_BYTES).div_ceil(n_blocks);
        n_vectors.next_power_of_two().clamp(WARP, 1024)
    }

    /// Bytes for histograms, of which blocks of a cluster have two, and for picks after them.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn n_work_bytes(&self, n_blocks: u64) -> u64 {
        let n_of_slice =
            self.n_slice_vectors(n_blocks) * VECTOR_BYTES / u64::from(self.shape.score_bytes);
        let n_picks = self.shape.k.min(self.shape.n);
        let n_bytes = match self.shape.order {
            Order::Index => 4 * n_picks.min(n_of_slice),
            Order::Score => 8 * n_picks.next_power_of_two(),
        };
        let n_histograms = n_blocks.min(2);
        n_bytes
            .max(n_histograms * VECTOR_BYTES * self.n_threads(n_blocks))
            .next_multiple_of(VECTOR_BYTES)
    }

    /// Vectors of a slice that are kept on chip.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn n_staged(&self, n_blocks: u64) -> u64 {
        let n_room = (SHARED_BYTES - self.n_work_bytes(n_blocks)) / VECTOR_BYTES;
        self.n_slice_vectors(n_blocks).min(n_room)
    }

    /// What the launch's parameters say of a block's dynamic shared memory: bytes to work in, and vectors to keep.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn shared_memory(&self, grid: &Grid) -> [u32; 2] {
        let n_blocks = grid.cluster_blocks.into();
        [self.n_work_bytes(n_blocks) as u32, self.n_staged(n_blocks) as u32]
    }

    /// The grid of a launch without clusters: a block has a row.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        self.cluster_grid(1)
    }

    /// The grid of a launch where clusters have up to `most` blocks, as
    /// [`Queue::most_cluster_blocks`](crate::Queue::most_cluster_blocks) says: a cluster has a row, of one block for
    /// each 16 KiB of a whole row, rounded down to a power of two, and of 8 at most. Neither the number of rows nor
    /// the device has a say.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn cluster_grid(&self, most: u32) -> Grid {
        let n_blocks = self.n_blocks(most);
        let n_shared = self.n_work_bytes(n_blocks) + VECTOR_BYTES * self.n_staged(n_blocks);
        Grid {
            blocks: [(self.shape.n_rows * n_blocks) as u32, 1, 1],
            threads: [self.n_threads(n_blocks) as u32, 1, 1],
            dynamic_shared_bytes: n_shared as u32,
            cluster_blocks: n_blocks as u32,
        }
    }
}

impl TopkPages {
    fn check(&self, shape: &TopkShape) -> Result<()> {
        if !(1..=256).contains(&self.page_size) {
            let (what, value) = ("indices of a page", self.page_size);
            return Err(Error::Range { what, value, allowed: "1..=256" });
        }
        check_below("scores of a row with pages", shape.n, (1 << 26) + 1, "0..=2^26")?;
        let n_slots = self.n_pages.saturating_mul(self.page_size);
        check_below("slots of the pool", n_slots, (1 << 31) + 1, "0..=2^31")?;
        let n_requests = shape.n_rows.div_ceil(shape.rows_per_request);
        let n_entries = n_requests.saturating_mul(self.table_stride);
        check_below("entries of the page table", n_entries, 1 << 45, "0..2^45")
    }

    /// `i * multiplier >> 34` is `i / page_size` of what a row has.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn multiplier(&self) -> u64 {
        (1_u64 << 34).div_ceil(self.page_size)
    }
}
