//! The rule of indexed decoding, written for reading: what the kernels must give, bit for bit, for every input.

use std::cmp::Reverse;

use super::table::{LOOKUP_BITS, rotate};
use super::{GRANULE_WEIGHTS, Index, IndexedRowsPlan, TILE_GRANULES, TILE_WEIGHTS};
use crate::huffman::reference::{
    CORRUPT_WEIGHT, bf16_bits, code_in, decode as decode_group, gap, peek,
};
use crate::huffman::{Corruption, Group, MAX_CODE_BITS};
use crate::select::Absent;

/// Bits that a tile's codes take at most, from its first code's byte on.
pub(super) const MOST_TILE_BITS: u64 = TILE_WEIGHTS as u64 * MAX_CODE_BITS as u64 + 7;

/// A group's tensors and their index, trusted in nothing but their lengths.
#[derive(Debug, Clone, Copy)]
pub struct RawIndexed<'a> {
    /// `[n_code_bytes]`: codes, most significant bit first.
    pub codes: &'a [u8],
    /// `[n_elements]`: bit 7 the sign, bits 6..0 the mantissa.
    pub sign_mantissa: &'a [u8],
    /// `[n_granules / 32 + 1]`: of the [`Index`].
    pub tile_bytes: &'a [u32],
    /// `[n_granules + 1]`: of the [`Index`].
    pub granule_bits: &'a [u16],
    /// `[4096]`: entries of the [`CodeTable`](super::CodeTable).
    pub entries: &'a [u32],
    /// `[256]`: its lengths.
    pub lengths: &'a [u8],
    /// `[n_lut_rows + 1, 256]`: where codes are longer than 12 bits, DF11's tables; else empty.
    pub luts: &'a [u8],
}

/// What can be wrong with a tile. Where several hold, the highest is reported, and an impossible index alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[repr(u32)]
#[non_exhaustive]
pub enum TileReason {
    /// Its granules do not ascend, leave the stream, or have more bits than codes of 32.
    #[error("its index is impossible")]
    Index = 1,
    /// Bits that are no code.
    #[error("its bits are no code")]
    Code = 2,
    /// Codes that end elsewhere than the next granule begins.
    #[error("its codes end elsewhere than the index says")]
    Chain = 3,
}

/// The lowest corrupt tile, and what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tile {tile}: {reason}")]
pub struct CorruptTile {
    /// The launch's number of it: see [`DecodePlan::locate_tile`](crate::huffman::DecodePlan::locate_tile). Of one group alone, tiles before it.
    pub tile: u32,
    /// What is wrong.
    pub reason: TileReason,
}

impl CorruptTile {
    /// Reads the status word of a launch; `None` where all tiles were sound.
    pub fn from_status(status: u64) -> Option<Self> {
        let reasons = [TileReason::Index, TileReason::Code, TileReason::Chain];
        let reason = reasons.into_iter().find(|reason| *reason as u32 == status as u32)?;
        Some(Self { tile: u32::MAX - (status >> 32) as u32, reason })
    }
}

/// The index of a group, which is decoded for it once; `None` where it holds none: a tile has codes of more than
/// 65,535 bits, or the last code ends past the stream.
///
/// # Errors
/// That of [`reference::decode`](crate::huffman::reference::decode).
pub fn index(group: &Group<'_>) -> Result<Option<Index>, Corruption> {
    let raw = group.raw();
    let mut weights = vec![0; raw.sign_mantissa.len()];
    decode_group(raw, &mut weights)?;
    // A sound group's codes follow each other from the first gap on.
    let mut bit = gap(raw, 0);
    let mut starts = Vec::new();
    for weight in 0..weights.len() {
        if weight % GRANULE_WEIGHTS == 0 {
            starts.push(bit);
        }
        let code = code_in(raw.luts, peek(raw.encoded_exponent, bit));
        bit += code.map_err(|reason| Corruption { block: 0, reason })?.1;
    }
    starts.push(bit);
    let is_inside = bit <= 8 * raw.encoded_exponent.len() as u64;
    Ok(Index::of_starts(&starts).filter(|_| is_inside))
}

/// Decodes a group to bf16 bits. A corrupt tile's weights are all 0x7FC0, and the others what they are.
///
/// # Errors
/// The lowest corrupt tile.
///
/// # Panics
/// Where lengths are not those of [`RawIndexed`], or `output` has another than `sign_mantissa`.
pub fn decode(raw: &RawIndexed<'_>, output: &mut [u16]) -> Result<(), CorruptTile> {
    let mut result = Ok(());
    for (tile, weights) in output.chunks_mut(TILE_WEIGHTS).enumerate() {
        if let Err(reason) = decode_tile(raw, tile, weights) {
            weights.fill(CORRUPT_WEIGHT);
            result = result.and(Err(CorruptTile { tile: tile as u32, reason }));
        }
    }
    result
}

/// Rows of a matrix by their numbers: `output[i * output_stride..][..row_len]` is row `rows[i]`. A row is decoded by
/// 32 granules at a time, from that of its first weight on; the weights of a row that are of a corrupt span are 0x7FC0.
///
/// # Errors
/// The lowest tile that a corrupt span begins in, and the highest reason found there.
///
/// # Panics
/// Where lengths are not those of [`RawIndexed`] and of the plan.
pub fn decode_rows(
    raw: &RawIndexed<'_>,
    plan: &IndexedRowsPlan,
    rows: &[u32],
    absent: Absent,
    output: &mut [u16],
) -> Result<(), CorruptTile> {
    let shape = plan.shape();
    let (n_elements, row_len) = (raw.sign_mantissa.len(), shape.row_len as usize);
    let mut worst: Option<CorruptTile> = None;
    for (row, output) in rows.iter().zip(output.chunks_mut(shape.output_stride as usize)) {
        let output = &mut output[..row_len];
        if u64::from(*row) >= shape.n_matrix_rows {
            if absent == Absent::Zeros {
                output.fill(0);
            }
            continue;
        }
        let begin = shape.first_element as usize + *row as usize * row_len;
        let first_granule = begin / GRANULE_WEIGHTS;
        let end_granule = (begin + row_len).div_ceil(GRANULE_WEIGHTS);
        for granule in (first_granule..end_granule).step_by(TILE_GRANULES) {
            let first = granule * GRANULE_WEIGHTS;
            let last = (granule + TILE_GRANULES).min(end_granule) * GRANULE_WEIGHTS;
            let mut weights = vec![0; last.min(n_elements) - first];
            if let Err(reason) = decode_span(raw, granule, &mut weights) {
                weights.fill(CORRUPT_WEIGHT);
                let tile = (granule / TILE_GRANULES) as u32;
                let is_worse = |known: CorruptTile| {
                    (known.tile, Reverse(known.reason)) > (tile, Reverse(reason))
                };
                if worst.is_none_or(is_worse) {
                    worst = Some(CorruptTile { tile, reason });
                }
            }
            let (from, to) = (first.max(begin), (first + weights.len()).min(begin + row_len));
            output[from - begin..to - begin].copy_from_slice(&weights[from - first..to - first]);
        }
    }
    worst.map_or(Ok(()), Err)
}

fn decode_tile(raw: &RawIndexed<'_>, tile: usize, weights: &mut [u16]) -> Result<(), TileReason> {
    decode_span(raw, tile * TILE_GRANULES, weights)
}

/// Decodes up to 32 granules from `first` on.
pub(in crate::huffman) fn decode_span(
    raw: &RawIndexed<'_>,
    first: usize,
    weights: &mut [u16],
) -> Result<(), TileReason> {
    let n_granules = weights.len().div_ceil(GRANULE_WEIGHTS);
    let begin = start(raw, first) / 8 * 8;
    let end = start(raw, first + n_granules);
    let starts = |granule| [start(raw, first + granule), start(raw, first + granule + 1)];
    let is_possible = end <= 8 * raw.codes.len() as u64
        && end.checked_sub(begin).is_some_and(|n_bits| n_bits <= MOST_TILE_BITS)
        && (0..n_granules).map(starts).all(|[start, next]| start <= next && begin <= start);
    if !is_possible {
        return Err(TileReason::Index);
    }
    let mut worst = None;
    for (granule, weights) in weights.chunks_mut(GRANULE_WEIGHTS).enumerate() {
        let first_weight = (first + granule) * GRANULE_WEIGHTS;
        let found = decode_granule(raw, starts(granule), first_weight, weights);
        worst = worst.max(found.err());
    }
    worst.map_or(Ok(()), Err)
}

fn decode_granule(
    raw: &RawIndexed<'_>,
    [start, next]: [u64; 2],
    first_weight: usize,
    weights: &mut [u16],
) -> Result<(), TileReason> {
    let mut bit = start;
    let mut n_done = 0;
    while n_done < weights.len() {
        let bits = peek(raw.codes, bit);
        let entry = sound(raw.entries[(bits >> (32 - LOOKUP_BITS)) as usize]);
        // Behind the next granule's first code whatever is wrong is that.
        let no_code = if bit > next { TileReason::Chain } else { TileReason::Code };
        let (exponents, n_bits) = match (entry >> 24, weights.len() - n_done) {
            (0, _) if bit > next || raw.luts.is_empty() => return Err(no_code),
            (0, _) => {
                let (exponent, n_bits) = code_in(raw.luts, bits).map_err(|_| no_code)?;
                (vec![exponent], n_bits)
            }
            // Of the last weight's two codes the first.
            (2, 1) => {
                let exponent = unrotate(entry as u8);
                let n_bits = raw.lengths[usize::from(exponent)];
                if !(1..=LOOKUP_BITS as u8).contains(&n_bits) {
                    return Err(no_code);
                }
                (vec![exponent], u64::from(n_bits))
            }
            (n_codes, _) => {
                let exponents = [entry as u8, (entry >> 8) as u8].map(unrotate);
                (exponents[..n_codes as usize].to_vec(), u64::from(entry >> 16 & 255))
            }
        };
        for exponent in exponents {
            weights[n_done] = bf16_bits(exponent, raw.sign_mantissa[first_weight + n_done]);
            n_done += 1;
        }
        bit += n_bits;
    }
    if bit == next { Ok(()) } else { Err(TileReason::Chain) }
}

/// An entry that no table has counts as none.
fn sound(entry: u32) -> u32 {
    let (n_codes, n_bits) = (entry >> 24, entry >> 16 & 255);
    let is_sound = (1..=2).contains(&n_codes) && (n_codes..=LOOKUP_BITS).contains(&n_bits);
    if is_sound { entry } else { 0 }
}

fn unrotate(exponent: u8) -> u8 {
    exponent.rotate_left(1)
}

/// The bit that granule `granule` begins at.
pub(in crate::huffman) fn start(raw: &RawIndexed<'_>, granule: usize) -> u64 {
    let byte = raw.tile_bytes[granule / TILE_GRANULES];
    8 * u64::from(byte) + u64::from(raw.granule_bits[granule])
}

const _: () = assert!(rotate(0x81) == 0xC0, "the lowest bit goes to the top");
