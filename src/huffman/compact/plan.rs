//! The shape of an encoder's launches: pure arithmetic, no driver.

use std::ops::Range;

use super::{LENGTHS_BYTES, MAX_COMPACT_BITS};
use crate::Result;
use crate::huffman::indexed::Index;
use crate::huffman::plan::check_range;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;

/// Weights whose exponents are counted by themselves, and whose codes one block packs.
pub const PART_WEIGHTS: u64 = 1 << 16;
/// Parts whose bits one block counts.
#[cfg(any(feature = "cuda", feature = "simt"))]
const PLACED_PARTS: u64 = 64;

/// The launches that encode a group of so many weights, by a compact code or by DF11's: how much memory the caller brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodePlan {
    n_elements: u64,
}

impl EncodePlan {
    /// Plans the encoding of `n_elements` weights.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for none, or 2^32 of them.
    pub fn new(n_elements: u64) -> Result<Self> {
        check_range("weights of a group", n_elements, 1..1 << 32, "1..2^32")?;
        Ok(Self { n_elements })
    }

    /// Weights.
    pub fn n_elements(&self) -> u64 {
        self.n_elements
    }

    /// Parts of 65,536 weights.
    pub fn n_parts(&self) -> u64 {
        self.n_elements.div_ceil(PART_WEIGHTS)
    }

    /// Bytes that compact codes take at most, whatever the weights.
    pub fn most_code_bytes(&self) -> u64 {
        (self.n_elements * u64::from(MAX_COMPACT_BITS)).div_ceil(8)
    }

    /// Words of the tensor `tile_bytes`.
    pub fn tile_bytes_len(&self) -> u64 {
        Index::tile_bytes_len(self.n_elements)
    }

    /// Entries of the tensor `granule_bits`.
    pub fn granule_bits_len(&self) -> u64 {
        Index::granule_bits_len(self.n_elements)
    }

    /// Words of u64 of the workspace, aligned to 16 bytes.
    pub fn workspace_len(&self) -> u64 {
        self.starts().end
    }

    /// Of the workspace, words that must be zeros before the first launch: the first ones.
    pub fn n_zeros(&self) -> u64 {
        self.place_ticket().end
    }

    /// Bytes that any encoder of compact codes of `n_code_bytes` moves: weights read twice, everything else written once.
    pub fn least_bytes(&self, n_code_bytes: u64) -> u64 {
        2 * 2 * self.n_elements + self.packed_bytes(n_code_bytes)
    }

    /// What is written: codes, signs and mantissas, index, lengths.
    fn packed_bytes(&self, n_code_bytes: u64) -> u64 {
        let index = 4 * self.tile_bytes_len() + 2 * self.granule_bits_len();
        n_code_bytes + self.n_elements + index + LENGTHS_BYTES as u64
    }

    /// Of the workspace: sums of all parts' counts, and a ticket.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn sums(&self) -> Range<u64> {
        0..257
    }

    pub(super) fn place_ticket(&self) -> Range<u64> {
        257..258
    }

    /// The code of each exponent, in so many entries, up to 512: what kernels look up.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(in crate::huffman) fn table(&self, n_entries: u64) -> Range<u64> {
        258..258 + n_entries / 2
    }

    pub(super) fn parts(&self) -> Range<u64> {
        514..514 + 128 * self.n_parts()
    }

    pub(super) fn part_bits(&self) -> Range<u64> {
        let start = self.parts().end;
        start..start + self.n_parts().div_ceil(2)
    }

    pub(in crate::huffman) fn starts(&self) -> Range<u64> {
        let start = self.part_bits().end;
        start..start + self.n_parts() + 1
    }

    /// The grid of [`count_exponents`](super::count_exponents).
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn count_grid(&self) -> Grid {
        grid_of(self.n_parts(), 256)
    }

    /// The grid of [`place_codes`](super::place_codes).
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn place_grid(&self) -> Grid {
        grid_of(self.n_parts().div_ceil(PLACED_PARTS), 256)
    }

    /// The grid of [`pack_codes`](super::pack_codes) and [`pack_group`](crate::huffman::pack_group).
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn pack_grid(&self) -> Grid {
        grid_of(self.n_parts(), 128)
    }
}

#[cfg(any(feature = "cuda", feature = "simt"))]
fn grid_of(n_blocks: u64, n_threads: u32) -> Grid {
    Grid {
        blocks: [n_blocks as u32, 1, 1],
        threads: [n_threads, 1, 1],
        dynamic_shared_bytes: 0,
        cluster_blocks: 1,
    }
}
