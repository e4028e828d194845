//! The rules of the compact format, written for reading: what encoders and decoders must give, bit for bit.

use super::{Compact, CompactCode, CompactGroup};
use crate::huffman::indexed::{self, CorruptTile, GRANULE_WEIGHTS, Index};

/// Decodes a group to bf16 bits. A corrupt tile's weights are all 0x7FC0, and the others what they are.
///
/// # Errors
/// The lowest corrupt tile.
///
/// # Panics
/// Where `output` has another length than the group has weights.
pub fn decode(group: &Compact<'_>, output: &mut [u16]) -> Result<(), CorruptTile> {
    assert_eq!(output.len() as u64, group.n_elements(), "the output has one element per weight");
    indexed::reference::decode(&group.indexed(), output)
}

/// How many weights of each exponent there are.
pub fn count(weights: &[u16]) -> [u64; 256] {
    let mut histogram = [0; 256];
    weights.iter().for_each(|weight| histogram[exponent_of(*weight)] += 1);
    histogram
}

/// The tensors of a group of one matrix by a code, which may be any; an exponent without a code has no bits.
///
/// # Panics
/// Where the codes have 2^32 bytes.
pub fn encode(weights: &[u16], code: &CompactCode) -> CompactGroup {
    let mut bits = Vec::new();
    let mut starts = Vec::new();
    for (idx, weight) in weights.iter().enumerate() {
        if idx % GRANULE_WEIGHTS == 0 {
            starts.push(bits.len() as u64);
        }
        let exponent = exponent_of(*weight);
        let (own, n_bits) = (code.codes()[exponent], code.lengths()[exponent]);
        bits.extend((0..n_bits).rev().map(|bit| own >> bit & 1 != 0));
    }
    starts.push(bits.len() as u64);
    let byte = |bits: &[bool]| {
        bits.iter().zip((0..8).rev()).fold(0, |byte, (bit, at)| byte | u8::from(*bit) << at)
    };
    let Index { tile_bytes, granule_bits } = Index::of_starts(&starts).expect("few bits");
    CompactGroup {
        codes: bits.chunks(8).map(byte).collect(),
        sign_mantissa: weights.iter().map(|w| (w >> 8 & 0x80 | w & 0x7F) as u8).collect(),
        lengths: code.to_lengths(),
        tile_bytes,
        granule_bits,
        split_positions: Vec::new(),
    }
}

fn exponent_of(weight: u16) -> usize {
    usize::from(weight >> 7 & 255)
}
