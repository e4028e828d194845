//! The sizes of a group with an index.

use super::{CodeTable, Index, TILE_WEIGHTS};
use crate::Result;
use crate::huffman::MAX_LUT_ROWS;
use crate::huffman::plan::check_range;

/// The sizes of one indexed group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedShape {
    /// Bytes of the codes, `1..2^32`.
    pub n_code_bytes: u64,
    /// Weights, `1..2^32`.
    pub n_elements: u64,
    /// DF11's decode tables without the row of lengths, `1..=17`; 0 where no code is longer than 12 bits and there are none.
    pub n_lut_rows: u32,
}

impl IndexedShape {
    /// Tiles of 4,096 weights.
    pub fn n_tiles(&self) -> u64 {
        self.n_elements.div_ceil(TILE_WEIGHTS as u64)
    }

    /// Codes, signs and mantissas, index and table read once, and weights written; tables of long codes, of which hardly any is read, left out.
    pub(in crate::huffman) fn least_bytes(&self) -> u64 {
        let index = 4 * Index::tile_bytes_len(self.n_elements)
            + 2 * Index::granule_bits_len(self.n_elements);
        self.n_code_bytes
            + self.n_elements
            + index
            + CodeTable::N_BYTES as u64
            + 2 * self.n_elements
    }

    pub(in crate::huffman) fn check(&self) -> Result<()> {
        check_range("code bytes of a group", self.n_code_bytes, 1..1 << 32, "1..2^32")?;
        check_range("weights of a group", self.n_elements, 1..1 << 32, "1..2^32")?;
        let n_rows = u64::from(self.n_lut_rows);
        check_range("decode tables of a group", n_rows, 0..MAX_LUT_ROWS as u64 + 1, "0..=17")
    }
}
