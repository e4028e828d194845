//! The shape of a launch that compacts: pure arithmetic, no driver.

use crate::error::check_below;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::{Error, Result};

/// Elements of a chunk, and words of its bits.
const CHUNK: u64 = 16_384;
const CHUNK_WORDS: u64 = CHUNK / 32;
#[cfg(any(feature = "cuda", feature = "simt"))]
const THREADS_PER_BLOCK: u32 = 512;

/// Which elements of a row are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listed {
    /// Those that the mask keeps.
    #[default]
    Kept,
    /// Those that it does not: what is evicted.
    Dropped,
}

/// Sizes of a launch of [`compact_rows`](crate::select::compact_rows), and what it lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactShape {
    /// Rows of the mask.
    pub n_rows: u64,
    /// Elements of a row, at most 2^26.
    pub n: u64,
    /// Elements between the starts of two rows, at least `n`.
    pub row_stride: u64,
    /// Places for indices in a row.
    pub capacity: u64,
    /// Rows that share a length, one after the other: a request's heads.
    pub rows_per_request: u64,
    /// Which elements are listed.
    pub listed: Listed,
}

impl CompactShape {
    /// What is kept of each of `n_rows` rows of `n` elements, one after the other, each with a length of its own.
    pub fn of(n_rows: u64, n: u64, capacity: u64) -> Self {
        Self { n_rows, n, row_stride: n, capacity, rows_per_request: 1, listed: Listed::Kept }
    }
}

/// A launch that compacts rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactPlan {
    shape: CompactShape,
    n_chunks: u64,
}

impl CompactPlan {
    /// # Errors
    /// [`Error::Range`] for a size that is not supported; it says what is.
    pub fn new(shape: CompactShape) -> Result<Self> {
        let CompactShape { n_rows, n, row_stride, capacity, rows_per_request, .. } = shape;
        check_below("elements of a row", n, (1 << 26) + 1, "0..=2^26")?;
        check_below("rows of a mask", n_rows, 1 << 31, "0..2^31")?;
        if row_stride < n {
            let what = "stride between rows, in elements";
            let allowed = "the elements of a row and more";
            return Err(Error::Range { what, value: row_stride, allowed });
        }
        if rows_per_request == 0 {
            let (what, value) = ("rows of a request", rows_per_request);
            return Err(Error::Range { what, value, allowed: "1 and more" });
        }
        let last_row = n_rows.saturating_sub(1);
        let n_bytes = last_row.checked_mul(row_stride).and_then(|bytes| bytes.checked_add(n));
        check_below("bytes of a mask", n_bytes.unwrap_or(u64::MAX), 1 << 47, "0..2^47")?;
        let n_indices = n_rows.max(1).saturating_mul(capacity);
        check_below("places of all rows", n_indices, 1 << 31, "0..2^31")?;
        // A row that begins at no multiple of 16 bytes reaches up to 15 elements further.
        let n_chunks = (n + 15).div_ceil(CHUNK);
        check_below("chunks of all rows", n_rows * n_chunks, 1 << 31, "0..2^31")?;
        Ok(Self { shape, n_chunks })
    }

    /// What it was made from.
    pub fn shape(&self) -> &CompactShape {
        &self.shape
    }

    /// Elements of the mask from the first of the first row to the last of the last.
    pub fn mask_len(&self) -> u64 {
        if self.shape.n_rows == 0 {
            return 0;
        }
        (self.shape.n_rows - 1) * self.shape.row_stride + self.shape.n
    }

    /// Elements of `lengths`.
    pub fn n_requests(&self) -> u64 {
        self.shape.n_rows.div_ceil(self.shape.rows_per_request)
    }

    /// Elements of `indices`.
    pub fn indices_len(&self) -> u64 {
        self.shape.n_rows * self.shape.capacity
    }

    /// Elements of `offsets`.
    pub fn offsets_len(&self) -> u64 {
        self.shape.n_rows * self.shape.n
    }

    /// Elements of `row_starts`.
    pub fn row_starts_len(&self) -> u64 {
        self.shape.n_rows + 1
    }

    /// Words of the workspace. The last is zeroed once, and zero again after every launch.
    pub fn workspace_len(&self) -> u64 {
        1 + self.n_counted() * (1 + CHUNK_WORDS)
    }

    /// Bytes that any kernel moves for whole rows: every element of the mask read once, every output written
    /// once.
    pub fn least_bytes(&self, has_offsets: bool) -> u64 {
        let CompactShape { n_rows, n, capacity, .. } = self.shape;
        n_rows * (n + 4 * capacity + 4 + if has_offsets { 4 * n } else { 0 })
    }

    /// Chunks that are counted by a launch of their own.
    pub(super) fn n_counted(&self) -> u64 {
        if self.n_chunks == 1 { 0 } else { self.shape.n_rows * self.n_chunks }
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn n_chunks(&self) -> u64 {
        self.n_chunks
    }

    /// The grid of either launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        Grid {
            blocks: [(self.shape.n_rows * self.n_chunks) as u32, 1, 1],
            threads: [THREADS_PER_BLOCK, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
