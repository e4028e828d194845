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
    /// Places for picks in a row, at most [`MAX_PICKS`].
    pub k: u64,
    /// So many of a row's first candidates come before all others (attention sinks),
    pub n_first: u64,
    /// and so many of its last (the local window).
    pub n_last: u64,
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
    /// The `k` largest of each of `n_rows` rows of `n` scores, one after the other: nothing forced, by index.
    pub fn of<T: Score>(n_rows: u64, n: u64, k: u64) -> Self {
        Self {
            n_rows,
            n,
            row_stride: n,
            k,
            n_first: 0,
            n_last: 0,
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
    /// Rows that share a request's entries, one after the other: its heads, or its queries.
    pub rows_per_request: u64,
}

/// A launch that picks the first scores of each row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopkPlan {
    shape: TopkShape,
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
        Ok(Self { shape })
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

    /// Entries of the page table.
    pub fn table_len(&self) -> u64 {
        self.shape.pages.map_or(0, |pages| {
            self.shape.n_rows.div_ceil(pages.rows_per_request) * pages.table_stride
        })
    }

    /// Bytes that any kernel moves for whole rows: every score read once, every index and count written once.
    pub fn least_bytes(&self) -> u64 {
        let TopkShape { n_rows, n, k, score_bytes, .. } = self.shape;
        n_rows * (n * u64::from(score_bytes) + 4 * k + 4)
    }

    /// Threads of a block: a vector of scores each, before any has two.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn n_threads(&self) -> u64 {
        let n_vectors = (self.shape.n * u64::from(self.shape.score_bytes)).div_ceil(VECTOR_BYTES);
        n_vectors.next_power_of_two().clamp(32, 1024)
    }

    /// Bytes for histograms, and for picks after them.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn n_work_bytes(&self) -> u64 {
        let n_picks = self.shape.k.min(self.shape.n);
        let n_bytes = match self.shape.order {
            Order::Index => 4 * n_picks,
            Order::Score => 8 * n_picks.next_power_of_two(),
        };
        n_bytes.max(VECTOR_BYTES * self.n_threads()).next_multiple_of(VECTOR_BYTES)
    }

    /// Vectors of a row that are kept on chip; a row that begins within one has one more.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn n_staged(&self) -> u64 {
        let score_bytes = u64::from(self.shape.score_bytes);
        let of_row =
            (self.shape.n * score_bytes + VECTOR_BYTES - score_bytes).div_ceil(VECTOR_BYTES);
        of_row.min((SHARED_BYTES - self.n_work_bytes()) / VECTOR_BYTES)
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let n_shared = self.n_work_bytes() + VECTOR_BYTES * self.n_staged();
        Grid {
            blocks: [self.shape.n_rows as u32, 1, 1],
            threads: [self.n_threads() as u32, 1, 1],
            dynamic_shared_bytes: n_shared as u32,
            cluster_blocks: 1,
        }
    }
}

impl TopkPages {
    fn check(&self, shape: &TopkShape) -> Result<()> {
        if !(1..=256).contains(&self.page_size) {
            let (what, value) = ("indices of a page", self.page_size);
            return Err(Error::Range { what, value, allowed: "1..=256" });
        }
        if self.rows_per_request == 0 {
            let (what, value) = ("rows of a request", self.rows_per_request);
            return Err(Error::Range { what, value, allowed: "1 and more" });
        }
        check_below("scores of a row with pages", shape.n, (1 << 26) + 1, "0..=2^26")?;
        let n_slots = self.n_pages.saturating_mul(self.page_size);
        check_below("slots of the pool", n_slots, (1 << 31) + 1, "0..=2^31")?;
        let n_requests = shape.n_rows.div_ceil(self.rows_per_request);
        let n_entries = n_requests.saturating_mul(self.table_stride);
        check_below("entries of the page table", n_entries, 1 << 45, "0..2^45")
    }

    /// `i * multiplier >> 34` is `i / page_size` of what a row has.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn multiplier(&self) -> u64 {
        (1_u64 << 34).div_ceil(self.page_size)
    }
}
