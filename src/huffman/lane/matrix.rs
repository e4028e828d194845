//! The planes of a matrix, owned and borrowed.

use super::LaneShape;
use crate::{Error, Result};

/// The planes of a matrix: what [`pack`](super::pack) gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneMatrix {
    /// Rows and columns.
    pub shape: LaneShape,
    /// `[n_row_tiles, 8]`: the values of an exponent's upper seven bits that codes stand for.
    pub palettes: Vec<u8>,
    /// `[n_tiles, 2048]`: the low byte of each weight.
    pub low: Vec<u8>,
    /// `[n_tiles, 256]`: codes and signs, eight weights a word.
    pub high: Vec<u32>,
    /// `[n_tiles]`: where a tile's escapes are, how many, and in which steps.
    pub headers: Vec<u64>,
    /// `[n_escapes]`: weights that the palettes lack, and their places.
    pub escapes: Vec<u32>,
}

/// The same, borrowed; of its bytes nothing is trusted.
#[derive(Debug, Clone, Copy)]
pub struct RawLane<'a> {
    /// Rows and columns.
    pub shape: LaneShape,
    /// `[n_row_tiles, 8]`.
    pub palettes: &'a [u8],
    /// `[n_tiles, 2048]`.
    pub low: &'a [u8],
    /// `[n_tiles, 256]`.
    pub high: &'a [u32],
    /// `[n_tiles]`.
    pub headers: &'a [u64],
    /// `[n_escapes]`, any number below 2^32.
    pub escapes: &'a [u32],
}

impl LaneMatrix {
    /// The planes, borrowed.
    pub fn as_raw(&self) -> RawLane<'_> {
        RawLane {
            shape: self.shape,
            palettes: &self.palettes,
            low: &self.low,
            high: &self.high,
            headers: &self.headers,
            escapes: &self.escapes,
        }
    }

    /// Weights that the palettes lack.
    pub fn n_escapes(&self) -> u64 {
        self.escapes.len() as u64
    }

    /// Bytes of all planes.
    pub fn n_bytes(&self) -> u64 {
        self.shape.n_bytes(self.n_escapes())
    }

    /// Bits of all planes for each weight.
    pub fn bits_per_weight(&self) -> f64 {
        self.shape.bits_per_weight(self.n_escapes())
    }
}

impl RawLane<'_> {
    /// Whether the planes have the lengths that the shape tells.
    ///
    /// # Errors
    /// [`Error::Shape`] for the first that has not, [`Error::Range`] for 2^32 escapes.
    pub fn check(&self) -> Result<()> {
        let shape = &self.shape;
        for (what, expected, got) in [
            ("palettes", shape.palettes_len(), self.palettes.len()),
            ("low", shape.low_len(), self.low.len()),
            ("high", shape.high_len(), self.high.len()),
            ("headers", shape.headers_len(), self.headers.len()),
        ] {
            if got as u64 != expected {
                return Err(Error::Shape { what, expected, got: got as u64 });
            }
        }
        crate::error::check_below("escapes", self.escapes.len() as u64, 1 << 32, "0..2^32")
    }
}
