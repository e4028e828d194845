//! The shape of a launch that picks: pure arithmetic, no driver.

use crate::error::check_below;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::{Error, Result};

/// The most picks of a row.
pub const MAX_PICKS: u32 = 8192;
/// Of the dynamic shared memory that every device with images has, what picks leave: rows whose keys fit
/// are read once.
const STAGED_BYTES: u32 = 64 << 10;
#[cfg(any(feature = "cuda", feature = "simt"))]
const THREADS_PER_BLOCK: u32 = 512;

/// Sizes of a launch of [`topk_rows`](crate::select::topk_rows).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopkShape {
    /// Rows of scores, below 2^31.
    pub n_rows: u64,
    /// Scores of a row, below 2^31.
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
}

/// A launch that picks the largest scores of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopkPlan {
    shape: TopkShape,
    n_staged: u32,
}

impl TopkPlan {
    /// # Errors
    /// [`Error::Range`] for a size that is not supported; it says what is.
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
        let n_staged = STAGED_BYTES / shape.score_bytes;
        let n_staged = if shape.n <= u64::from(n_staged) { shape.n as u32 } else { 0 };
        Ok(Self { shape, n_staged })
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

    /// Elements of `indices`, and of `values`.
    pub fn picks_len(&self) -> u64 {
        self.shape.n_rows * self.shape.k
    }

    /// Bytes that any kernel moves for whole rows: every score read once, every pick written once.
    pub fn least_bytes(&self) -> u64 {
        let TopkShape { n_rows, n, k, score_bytes, .. } = self.shape;
        n_rows * (n * u64::from(score_bytes) + 4 * k + 4)
    }

    /// Candidates of a row whose keys are kept on chip; 0 where rows may have more.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn n_staged(&self) -> u32 {
        self.n_staged
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        Grid {
            blocks: [self.shape.n_rows as u32, 1, 1],
            threads: [THREADS_PER_BLOCK, 1, 1],
            dynamic_shared_bytes: 4 * self.shape.k as u32 + self.n_staged * self.shape.score_bytes,
            cluster_blocks: 1,
        }
    }
}
