//! The shape of a launch that compares queries with cached ones: pure arithmetic, no driver.

use crate::error::check_below;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::select::Score;
use crate::{Error, Result};

/// A query is held on chip.
const MAX_QUERY_BYTES: u64 = 64 << 10;
#[cfg(any(feature = "cuda", feature = "simt"))]
const THREADS_PER_BLOCK: u32 = 512;

/// Sizes of a launch of [`gate_selection`](crate::select::gate_selection).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateShape {
    /// Requests, below 2^31.
    pub batch: u64,
    /// Elements of a query, all its heads': a multiple of 8, 64 KiB at most.
    pub n: u64,
    /// Elements between the starts of two queries, a multiple of 8 and at least `n`.
    pub query_stride: u64,
    /// The same of the cached queries.
    pub cached_stride: u64,
    /// Rows of a request, each with a word of `skips`: 1, or its heads of keys.
    pub rows_per_request: u64,
    /// Bytes of an element: 2 or 4.
    pub element_bytes: u32,
}

impl GateShape {
    /// `batch` queries of `n` elements, one after the other, and a row for each.
    pub fn of<T: Score>(batch: u64, n: u64) -> Self {
        Self {
            batch,
            n,
            query_stride: n,
            cached_stride: n,
            rows_per_request: 1,
            element_bytes: size_of::<T>() as u32,
        }
    }
}

/// A launch that compares queries with cached ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatePlan {
    shape: GateShape,
}

impl GatePlan {
    /// # Errors
    /// [`Error::Range`] for a size that is not supported; it says what is.
    pub fn new(shape: GateShape) -> Result<Self> {
        check_below("requests", shape.batch, 1 << 31, "0..2^31")?;
        let is_known = shape.element_bytes == 2 || shape.element_bytes == 4;
        if !is_known {
            let value = shape.element_bytes.into();
            return Err(Error::Range { what: "bytes of an element", value, allowed: "2 and 4" });
        }
        let element_bytes = u64::from(shape.element_bytes);
        let n_bytes = shape.n.saturating_mul(element_bytes);
        check_below("bytes of a query", n_bytes, MAX_QUERY_BYTES + 1, "0..=65536")?;
        check_below("rows of a request", shape.rows_per_request, 1 << 16, "0..65536")?;
        for (what, value) in [
            ("elements of a query", shape.n),
            ("stride between queries, in elements", shape.query_stride),
            ("stride between cached queries, in elements", shape.cached_stride),
        ] {
            if !value.is_multiple_of(8) {
                return Err(Error::Range { what, value, allowed: "the multiples of 8" });
            }
            if value < shape.n {
                let allowed = "the elements of a query and more";
                return Err(Error::Range { what, value, allowed });
            }
            let last = shape.batch.saturating_sub(1).saturating_mul(value);
            let n_bytes = last.saturating_add(shape.n).saturating_mul(element_bytes);
            check_below("bytes of queries", n_bytes, 1 << 47, "0..2^47")?;
        }
        Ok(Self { shape })
    }

    /// What it was made from.
    pub fn shape(&self) -> &GateShape {
        &self.shape
    }

    /// Elements from the first of the first query to the last of the last.
    pub fn queries_len(&self) -> u64 {
        self.len_of(self.shape.query_stride)
    }

    /// The same of the cached queries.
    pub fn cached_len(&self) -> u64 {
        self.len_of(self.shape.cached_stride)
    }

    fn len_of(&self, stride: u64) -> u64 {
        if self.shape.batch == 0 { 0 } else { (self.shape.batch - 1) * stride + self.shape.n }
    }

    /// Words of `skips`.
    pub fn skips_len(&self) -> u64 {
        self.shape.batch * self.shape.rows_per_request
    }

    /// Bytes that any kernel moves where so many requests have a cached query, and so many select again.
    pub fn least_bytes(&self, n_cached: u64, n_selecting: u64) -> u64 {
        let GateShape { batch, n, element_bytes, .. } = self.shape;
        let query_bytes = n * u64::from(element_bytes);
        (batch + n_cached + n_selecting) * query_bytes
            + 4 * (batch + n_selecting + self.skips_len())
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        Grid {
            blocks: [self.shape.batch as u32, 1, 1],
            threads: [THREADS_PER_BLOCK, 1, 1],
            dynamic_shared_bytes: self.shape.n as u32 * self.shape.element_bytes,
            cluster_blocks: 1,
        }
    }
}
