//! The CPU decoder: what the reference gives, faster.

use super::reference::{self, CORRUPT_WEIGHT};
use super::{BYTES_PER_THREAD, Corruption, Group, RawGroup, THREADS_PER_BLOCK};

/// Bits of the stream that one lookup sees.
const LOOKUP_BITS: u32 = 12;
const CHUNK_BITS: u64 = 8 * BYTES_PER_THREAD as u64;

/// Decodes a group to bf16 bits on all threads of the current rayon pool (feature `files`; else on
/// one).
///
/// # Numerics
/// Bit for bit [`reference::decode`], for corrupt groups too: on `Err`, all of `output` is 0x7FC0.
///
/// # Errors
/// The lowest corrupt block and the highest reason found in it.
///
/// # Panics
/// Where `output` has another length than the group has weights.
pub fn decode(group: &Group<'_>, output: &mut [u16]) -> Result<(), Corruption> {
    let raw = group.raw();
    assert_eq!(output.len(), raw.sign_mantissa.len(), "the output has one element per weight");
    let table = Table::new(raw);
    let result = split_blocks(raw, output).and_then(|blocks| decode_blocks(raw, &table, blocks));
    if result.is_err() {
        output.fill(CORRUPT_WEIGHT);
    }
    result
}

/// A block's number, first weight and output.
type Block<'a> = (u32, usize, &'a mut [u16]);

/// Each block's part of the output. The positions of a parsed group ascend, so this finds all.
fn split_blocks<'a>(
    raw: &RawGroup<'_>,
    output: &'a mut [u16],
) -> Result<Vec<Block<'a>>, Corruption> {
    let mut rest = output;
    let mut blocks = Vec::new();
    for block in 0..reference::n_blocks(raw) {
        let range =
            reference::block_range(raw, block).map_err(|reason| Corruption { block, reason })?;
        let (own, after) = rest.split_at_mut(range.len());
        blocks.push((block, range.start, own));
        rest = after;
    }
    Ok(blocks)
}

#[cfg(feature = "files")]
fn decode_blocks(
    raw: &RawGroup<'_>,
    table: &Table,
    blocks: Vec<Block<'_>>,
) -> Result<(), Corruption> {
    use rayon::prelude::*;
    let lowest = blocks
        .into_par_iter()
        .with_min_len(8)
        .filter_map(|block| decode_block(raw, table, block).err())
        .min_by_key(|corruption| corruption.block);
    lowest.map_or(Ok(()), Err)
}

#[cfg(not(feature = "files"))]
fn decode_blocks(
    raw: &RawGroup<'_>,
    table: &Table,
    blocks: Vec<Block<'_>>,
) -> Result<(), Corruption> {
    blocks.into_iter().try_for_each(|block| decode_block(raw, table, block))
}

fn decode_block(
    raw: &RawGroup<'_>,
    table: &Table,
    (block, start, output): Block<'_>,
) -> Result<(), Corruption> {
    if decode_sound_block(raw, table, block, start, output).is_some() {
        return Ok(());
    }
    // Something is odd: the reference says what, or that it is nothing.
    reference::decode_block(raw, block, start, output)
        .map_err(|reason| Corruption { block, reason })
}

/// Decodes a block that has nothing wrong with it. `None` where it is not clear that it has not.
fn decode_sound_block(
    raw: &RawGroup<'_>,
    table: &Table,
    block: u32,
    start: usize,
    output: &mut [u16],
) -> Option<()> {
    let n_elements = raw.sign_mantissa.len();
    let is_last = block + 1 == reference::n_blocks(raw);
    let sign_mantissa = raw.sign_mantissa.get(start..start + output.len())?;
    let mut weights = output.iter_mut().zip(sign_mantissa);
    let mut n_left = sign_mantissa.len();
    let n_bits = 8 * raw.encoded_exponent.len() as u64;
    let first_chunk = block as usize * THREADS_PER_BLOCK;
    let mut bit = first_chunk as u64 * CHUNK_BITS + reference::gap(raw, first_chunk);
    for chunk in first_chunk..first_chunk + THREADS_PER_BLOCK {
        let chunk_end = (chunk as u64 + 1) * CHUNK_BITS;
        while bit < chunk_end.min(n_bits) {
            if n_left == 0 {
                // More bits and no more weights: padding in the last block, corruption elsewhere.
                return is_last.then_some(());
            }
            let (exponent, length) = table.look_up(raw, bit)?;
            let (weight, byte) = weights.next()?;
            *weight = reference::bf16_bits(exponent, *byte);
            bit += length;
            n_left -= 1;
        }
        if start + sign_mantissa.len() - n_left < n_elements
            && (chunk_end >= n_bits || bit != chunk_end + reference::gap(raw, chunk + 1))
        {
            return None;
        }
    }
    (n_left == 0).then_some(())
}

/// Exponent and length of the code that each 12 bits start with; length 0 where it is longer.
struct Table(Vec<[u8; 2]>);

impl Table {
    fn new(raw: &RawGroup<'_>) -> Self {
        let entries = (0..1_u32 << LOOKUP_BITS).map(|bits| {
            let bytes = (bits << (32 - LOOKUP_BITS)).to_be_bytes();
            let seen = RawGroup { encoded_exponent: &bytes, ..*raw };
            match reference::code_at(&seen, 0) {
                Ok((exponent, length)) if length <= u64::from(LOOKUP_BITS) => {
                    [exponent, length as u8]
                }
                _ => [0, 0],
            }
        });
        Self(entries.collect())
    }

    fn look_up(&self, raw: &RawGroup<'_>, bit: u64) -> Option<(u8, u64)> {
        let byte = (bit / 8) as usize;
        let peek = match raw.encoded_exponent.get(byte..byte + 4) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]) << (bit % 8),
            _ => return reference::code_at(raw, bit).ok(),
        };
        match self.0[(peek >> (32 - LOOKUP_BITS)) as usize] {
            [_, 0] => reference::code_at(raw, bit).ok(),
            [exponent, length] => Some((exponent, length.into())),
        }
    }
}
