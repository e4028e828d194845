//! Rows of bf16 to planes.

use super::reference::place;
use super::{
    LANES, LaneMatrix, LaneShape, PALETTE_LEN, TILE_COLUMNS, TILE_ROWS, TILE_STEPS, TILE_WEIGHTS,
    TILE_WORDS, Tile, row_tiles_of_batch,
};
use crate::huffman::parallel;
use crate::{Error, Result};

/// The code of what the palette lacks.
const ESCAPE: u8 = PALETTE_LEN as u8;

/// Packs a matrix, row by row, on all threads of the current rayon pool (feature `files`; else on
/// one).
///
/// # Numerics
/// Exact for every bit pattern, and canonical: a matrix has these planes and no others. A palette is
/// the up to eight most frequent values of its rows' weights, of equal ones the lower, ascending.
///
/// # Errors
/// [`Error::Shape`] where `weights` has another length than the shape weights.
pub fn pack(weights: &[u16], shape: LaneShape) -> Result<LaneMatrix> {
    if weights.len() as u64 != shape.n_weights() {
        let (expected, got) = (shape.n_weights(), weights.len() as u64);
        return Err(Error::Shape { what: "weights of a matrix", expected, got });
    }
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
            let mut weights: [u16; 8] = std::array::from_fn(|u| {
                let (row, column) = place(step, lane, u);
                tile[row][column]
            });
            let mut slots = weights.map(|weight| codes[value_of(weight)]);
            if slots.contains(&ESCAPE) {
                steps |= 1 << step;
                let at = (step << 24 | lane << 19) as u32;
                for (u, (weight, slot)) in weights.iter_mut().zip(&mut slots).enumerate() {
                    if *slot == ESCAPE {
                        escapes.push(at | (u as u32) << 16 | u32::from(*weight));
                        (*weight, *slot) = (0, 0);
                    }
                }
            }
            let low_at = 512 * (step / 2) + 16 * lane + 8 * (step % 2);
            low[low_at..low_at + 8].copy_from_slice(&weights.map(|weight| weight as u8));
            high[128 * (step / 4) + 4 * lane + step % 4] = (0..8).fold(0, |word, u| {
                let sign_at = if u < 4 { 8 * u + 7 } else { 8 * (u - 4) + 3 };
                word | u32::from(slots[u]) << (4 * u) | u32::from(weights[u] >> 15) << sign_at
            });
        }
    }
    let count = escapes.len() - first;
    first as u64 | (count as u64) << 32 | steps << 48
}
