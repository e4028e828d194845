//! The CPU decoder: what the reference gives, faster.

use super::reference::{self, CORRUPT_WEIGHT};
use super::{BYTES_PER_THREAD, Corruption, Group, RawGroup, THREADS_PER_BLOCK};

/// Bits of the stream that one lookup sees.
const LOOKUP_BITS: u32 = 12;
/// Bits that four lookups take at most.
const FOUR_LOOKUPS: u64 = 4 * LOOKUP_BITS as u64;
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
    let mut n_left = sign_mantissa.len();
    let n_bits = 8 * raw.encoded_exponent.len() as u64;
    let first_chunk = block as usize * THREADS_PER_BLOCK;
    let mut bit = first_chunk as u64 * CHUNK_BITS + reference::gap(raw, first_chunk);
    for chunk in first_chunk..first_chunk + THREADS_PER_BLOCK {
        let chunk_end = (chunk as u64 + 1) * CHUNK_BITS;
        // Lookups of two codes, while they can leave neither the chunk nor the output.
        while bit + u64::from(LOOKUP_BITS) <= chunk_end && n_left >= 8 {
            let Some(window) = window_at(raw, bit) else { break };
            let place = sign_mantissa.len() - n_left;
            let n_safe_bits = (chunk_end - bit).min(FOUR_LOOKUPS) as u32;
            let (n_codes, length) = table.look_up_some(
                window,
                n_safe_bits,
                &sign_mantissa[place..place + 8],
                &mut output[place..place + 8],
            );
            if n_codes == 0 {
                break;
            }
            bit += length;
            n_left -= n_codes;
        }
        while bit < chunk_end.min(n_bits) {
            if n_left == 0 {
                // More bits and no more weights: padding in the last block, corruption elsewhere.
                return is_last.then_some(());
            }
            let (exponent, length) = table.look_up(raw, bit)?;
            let place = sign_mantissa.len() - n_left;
            output[place] = reference::bf16_bits(exponent, sign_mantissa[place]);
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

/// 57 bits or more from bit `bit` on, left-aligned; `None` near the end of the stream.
fn window_at(raw: &RawGroup<'_>, bit: u64) -> Option<u64> {
    let bytes = raw.encoded_exponent.get((bit / 8) as usize..)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*bytes) << (bit % 8))
}

/// What each 12 bits start with: one code or two.
struct Table(Vec<Entry>);

/// `n_codes` is 0 where the first code is longer than a lookup, or none.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    exponents: [u8; 2],
    first_length: u8,
    length: u8,
    n_codes: u8,
}

impl Table {
    fn new(raw: &RawGroup<'_>) -> Self {
        let code = |bits: u32, n_bits: u32| {
            let bytes = (bits << (32 - LOOKUP_BITS)).to_be_bytes();
            let seen = RawGroup { encoded_exponent: &bytes, ..*raw };
            let (exponent, length) = reference::code_at(&seen, 0).ok()?;
            (length <= u64::from(n_bits)).then_some((exponent, length as u32))
        };
        let mask = (1 << LOOKUP_BITS) - 1;
        let entries = (0..1_u32 << LOOKUP_BITS).map(|bits| {
            let Some((first, first_length)) = code(bits, LOOKUP_BITS) else {
                return Entry::default();
            };
            let second = code(bits << first_length & mask, LOOKUP_BITS - first_length);
            let (exponent, length) = second.unwrap_or((0, 0));
            Entry {
                exponents: [first, exponent],
                first_length: first_length as u8,
                length: (first_length + length) as u8,
                n_codes: 1 + u8::from(second.is_some()),
            }
        });
        Self(entries.collect())
    }

    /// Decodes what up to four lookups see of the first `n_safe_bits` of `window`, at most 8 codes;
    /// says how many and their bits. Ends early where a code is longer than a lookup.
    fn look_up_some(
        &self,
        mut window: u64,
        n_safe_bits: u32,
        sign_mantissa: &[u8],
        output: &mut [u16],
    ) -> (usize, u64) {
        let mut n_codes = 0;
        let mut length = 0;
        for _ in 0..4 {
            let entry = self.0[(window >> (64 - LOOKUP_BITS)) as usize];
            if length + LOOKUP_BITS > n_safe_bits || entry.n_codes == 0 {
                break;
            }
            // A second place that holds no second code is written again by the next lookup.
            let bytes = &sign_mantissa[n_codes..n_codes + 2];
            let places = &mut output[n_codes..n_codes + 2];
            places[0] = reference::bf16_bits(entry.exponents[0], bytes[0]);
            places[1] = reference::bf16_bits(entry.exponents[1], bytes[1]);
            n_codes += usize::from(entry.n_codes);
            length += u32::from(entry.length);
            window <<= entry.length;
        }
        (n_codes, length.into())
    }

    fn look_up(&self, raw: &RawGroup<'_>, bit: u64) -> Option<(u8, u64)> {
        match window_at(raw, bit).map(|window| self.0[(window >> (64 - LOOKUP_BITS)) as usize]) {
            Some(entry) if entry.n_codes > 0 => {
                Some((entry.exponents[0], entry.first_length.into()))
            }
            _ => reference::code_at(raw, bit).ok(),
        }
    }
}
