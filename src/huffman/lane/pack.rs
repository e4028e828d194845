//! Rows of bf16 to planes.

use super::reference::place;
use super::{
    LANES, LaneMatrix, LaneShape, PALETTE_LEN, TILE_COLUMNS, TILE_ROWS, TILE_STEPS, TILE_WEIGHTS,
    TILE_WORDS, Tile, row_tiles_of_batch,
};
use crate::Result;
use crate::error::check_same;
use crate::huffman::parallel;

/// The code of what the palette lacks.
const ESCAPE: u8 = PALETTE_LEN as u8;

/// Bits that only it has, of eight codes.
const ESCAPES: u64 = 0x0808_0808_0808_0808;

/// Packs a matrix, row by row, on all threads of the current rayon pool (feature `files`; else on
/// one).
///
/// # Numerics
/// Exact for every bit pattern, and canonical: a matrix has these planes and no others. A palette is
/// the up to eight most frequent values of its rows' weights, of equal ones the lower, ascending.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where `weights` has another length than the shape weights.
pub fn pack(weights: &[u16], shape: LaneShape) -> Result<LaneMatrix> {
    check_same("weights", shape.n_weights(), weights.len())?;
    let mut matrix = LaneMatrix {
        shape,
        palettes: vec![0; shape.palettes_len() as usize],
        low: vec![0; shape.low_len() as usize],
        high: vec![0; shape.high_len() as usize],
        headers: vec![0; shape.headers_len() as usize],
        escapes: Vec::new(),
    };
    let n_row_tiles = row_tiles_of_batch(&shape);
    let n_tiles = n_row_tiles * shape.tiles_per_row() as usize;
    let batches = weights
        .chunks(n_row_tiles * TILE_ROWS * shape.n_columns() as usize)
        .zip(matrix.palettes.chunks_mut(n_row_tiles * PALETTE_LEN))
        .zip(matrix.low.chunks_mut(n_tiles * TILE_WEIGHTS))
        .zip(matrix.high.chunks_mut(n_tiles * TILE_WORDS))
        .zip(matrix.headers.chunks_mut(n_tiles))
        .map(|((((weights, palettes), low), high), headers)| Batch {
            weights,
            palettes,
            low,
            high,
            headers,
        })
        .collect();
    let lists = parallel::map(batches, |batch: Batch<'_>| batch.pack(&shape));
    // Headers count from their batch's first escape on until here.
    let mut first = 0;
    for (headers, list) in matrix.headers.chunks_mut(n_tiles).zip(&lists) {
        for header in headers {
            *header += first;
        }
        first += list.len() as u64;
    }
    matrix.escapes = lists.concat();
    Ok(matrix)
}

/// How many escapes [`pack`] would make of a matrix, for [`LaneShape::n_bytes`].
///
/// # Errors
/// Those of [`pack`].
pub fn count_escapes(weights: &[u16], shape: LaneShape) -> Result<u64> {
    check_same("weights", shape.n_weights(), weights.len())?;
    let row_tile_len = TILE_ROWS * shape.n_columns() as usize;
    let batches = weights.chunks(row_tiles_of_batch(&shape) * row_tile_len).collect();
    let counts = parallel::map(batches, |batch: &[u16]| {
        let escapes = batch.chunks(row_tile_len).map(|weights| {
            let counts = count_values(weights);
            let codes = codes_of(&palette_of(&counts));
            let of_value =
                |(count, code): (&u32, &u8)| u64::from(*count) * u64::from(*code / ESCAPE);
            counts.iter().zip(&codes).map(of_value).sum::<u64>()
        });
        escapes.sum::<u64>()
    });
    Ok(counts.iter().sum())
}

/// Some row tiles, and where they go.
struct Batch<'a> {
    weights: &'a [u16],
    palettes: &'a mut [u8],
    low: &'a mut [u8],
    high: &'a mut [u32],
    headers: &'a mut [u64],
}

impl Batch<'_> {
    /// Its escapes.
    fn pack(self, shape: &LaneShape) -> Vec<u32> {
        let [n_columns, n_tiles] = [shape.n_columns(), shape.tiles_per_row()].map(|n| n as usize);
        let mut escapes = Vec::new();
        let row_tiles = self
            .weights
            .chunks(TILE_ROWS * n_columns)
            .zip(self.palettes.as_chunks_mut::<PALETTE_LEN>().0);
        let mut tiles = self
            .low
            .as_chunks_mut::<TILE_WEIGHTS>()
            .0
            .iter_mut()
            .zip(self.high.as_chunks_mut::<TILE_WORDS>().0)
            .zip(self.headers);
        for (weights, palette) in row_tiles {
            *palette = palette_of(&count_values(weights));
            let codes = codes_of(palette);
            for (j, ((low, high), header)) in tiles.by_ref().take(n_tiles).enumerate() {
                // What is outside the matrix is packed as zeros.
                let mut tile = [[u16::from(palette[0]) << 8; TILE_COLUMNS]; TILE_ROWS];
                for (own, row) in tile.iter_mut().zip(weights.chunks(n_columns)) {
                    let row = &row[TILE_COLUMNS * j..n_columns.min(TILE_COLUMNS * (j + 1))];
                    own[..row.len()].copy_from_slice(row);
                }
                *header = pack_tile(&tile, &codes, low, high, &mut escapes);
            }
        }
        escapes
    }
}

/// The upper seven bits of a weight's exponent.
fn value_of(weight: u16) -> usize {
    usize::from(weight >> 8 & 0x7F)
}

fn count_values(weights: &[u16]) -> [u32; 128] {
    // Neighbours often have the same value, and would wait for each other.
    let mut counts = [[0; 128]; 4];
    let (fours, rest) = weights.as_chunks::<4>();
    for four in fours {
        for (counts, weight) in counts.iter_mut().zip(four) {
            counts[value_of(*weight)] += 1;
        }
    }
    for weight in rest {
        counts[0][value_of(*weight)] += 1;
    }
    std::array::from_fn(|value| counts.iter().map(|counts| counts[value]).sum())
}

/// The up to eight most frequent values, of equal ones the lower, ascending; the last fills the rest.
fn palette_of(counts: &[u32; 128]) -> [u8; PALETTE_LEN] {
    let mut values: Vec<u8> = (0..128).filter(|value| counts[usize::from(*value)] > 0).collect();
    values.sort_by_key(|value| std::cmp::Reverse(counts[usize::from(*value)]));
    values.truncate(PALETTE_LEN);
    values.sort_unstable();
    std::array::from_fn(|slot| values.get(slot).or(values.last()).copied().unwrap_or(0))
}

/// The code of each value: its lowest slot, or [`ESCAPE`].
fn codes_of(palette: &[u8; PALETTE_LEN]) -> [u8; 128] {
    let mut codes = [ESCAPE; 128];
    for (slot, value) in palette.iter().enumerate().rev() {
        codes[usize::from(*value)] = slot as u8;
    }
    codes
}

/// The tile's header, of its escapes from the first of `escapes` on.
fn pack_tile(
    tile: &Tile,
    codes: &[u8; 128],
    low: &mut [u8; TILE_WEIGHTS],
    high: &mut [u32; TILE_WORDS],
    escapes: &mut Vec<u32>,
) -> u64 {
    let first = escapes.len();
    let mut steps = 0_u64;
    for step in 0..TILE_STEPS {
        for lane in 0..LANES {
            // Four neighbours of a row, and of the row eight below.
            let (row, column) = place(step, lane, 0);
            let [a, b] = [row, row + 8].map(|row| tile[row].as_chunks::<4>().0[column / 4]);
            let mut weights = [a[0], a[1], b[0], b[1], a[2], a[3], b[2], b[3]];
            let mut slots = weights.map(|weight| codes[value_of(weight)]);
            if u64::from_le_bytes(slots) & ESCAPES != 0 {
                steps |= 1 << step;
                let at = (step << 24 | lane << 19) as u32;
                for (u, (weight, slot)) in weights.iter_mut().zip(&mut slots).enumerate() {
                    if *slot == ESCAPE {
                        escapes.push(at | (u as u32) << 16 | u32::from(*weight));
                        (*weight, *slot) = (0, 0);
                    }
                }
            }
            let low_at = 64 * (step / 2) + 2 * lane + step % 2;
            low.as_chunks_mut::<8>().0[low_at] = weights.map(|weight| weight as u8);
            let signs = u64::from_le_bytes(weights.map(|weight| (weight >> 8) as u8));
            let signs = signs as u32 & 0x8080_8080 | (signs >> 36) as u32 & 0x0808_0808;
            high[128 * (step / 4) + 4 * lane + step % 4] = nibbles(slots) | signs;
        }
    }
    let count = escapes.len() - first;
    first as u64 | (count as u64) << 32 | steps << 48
}

/// The lower four bits of eight bytes, side by side.
fn nibbles(bytes: [u8; 8]) -> u32 {
    let bytes = u64::from_le_bytes(bytes);
    let bytes = (bytes | bytes >> 4) & 0x00FF_00FF_00FF_00FF;
    let bytes = (bytes | bytes >> 8) & 0x0000_FFFF_0000_FFFF;
    (bytes | bytes >> 16) as u32
}
