//! The shapes of the launches: pure arithmetic, no driver.

use super::LaneShape;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::{Error, Result};

#[cfg(any(feature = "cuda", feature = "simt"))]
const THREADS_PER_BLOCK: u32 = 256;
/// A warp has a tile.
#[cfg(any(feature = "cuda", feature = "simt"))]
const TILES_PER_BLOCK: u64 = 8;

/// Elements from the first of the first row to the last of the last.
fn rows_len(shape: &LaneShape, stride: u64) -> Result<u64> {
    if stride < shape.n_columns() {
        let what = "stride between rows, in elements";
        return Err(Error::Range { what, value: stride, allowed: "the columns and more" });
    }
    let n = (shape.n_rows() - 1).checked_mul(stride);
    let n = n.and_then(|n| n.checked_add(shape.n_columns())).unwrap_or(u64::MAX);
    crate::error::check_below("elements of all rows", n, 1 << 46, "0..2^46")?;
    Ok(n)
}

#[cfg(any(feature = "cuda", feature = "simt"))]
fn grid_of(n_blocks: u64) -> Grid {
    Grid {
        blocks: [n_blocks as u32, 1, 1],
        threads: [THREADS_PER_BLOCK, 1, 1],
        dynamic_shared_bytes: 0,
        cluster_blocks: 1,
    }
}

/// A launch of [`unpack_lane`](super::unpack_lane).
///
/// ```
/// use lacuna::huffman::lane::{LaneShape, LaneUnpackPlan};
///
/// let plan = LaneUnpackPlan::new(LaneShape::new(100, 300)?, 304)?;
/// assert_eq!(plan.output_len(), 99 * 304 + 300);
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneUnpackPlan {
    shape: LaneShape,
    output_stride: u64,
    output_len: u64,
}

impl LaneUnpackPlan {
    /// To rows whose starts are `output_stride` elements apart. A multiple of 8 is faster.
    ///
    /// # Errors
    /// [`Error::Range`] for a stride below the columns, or by which rows would take 2^46 elements.
    pub fn new(shape: LaneShape, output_stride: u64) -> Result<Self> {
        Ok(Self { shape, output_stride, output_len: rows_len(&shape, output_stride)? })
    }

    /// The matrix.
    pub fn shape(&self) -> &LaneShape {
        &self.shape
    }

    /// Elements between the starts of two rows.
    pub fn output_stride(&self) -> u64 {
        self.output_stride
    }

    /// Elements of the output.
    pub fn output_len(&self) -> u64 {
        self.output_len
    }

    /// Bytes that any kernel moves: all planes read once, every weight written once.
    pub fn least_bytes(&self, n_escapes: u64) -> u64 {
        self.shape.n_bytes(n_escapes).saturating_add(2 * self.shape.n_weights())
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        grid_of(self.shape.n_tiles().div_ceil(TILES_PER_BLOCK))
    }
}

/// The two launches that pack a matrix: [`measure_lane`](super::measure_lane) and
/// [`pack_lane`](super::pack_lane).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanePackPlan {
    shape: LaneShape,
    weights_stride: u64,
    weights_len: u64,
}

impl LanePackPlan {
    /// Of rows whose starts are `weights_stride` elements apart. A multiple of 8 is faster.
    ///
    /// # Errors
    /// [`Error::Range`] for a stride below the columns, or by which rows take 2^46 elements.
    pub fn new(shape: LaneShape, weights_stride: u64) -> Result<Self> {
        Ok(Self { shape, weights_stride, weights_len: rows_len(&shape, weights_stride)? })
    }

    /// The matrix.
    pub fn shape(&self) -> &LaneShape {
        &self.shape
    }

    /// Elements between the starts of two rows.
    pub fn weights_stride(&self) -> u64 {
        self.weights_stride
    }

    /// Elements of the weights.
    pub fn weights_len(&self) -> u64 {
        self.weights_len
    }

    /// Words of u64 of the workspace: a ticket, then what is measured. Zeroed once; a launch leaves the
    /// ticket zero.
    pub fn workspace_len(&self) -> u64 {
        1 + self.shape.n_row_tiles() + self.shape.n_tiles()
    }

    /// Bytes that any kernel moves that measures: every weight read once, palettes and a header a tile
    /// written once.
    pub fn least_measured_bytes(&self) -> u64 {
        2 * self.shape.n_weights()
            + self.shape.palettes_len()
            + 8 * (self.shape.n_row_tiles() + self.shape.n_tiles() + 1)
    }

    /// Bytes that any kernel moves that packs what is measured: every weight and what was measured read
    /// once, all planes but the palettes written once.
    pub fn least_packed_bytes(&self, n_escapes: u64) -> u64 {
        let measured =
            self.shape.palettes_len() + 8 * (self.shape.n_row_tiles() + self.shape.n_tiles());
        let written = self.shape.n_bytes(n_escapes) - self.shape.palettes_len();
        (2 * self.shape.n_weights() + measured).saturating_add(written)
    }

    /// The grid of the launch that measures: a block for 16 rows.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn measure_grid(&self) -> Grid {
        grid_of(self.shape.n_row_tiles())
    }

    /// The grid of the launch that packs.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn pack_grid(&self) -> Grid {
        grid_of(self.shape.n_tiles().div_ceil(TILES_PER_BLOCK))
    }
}
