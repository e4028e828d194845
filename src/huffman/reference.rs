//! The decoding rule of DF11, written for reading: what the kernel and the CPU decoder must give,
//! bit for bit, for every input.

use std::ops::Range;

use super::{
    BYTES_PER_BLOCK, BYTES_PER_THREAD, Corruption, CorruptionReason, FIRST_POINTER, MAX_CODE_BITS,
    RawGroup, THREADS_PER_BLOCK,
};

/// What every weight of a corrupt group decodes to: a quiet NaN.
pub const CORRUPT_WEIGHT: u16 = 0x7FC0;
/// Bits of the code stream that one thread owns: its chunk.
const BITS_PER_CHUNK: u64 = 8 * BYTES_PER_THREAD as u64;

/// Decodes a group to bf16 bits, `output[i]` being weight `i`. On `Err`, all of `output` is
/// [`CORRUPT_WEIGHT`].
///
/// The bytes of `raw` are trusted in nothing; its sizes are. A group that
/// [`RawGroup::parse`] accepts has such sizes, and so has one with `n_blocks` =
/// `n_code_bytes.div_ceil(4096)`, `n_blocks` or `n_blocks + 1` positions, `320 * n_blocks` bytes of
/// gaps and `2..=18` rows of 256 bytes in `luts`.
///
/// # Errors
/// The lowest corrupt block, and the highest reason found in it.
///
/// # Panics
/// Where `output` has another length than `raw.sign_mantissa`, or a size is not as above.
pub fn decode(raw: &RawGroup<'_>, output: &mut [u16]) -> Result<(), Corruption> {
    assert_eq!(output.len(), raw.sign_mantissa.len(), "the output has one element per weight");
    for block in 0..n_blocks(raw) {
        let decoded = block_range(raw, block)
            .and_then(|range| decode_block(raw, block, range.start, &mut output[range]));
        if let Err(reason) = decoded {
            output.fill(CORRUPT_WEIGHT);
            return Err(Corruption { block, reason });
        }
    }
    Ok(())
}

/// Blocks of 4,096 code bytes.
pub(super) fn n_blocks(raw: &RawGroup<'_>) -> u32 {
    raw.encoded_exponent.len().div_ceil(BYTES_PER_BLOCK) as u32
}

/// The weights of block `block`.
pub(super) fn block_range(
    raw: &RawGroup<'_>,
    block: u32,
) -> Result<Range<usize>, CorruptionReason> {
    let n_elements = raw.sign_mantissa.len();
    let start = position(raw, block as usize);
    let end = position(raw, block as usize + 1);
    let is_possible = start <= end && end <= n_elements && end - start <= 8 * BYTES_PER_BLOCK;
    let starts_group = block != 0 || start == 0;
    let ends_group = block + 1 != n_blocks(raw) || end == n_elements;
    if is_possible && starts_group && ends_group {
        Ok(start..end)
    } else {
        Err(CorruptionReason::Positions)
    }
}

/// Decodes block `block`, whose first weight is `start`, to `output`, the range of the block.
pub(super) fn decode_block(
    raw: &RawGroup<'_>,
    block: u32,
    start: usize,
    output: &mut [u16],
) -> Result<(), CorruptionReason> {
    let n_elements = raw.sign_mantissa.len();
    let n_bits = 8 * raw.encoded_exponent.len() as u64;
    let is_last = block + 1 == n_blocks(raw);
    let mut n_decoded = 0;
    let mut worst = None;

    let first_chunk = block as usize * THREADS_PER_BLOCK;
    for chunk in first_chunk..first_chunk + THREADS_PER_BLOCK {
        let next_chunk_bit = (chunk as u64 + 1) * BITS_PER_CHUNK;
        let mut bit = next_chunk_bit - BITS_PER_CHUNK + gap(raw, chunk);
        let mut stop = None;
        while stop.is_none() && bit < next_chunk_bit.min(n_bits) {
            match code_in(raw.luts, peek(raw.encoded_exponent, bit)) {
                Ok((exponent, length)) => {
                    // A block may hold more codes than weights: padding, or corruption.
                    if let Some(weight) = output.get_mut(n_decoded) {
                        *weight = bf16_bits(exponent, raw.sign_mantissa[start + n_decoded]);
                    }
                    n_decoded += 1;
                    bit += length;
                }
                Err(reason) => stop = Some(reason),
            }
        }
        // Bits after the group's last weight are padding, and may be anything.
        let has_more = start + n_decoded < n_elements;
        if stop.is_some() {
            if has_more || !is_last {
                worst = worst.max(stop);
            }
        } else if has_more && next_chunk_bit < n_bits && bit != next_chunk_bit + gap(raw, chunk + 1)
        {
            worst = worst.max(Some(CorruptionReason::Gap));
        }
    }

    let has_padding = is_last && n_decoded > output.len();
    if n_decoded != output.len() && !has_padding {
        worst = worst.max(Some(CorruptionReason::Count));
    }
    worst.map_or(Ok(()), Err)
}

/// The code that `bits` begin with: its exponent and its length in bits.
pub(super) fn code_in(luts: &[u8], bits: u32) -> Result<(u8, u64), CorruptionReason> {
    let (tables, lengths) = luts.split_at(luts.len() - 256);
    let [first, rest @ ..] = bits.to_be_bytes();
    let mut entry = tables[usize::from(first)];
    for byte in rest {
        if entry < FIRST_POINTER {
            break;
        }
        let row = 256 - usize::from(entry);
        if row >= tables.len() / 256 {
            return Err(CorruptionReason::Pointer);
        }
        entry = tables[256 * row + usize::from(byte)];
    }
    match lengths[usize::from(entry)] {
        length if (1..=MAX_CODE_BITS).contains(&u32::from(length)) => {
            Ok((entry, u64::from(length)))
        }
        _ => Err(CorruptionReason::CodeLength),
    }
}

/// The 32 bits from bit `bit` on; bits past the end of `codes` are zeros.
pub(super) fn peek(codes: &[u8], bit: u64) -> u32 {
    let mut bytes = [0; 8];
    let rest = &codes[((bit / 8) as usize).min(codes.len())..];
    let n_bytes = rest.len().min(bytes.len());
    bytes[..n_bytes].copy_from_slice(&rest[..n_bytes]);
    ((u64::from_be_bytes(bytes) << (bit % 8)) >> 32) as u32
}

/// Where in its 64 bits the first code of chunk `chunk` starts, `0..=31`.
pub(super) fn gap(raw: &RawGroup<'_>, chunk: usize) -> u64 {
    let first_bit = 5 * chunk;
    let bit = |idx: usize| u64::from(raw.gaps[idx / 8] >> (7 - idx % 8) & 1);
    (first_bit..first_bit + 5).fold(0, |gap, idx| gap << 1 | bit(idx))
}

/// The first weight of block `idx`; the group's end past the last entry of the file.
fn position(raw: &RawGroup<'_>, idx: usize) -> usize {
    match raw.output_positions.as_chunks().0.get(idx) {
        Some(bytes) => u32::from_le_bytes(*bytes) as usize,
        None => raw.sign_mantissa.len(),
    }
}

/// A weight from its exponent and its byte of sign and mantissa.
pub(super) fn bf16_bits(exponent: u8, sign_mantissa: u8) -> u16 {
    let sign = u16::from(sign_mantissa & 0x80) << 8;
    sign | u16::from(exponent) << 7 | u16::from(sign_mantissa & 0x7F)
}
