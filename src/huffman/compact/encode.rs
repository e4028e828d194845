//! bf16 weights to the tensors of a compact group.

use super::{CompactCode, CompactGroup};
use crate::huffman::encode::{Split, count_bits};
use crate::huffman::indexed::Index;
use crate::huffman::pack::{Granules, Packer, Start, join};
use crate::huffman::{parallel, plan::check_range};
use crate::{Error, Result};

/// Encodes matrices as one group, on all threads of the current rayon pool (feature `files`; else on one). Each is
/// little-endian bf16, in any alignment; the group is their concatenation in this order.
///
/// The result depends on the weights alone: it is [`reference::encode`](super::reference::encode) with the
/// [`CompactCode`] of the group.
///
/// # Errors
/// [`Error::Range`] for no weights, 2^32 of them, or 2^32 bytes of codes; [`Error::Shape`] for an odd number of bytes.
pub fn encode(matrices: &[&[u8]]) -> Result<CompactGroup> {
    let split = Split::new(matrices)?;
    let Some(code) = CompactCode::new(&split.histogram) else {
        return Err(Error::Range { what: "weights of a group", value: 0, allowed: "1..2^32" });
    };
    let n_code_bytes = code.n_bits(&split.histogram).div_ceil(8);
    check_range("code bytes of a group", n_code_bytes, 1..1 << 32, "1..2^32")?;
    let packer = Packer::new(code.codes(), code.lengths());
    let mut start = Start::default();
    let mut work = Vec::with_capacity(split.pieces.len());
    for (piece, histogram) in split.pieces.iter().zip(&split.histograms) {
        let n_bits = count_bits(histogram, code.lengths());
        work.push((*piece, start, n_bits));
        start.bit += n_bits;
        start.element += piece.len() as u32;
    }
    let parts = parallel::map(work, |(piece, start, n_bits)| {
        packer.pack(piece, start, n_bits, Granules::new(start.bit, piece.len()))
    });
    let (codes, notes) = join(parts, n_code_bytes as usize);
    let mut starts =
        Vec::with_capacity(Index::granule_bits_len(split.sign_mantissa.len() as u64) as usize);
    notes.into_iter().for_each(|granules| starts.extend(granules.starts));
    starts.push(start.bit);
    // Codes are too short, and the stream too, for a tile that no index holds.
    let Index { tile_bytes, granule_bits } = Index::of_starts(&starts).expect("few bits");
    Ok(CompactGroup {
        codes,
        sign_mantissa: split.sign_mantissa,
        lengths: code.to_lengths(),
        tile_bytes,
        granule_bits,
        split_positions: split.split_positions,
    })
}
