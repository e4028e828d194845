//! A matrix's planes as tensors of a file.

use std::borrow::Cow;

use super::{LaneMatrix, LaneShape, RawLane};
use crate::Error;
use crate::huffman::group::check_len;
use crate::huffman::{TensorError, TensorReason, words};

/// The six tensors of one matrix, borrowed as they are in a file, in any alignment, and trusted in nothing.
#[derive(Debug, Clone, Copy)]
pub struct LaneTensors<'a> {
    /// Module path of the matrix, for error messages.
    pub name: &'a str,
    /// `lane_header`, `[32]`: what [`LaneShape::header`] gives.
    pub header: &'a [u8],
    /// `lane_palettes`, `[n_row_tiles, 8]`.
    pub palettes: &'a [u8],
    /// `lane_low`, `[n_tiles, 2048]`.
    pub low: &'a [u8],
    /// `lane_high`, `[4 * n_tiles * 256]`: little-endian u32.
    pub high: &'a [u8],
    /// `lane_headers`, `[8 * n_tiles]`: little-endian u64.
    pub headers: &'a [u8],
    /// `lane_escapes`, `[4 * n_escapes]`: little-endian u32.
    pub escapes: &'a [u8],
}

/// A matrix whose tensors fit each other. Of their bytes any are a matrix: nothing more can be told.
#[derive(Debug, Clone)]
pub struct Lane<'a> {
    tensors: LaneTensors<'a>,
    shape: LaneShape,
    high: Cow<'a, [u32]>,
    headers: Cow<'a, [u64]>,
    escapes: Cow<'a, [u32]>,
}

impl<'a> LaneTensors<'a> {
    /// The planes of `matrix`; `header` is its shape's.
    pub fn of(name: &'a str, header: &'a [u8; 32], matrix: &'a LaneMatrix) -> Self {
        Self {
            name,
            header,
            palettes: &matrix.palettes,
            low: &matrix.low,
            high: bytemuck::cast_slice(&matrix.high),
            headers: bytemuck::cast_slice(&matrix.headers),
            escapes: bytemuck::cast_slice(&matrix.escapes),
        }
    }

    /// The six tensors, in the order of the fields.
    pub fn tensors(&self) -> [&'a [u8]; 6] {
        [self.header, self.palettes, self.low, self.high, self.headers, self.escapes]
    }

    /// Reads the header, and holds the tensors' lengths against it.
    ///
    /// # Errors
    /// [`TensorError`]: the first thing found, in the order of the fields.
    pub fn parse(self) -> Result<Lane<'a>, TensorError> {
        check_len(self.name, "lane_header", self.header, LaneShape::HEADER_BYTES as u64)?;
        let header = self.header.first_chunk().expect("as long as a header");
        let shape = LaneShape::of_header(header).map_err(|error| match error {
            Error::Range { what, value, allowed } => {
                let reason = TensorReason::Header { what, value, allowed };
                TensorError::new(self.name, "lane_header", None, reason)
            }
            other => unreachable!("a header is wrong in its numbers, and not: {other}"),
        })?;
        let n_escape_bytes = self.escapes.len() as u64;
        for (tensor, expected, bytes) in [
            ("lane_palettes", shape.palettes_len(), self.palettes),
            ("lane_low", shape.low_len(), self.low),
            ("lane_high", 4 * shape.high_len(), self.high),
            ("lane_headers", 8 * shape.headers_len(), self.headers),
            ("lane_escapes", n_escape_bytes.next_multiple_of(4), self.escapes),
        ] {
            check_len(self.name, tensor, bytes, expected)?;
        }
        let limit = 1 << 34;
        if n_escape_bytes >= limit {
            let reason = TensorReason::TooLarge { got: n_escape_bytes, limit };
            return Err(TensorError::new(self.name, "lane_escapes", None, reason));
        }
        Ok(Lane {
            shape,
            high: words(self.high),
            headers: words(self.headers),
            escapes: words(self.escapes),
            tensors: self,
        })
    }
}

impl<'a> Lane<'a> {
    /// The tensors.
    pub fn raw(&self) -> &LaneTensors<'a> {
        &self.tensors
    }

    /// Module path of the matrix.
    pub fn name(&self) -> &'a str {
        self.tensors.name
    }

    /// Rows and columns.
    pub fn shape(&self) -> LaneShape {
        self.shape
    }

    /// The planes, as [`DeviceLane::upload`](super::DeviceLane::upload) and [`unpack`](super::unpack()) take them.
    pub fn planes(&self) -> RawLane<'_> {
        RawLane {
            shape: self.shape,
            palettes: self.tensors.palettes,
            low: self.tensors.low,
            high: &self.high,
            headers: &self.headers,
            escapes: &self.escapes,
        }
    }

    /// Weights that the palettes lack.
    pub fn n_escapes(&self) -> u64 {
        self.escapes.len() as u64
    }

    /// Bytes of all six tensors.
    pub fn n_bytes(&self) -> u64 {
        self.tensors.tensors().iter().map(|tensor| tensor.len() as u64).sum()
    }
}
