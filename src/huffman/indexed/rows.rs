//! The shape of a launch that decodes rows by their numbers: pure arithmetic, no driver.

use super::{GRANULE_WEIGHTS, TILE_WEIGHTS};
use crate::Result;
use crate::huffman::plan::{MAX_BLOCKS, check_range};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::plan::spread;

/// Warps of a block, each with a span of a row at a time.
const N_WARPS: u64 = 4;
/// With so many blocks, each of which reads the table, all multiprocessors of a large device have some.
const ENOUGH_BLOCKS: u64 = 512;

/// Rows of a matrix that lies in a group, an embedding's for instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedRowsShape {
    /// Weights of the group.
    pub n_elements: u64,
    /// Where in it the matrix begins, in elements.
    pub first_element: u64,
    /// Rows of the matrix.
    pub n_matrix_rows: u64,
    /// Elements of a row.
    pub row_len: u64,
    /// Rows that are asked for.
    pub n_rows: u64,
    /// Elements from row to row of the output.
    pub output_stride: u64,
}

/// A launch of [`DeviceWeights::decode_rows`](crate::huffman::DeviceWeights).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedRowsPlan {
    shape: IndexedRowsShape,
    row_spans: u32,
    block_spans: u32,
    n_blocks: u32,
}

impl IndexedRowsPlan {
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for a size that is not supported, a matrix that does not end within its group,
    /// rows of the output that overlap, and 2^46 elements of it.
    pub fn new(shape: IndexedRowsShape) -> Result<Self> {
        let IndexedRowsShape { n_elements, first_element, n_matrix_rows, row_len, .. } = shape;
        check_range("weights of a group", n_elements, 1..1 << 32, "1..2^32")?;
        check_range("elements of a row", row_len, 1..1 << 32, "1..2^32")?;
        check_range("rows of a matrix", n_matrix_rows, 0..1 << 32, "0..2^32")?;
        let end = first_element.saturating_add(n_matrix_rows.saturating_mul(row_len));
        check_range("end of a matrix", end, 0..n_elements + 1, "the weights of its group")?;
        check_range("rows that are asked for", shape.n_rows, 0..1 << 31, "0..2^31")?;
        let strides = row_len..1 << 40;
        let allowed = "the elements of a row, up to 2^40";
        check_range("stride of the output", shape.output_stride, strides, allowed)?;
        let n_outputs = shape.n_rows.saturating_mul(shape.output_stride);
        check_range("elements of the output", n_outputs, 0..1 << 46, "0..2^46")?;
        // Where rows begin in a granule: at any weight of it, or always at the first.
        let granule = GRANULE_WEIGHTS as u64;
        let is_aligned = first_element.is_multiple_of(granule) && row_len.is_multiple_of(granule);
        let most_before = if is_aligned { 0 } else { granule - 1 };
        let row_spans = (most_before + row_len).div_ceil(TILE_WEIGHTS as u64);
        let n_spans = shape.n_rows * row_spans;
        let block_spans = n_spans.div_ceil(ENOUGH_BLOCKS).next_multiple_of(N_WARPS).max(N_WARPS);
        check_range("spans of a block", block_spans, 0..1 << 32, "0..2^32")?;
        let n_blocks = n_spans.div_ceil(block_spans);
        check_range("thread blocks of a launch", n_blocks, 0..MAX_BLOCKS + 1, "0..2^31")?;
        Ok(Self {
            shape,
            row_spans: row_spans as u32,
            block_spans: block_spans as u32,
            n_blocks: n_blocks as u32,
        })
    }

    /// What it was made from.
    pub fn shape(&self) -> &IndexedRowsShape {
        &self.shape
    }

    /// Elements from the output's first row to the end of its last.
    pub fn output_len(&self) -> u64 {
        spread(self.shape.n_rows, self.shape.output_stride, self.shape.row_len)
    }

    /// Spans of 4,096 weights that a row may have a part of, and those of one block.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(in crate::huffman) fn spans(&self) -> [u32; 2] {
        [self.row_spans, self.block_spans]
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        Grid {
            blocks: [self.n_blocks, 1, 1],
            threads: [32 * N_WARPS as u32, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
