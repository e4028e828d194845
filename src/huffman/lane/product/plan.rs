//! The shape of a product: pure arithmetic, no driver.

use super::super::{LaneShape, TILE_ROWS};
use crate::error::check_between;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::{Error, Result};

/// Inputs of one launch at most. More are better decoded for ([`unpack_lane`](super::super::unpack_lane)) and multiplied by a library.
pub const MOST_INPUTS: u64 = 64;
/// Matrices of one launch at most: queries, keys and values; gate and up.
pub const MOST_FACTORS: usize = 4;
/// Parts that a row is summed up in: warps of a block.
#[cfg(any(feature = "cuda", feature = "simt"))]
const CHAINS: u64 = 8;
/// Columns of an accumulator of a tensor core.
const INPUTS_OF_TILE: u64 = 8;
/// With so many blocks a large device has some on each multiprocessor, and little less on one than on another.
const ENOUGH_BLOCKS: u64 = 384;
/// An input is read 16 bytes at a time.
const INPUT_ALIGNMENT: u64 = 8;
/// A kernel counts the bytes from one input to the next in 32 bits.
const MOST_INPUT_STRIDE: u64 = 1 << 31;

/// One launch of [`multiply_lane`](super::multiply_lane): up to four matrices of one number of columns by the same inputs.
///
/// How many rows a block has follows from the shapes, and no result depends on it.
///
/// ```
/// use lacuna::huffman::lane::{LaneShape, ProductPlan};
///
/// // Queries, keys and values of a layer of Llama-3.1-8B, for 4 tokens.
/// let shapes = [4096, 1024, 1024].map(|n_rows| LaneShape::new(n_rows, 4096).unwrap());
/// let plan = ProductPlan::new(&shapes, 4)?;
/// assert_eq!((plan.x_len(), plan.output_len(1)), (4 * 4096, 4 * 1024));
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductPlan {
    shapes: [Option<LaneShape>; MOST_FACTORS],
    n_inputs: u64,
    is_gated: bool,
    /// Row tiles of a block: 1, 2 or 4.
    row_tiles: u64,
    /// Times 8, the inputs of the kernel: 1, 2, 4 or 8.
    input_tiles: u64,
    x_stride: u64,
    output_strides: [u64; MOST_FACTORS],
    residual_strides: [u64; MOST_FACTORS],
}

impl ProductPlan {
    /// Each matrix by `n_inputs` inputs, with rows of inputs, outputs and residuals one after the other.
    ///
    /// # Errors
    /// [`Error::Range`] for none or more than four matrices, for 0 or more than 64 inputs, and for columns that are no multiple of 8, by which 16 bytes of an
    /// input would not be, or 2^31; [`Error::Shape`] where matrices have different numbers of columns.
    pub fn new(shapes: &[LaneShape], n_inputs: u64) -> Result<Self> {
        Self::of(shapes, n_inputs, false)
    }

    /// `silu(gate * x) * (up * x)`, of two matrices of one shape.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), and [`Error::Shape`] where the matrices have different numbers of rows.
    pub fn gated(gate: LaneShape, up: LaneShape, n_inputs: u64) -> Result<Self> {
        if gate.n_rows() != up.n_rows() {
            let (expected, got) = (gate.n_rows(), up.n_rows());
            return Err(Error::Shape { what: "rows of what is gated", expected, got });
        }
        Self::of(&[gate, up], n_inputs, true)
    }

    fn of(shapes: &[LaneShape], n_inputs: u64, is_gated: bool) -> Result<Self> {
        check_between("matrices of a product", shapes.len() as u64, MOST_FACTORS as u64, "1..=4")?;
        let n_columns = shapes[0].n_columns();
        if !n_columns.is_multiple_of(INPUT_ALIGNMENT) || n_columns >= MOST_INPUT_STRIDE {
            let (what, allowed) = ("columns of a product's matrix", "multiples of 8 below 2^31");
            return Err(Error::Range { what, value: n_columns, allowed });
        }
        for shape in shapes {
            if shape.n_columns() != n_columns {
                let (expected, got) = (n_columns, shape.n_columns());
                return Err(Error::Shape { what: "columns of a matrix", expected, got });
            }
        }
        let strides = std::array::from_fn(|idx| shapes.get(idx).map_or(0, |shape| shape.n_rows()));
        let plan = Self {
            shapes: std::array::from_fn(|idx| shapes.get(idx).copied()),
            n_inputs: 1,
            is_gated,
            row_tiles: 1,
            input_tiles: 1,
            x_stride: n_columns,
            output_strides: strides,
            residual_strides: strides,
        };
        plan.with_inputs(n_inputs)
    }

    /// The same with other distances between rows, in elements: of inputs, of each output, and of each residual. Of what is gated there is neither output nor
    /// residual, and its strides only have to be possible.
    ///
    /// # Errors
    /// [`Error::Range`] where rows would overlap, or not be in a memory of 2^63 bytes, or inputs' are no multiple of 8, or 2^31; [`Error::Shape`] where there are not as many
    /// strides as matrices.
    pub fn with_strides(mut self, x: u64, outputs: &[u64], residuals: &[u64]) -> Result<Self> {
        let n_factors = self.n_factors() as u64;
        for (what, strides) in
            [("strides of outputs", outputs), ("strides of residuals", residuals)]
        {
            if strides.len() as u64 != n_factors {
                let (expected, got) = (n_factors, strides.len() as u64);
                return Err(Error::Shape { what, expected, got });
            }
        }
        let most = 1 << 56;
        if !x.is_multiple_of(INPUT_ALIGNMENT) || x < self.n_columns() || x >= MOST_INPUT_STRIDE {
            let (what, allowed) =
                ("stride of inputs", "multiples of 8 from the columns on, below 2^31");
            return Err(Error::Range { what, value: x, allowed });
        }
        for idx in 0..self.n_factors() {
            for (what, stride) in
                [("stride of an output", outputs[idx]), ("stride of a residual", residuals[idx])]
            {
                if stride < self.n_rows(idx) || stride > most {
                    let allowed = "from the matrix's rows on";
                    return Err(Error::Range { what, value: stride, allowed });
                }
            }
            self.output_strides[idx] = outputs[idx];
            self.residual_strides[idx] = residuals[idx];
        }
        self.x_stride = x;
        Ok(self)
    }

    /// The same with another number of inputs, and as many rows in a block as suit it.
    ///
    /// # Errors
    /// [`Error::Range`] for 0 or more than 64.
    pub fn with_inputs(self, n_inputs: u64) -> Result<Self> {
        check_between("inputs of a product", n_inputs, MOST_INPUTS, "1..=64")?;
        let input_tiles = n_inputs.div_ceil(INPUTS_OF_TILE).next_power_of_two();
        let n_row_tiles: u64 = self.shapes.iter().flatten().map(LaneShape::n_row_tiles).sum();
        let row_tiles = match input_tiles {
            1 if n_row_tiles.div_ceil(4) >= ENOUGH_BLOCKS => 4,
            1 if self.is_gated || n_row_tiles.div_ceil(2) >= ENOUGH_BLOCKS => 2,
            1 => 1,
            2 => 4,
            _ => 2,
        };
        Ok(Self { n_inputs, input_tiles, row_tiles, ..self })
    }

    /// The same with so many rows in a block: 16, 32 or 64 where there are up to 8 inputs, else what the kernel of so many has. More rows read inputs less often, and
    /// are fewer blocks; a gated product has at least 32, half of them of each matrix.
    ///
    /// # Errors
    /// [`Error::Range`] for another number.
    pub fn with_block_rows(self, n_rows: u64) -> Result<Self> {
        let row_tiles = n_rows / TILE_ROWS as u64;
        let is_there = match self.input_tiles {
            1 => [16, 32, 64].contains(&n_rows) && (row_tiles > 1 || !self.is_gated),
            _ => row_tiles == self.row_tiles && n_rows.is_multiple_of(TILE_ROWS as u64),
        };
        if is_there {
            return Ok(Self { row_tiles, ..self });
        }
        let (what, allowed) =
            ("rows of a block", "16, 32 or 64 of up to 8 inputs, 64 of up to 16, else 32");
        Err(Error::Range { what, value: n_rows, allowed })
    }

    /// The kernel that a launch takes, by its rows and inputs at once.
    pub fn kernel_name(&self) -> &'static str {
        match (self.row_tiles, self.input_tiles) {
            (1, _) => "huffman/multiply_lane_1x8",
            (2, 1) => "huffman/multiply_lane_2x8",
            (_, 1) => "huffman/multiply_lane_4x8",
            (_, 2) => "huffman/multiply_lane_4x16",
            (_, 4) => "huffman/multiply_lane_2x32",
            _ => "huffman/multiply_lane_2x64",
        }
    }

    /// Matrices.
    pub fn n_factors(&self) -> usize {
        self.shapes.iter().flatten().count()
    }

    /// Rows and columns of matrix `idx`.
    pub fn shape(&self, idx: usize) -> Option<&LaneShape> {
        self.shapes.get(idx)?.as_ref()
    }

    /// Inputs.
    pub fn n_inputs(&self) -> u64 {
        self.n_inputs
    }

    /// Columns of every matrix.
    pub fn n_columns(&self) -> u64 {
        self.shapes[0].map_or(0, |shape| shape.n_columns())
    }

    /// Whether the first matrix gates the second.
    pub fn is_gated(&self) -> bool {
        self.is_gated
    }

    /// Outputs: one of each matrix, and one of a gated product.
    pub fn n_outputs(&self) -> usize {
        if self.is_gated { 1 } else { self.n_factors() }
    }

    fn n_rows(&self, idx: usize) -> u64 {
        self.shape(idx).map_or(0, |shape| shape.n_rows())
    }

    /// Elements of the inputs.
    pub fn x_len(&self) -> u64 {
        (self.n_inputs - 1) * self.x_stride + self.n_columns()
    }

    /// Elements of output `idx`.
    pub fn output_len(&self, idx: usize) -> u64 {
        (self.n_inputs - 1) * self.output_strides[idx] + self.n_rows(idx)
    }

    /// Elements of the residual of output `idx`.
    pub fn residual_len(&self, idx: usize) -> u64 {
        (self.n_inputs - 1) * self.residual_strides[idx] + self.n_rows(idx)
    }

    /// Elements between the inputs' starts.
    pub fn x_stride(&self) -> u64 {
        self.x_stride
    }

    /// Elements between the starts of an output's rows.
    pub fn output_stride(&self, idx: usize) -> u64 {
        self.output_strides[idx]
    }

    /// Elements between the starts of a residual's rows.
    pub fn residual_stride(&self, idx: usize) -> u64 {
        self.residual_strides[idx]
    }

    /// Bytes that any kernel of this kind moves: `n_bytes` of all planes and the inputs read once, and outputs of elements of so many bytes written once, after
    /// as many residuals and biases were read as there are.
    pub fn least_bytes(&self, n_bytes: u64, element_bytes: u64) -> u64 {
        let rows: u64 = (0..self.n_outputs()).map(|idx| self.n_rows(idx)).sum();
        n_bytes + self.n_inputs * (2 * self.n_columns() + element_bytes * rows)
    }

    /// Row tiles of 16 that a block has, and inputs that its kernel multiplies by at once.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn kernel(&self) -> [u64; 2] {
        [self.row_tiles, self.input_tiles * INPUTS_OF_TILE]
    }

    /// Thread blocks of the launch.
    pub(super) fn n_blocks(&self) -> u32 {
        self.first_blocks()[MOST_FACTORS]
    }

    /// Blocks of the matrices before each one; then of all.
    pub(super) fn first_blocks(&self) -> [u32; MOST_FACTORS + 1] {
        let mut firsts = [0; MOST_FACTORS + 1];
        for (idx, shape) in self.shapes.iter().enumerate() {
            let n_row_tiles = shape.map_or(0, |shape| shape.n_row_tiles());
            let n_blocks = match self.is_gated {
                false => n_row_tiles.div_ceil(self.row_tiles),
                // A block has as many row tiles of the gate as of the other.
                true if idx == 0 => n_row_tiles.div_ceil(self.row_tiles / 2),
                true => 0,
            };
            // A matrix has fewer than 2^28 row tiles.
            firsts[idx + 1] = firsts[idx] + n_blocks as u32;
        }
        firsts
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let n_rows = self.row_tiles * TILE_ROWS as u64 + 4;
        let n_shared = 4 * CHAINS * self.input_tiles * INPUTS_OF_TILE * n_rows;
        Grid {
            blocks: [self.n_blocks(), 1, 1],
            threads: [32 * CHAINS as u32, 1, 1],
            dynamic_shared_bytes: n_shared as u32,
            cluster_blocks: 1,
        }
    }
}
