//! Where in a stream the codes of each 128 weights begin.

use super::{GRANULE_WEIGHTS, TILE_GRANULES};

/// Where in a stream of codes each granule of 128 weights begins.
///
/// Entry `g`, up to the number of granules: the first code of granule `g` begins at bit
/// `8 * tile_bytes[g / 32] + granule_bits[g]`, and the last entry is the bit after the stream's last code. 0.133 bits a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// `[n_granules / 32 + 1]`: the byte in which the first code of a tile of 32 granules begins.
    pub tile_bytes: Vec<u32>,
    /// `[n_granules + 1]`: bits from there.
    pub granule_bits: Vec<u16>,
}

impl Index {
    /// Of granules that begin at `starts`, ascending, the last of which is the stream's end. `None` where a
    /// tile has codes of more than 65,535 bits, or the stream 2^32 bytes.
    pub(crate) fn of_starts(starts: &[u64]) -> Option<Self> {
        let mut tile_bytes = Vec::with_capacity(starts.len().div_ceil(TILE_GRANULES));
        let mut granule_bits = Vec::with_capacity(starts.len());
        for tile in starts.chunks(TILE_GRANULES) {
            let byte = tile[0] / 8;
            tile_bytes.push(u32::try_from(byte).ok()?);
            for start in tile {
                granule_bits.push(u16::try_from(start - 8 * byte).ok()?);
            }
        }
        Some(Self { tile_bytes, granule_bits })
    }

    /// Granules of so many weights.
    pub fn n_granules(n_elements: u64) -> u64 {
        n_elements.div_ceil(GRANULE_WEIGHTS as u64)
    }

    /// Entries of `tile_bytes` for so many weights.
    pub fn tile_bytes_len(n_elements: u64) -> u64 {
        Self::n_granules(n_elements) / TILE_GRANULES as u64 + 1
    }

    /// Entries of `granule_bits` for so many weights.
    pub fn granule_bits_len(n_elements: u64) -> u64 {
        Self::n_granules(n_elements) + 1
    }
}
