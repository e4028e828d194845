//! What the planes of a matrix stand for, and its product, written for reading: what every decoder
//! and kernel must give, bit for bit, for any bytes.

pub use super::product::reference::{ReferenceFactor, gated_product, product, silu};
use super::{
    LANES, PALETTE_LEN, RawLane, TILE_COLUMNS, TILE_ROWS, TILE_STEPS, TILE_WEIGHTS, TILE_WORDS,
    Tile,
};
use crate::mma::{Model, Operand};

/// Parts of a row that a product sums up on their own.
const CHAINS: usize = 8;

/// The row and column in a tile of weight `u` (0..8) of a lane (0..32) in a step (0..8).
pub fn place(step: usize, lane: usize, u: usize) -> (usize, usize) {
    let column = 32 * (step / 2) + 8 * (lane % 4) + 4 * (step % 2) + 2 * (u / 4) + u % 2;
    (lane / 4 + 8 * (u / 2 % 2), column)
}

/// The columns in a tile of a step's 16 products, as an `mma` counts them.
fn columns(step: usize) -> [usize; 16] {
    std::array::from_fn(|k| place(step, k / 2 % 4, k % 2 + 4 * (k / 8)).1)
}

/// All 16 x 128 weights of a tile: also those outside the matrix, which are +0 times the first value
/// of the palette where a matrix was packed, and anything where not.
///
/// # Panics
/// Where the tile is not there, or a plane has another length than the shape tells.
pub fn unpack_tile(raw: &RawLane<'_>, row_tile: usize, column_tile: usize) -> Tile {
    let tile = row_tile * raw.shape.tiles_per_row() as usize + column_tile;
    let palette = &raw.palettes[PALETTE_LEN * row_tile..][..PALETTE_LEN];
    let low = &raw.low[TILE_WEIGHTS * tile..][..TILE_WEIGHTS];
    let high = &raw.high[TILE_WORDS * tile..][..TILE_WORDS];
    let mut weights = [[0; TILE_COLUMNS]; TILE_ROWS];
    for step in 0..TILE_STEPS {
        for lane in 0..LANES {
            let word = high[128 * (step / 4) + 4 * lane + step % 4];
            for u in 0..8 {
                let slot = word >> (4 * u) & 7;
                let sign = word >> if u < 4 { 8 * u + 7 } else { 8 * (u - 4) + 3 } & 1;
                let value = u16::from(palette[slot as usize] & 0x7F);
                let low = low[512 * (step / 2) + 16 * lane + 8 * (step % 2) + u];
                let (row, column) = place(step, lane, u);
                weights[row][column] = (sign as u16) << 15 | value << 8 | u16::from(low);
            }
        }
    }
    // A tile has no more escapes than weights, whatever its header says.
    let header = raw.headers[tile];
    let first = header as u32 as usize;
    let count = (header >> 32 & 0xFFFF).min(TILE_WEIGHTS as u64) as usize;
    for escape in raw.escapes.iter().skip(first).take(count) {
        let step = (escape >> 24 & 7) as usize;
        if header >> (48 + step) & 1 == 1 {
            let (row, column) =
                place(step, (escape >> 19 & 31) as usize, (escape >> 16 & 7) as usize);
            weights[row][column] = *escape as u16;
        }
    }
    weights
}

/// The weights of a matrix, row by row.
///
/// # Panics
/// Where `output` has another length than the matrix weights, or a plane than the shape tells.
pub fn unpack(raw: &RawLane<'_>, output: &mut [u16]) {
    raw.check().expect("planes of the shape");
    assert_eq!(output.len() as u64, raw.shape.n_weights(), "the output has one element per weight");
    for (i, rows) in output.chunks_mut(TILE_ROWS * raw.shape.n_columns() as usize).enumerate() {
        for j in 0..raw.shape.tiles_per_row() as usize {
            let tile = unpack_tile(raw, i, j);
            for (row, weights) in rows.chunks_mut(raw.shape.n_columns() as usize).zip(&tile) {
                for (weight, own) in row[TILE_COLUMNS * j..].iter_mut().zip(weights) {
                    *weight = *own;
                }
            }
        }
    }
}

/// `y[c][r] = sum over k of W[r][k] * x[c][k]`, in f32, before any epilogue; NaN is 0x7FFFFFFF.
///
/// A row's tiles are eight chains, chain c from tile `c * T / 8` up to `(c + 1) * T / 8` of T; each
/// adds its products from +0 on, 16 a step in the order that [`format`](super) says ([`Model::dot_add`]), then the chains are added in their
/// order. Past the last column `x` is +0, by which weights there are multiplied too: of planes that
/// [`pack`](super::pack) gave that changes nothing, of others an infinity makes a NaN.
///
/// `x` is bf16 `[n_inputs, n_columns]`, the result `[n_inputs, n_rows]`.
///
/// # Panics
/// Where `x` or a plane has another length.
pub fn multiply(model: Model, raw: &RawLane<'_>, x: &[u16], n_inputs: usize) -> Vec<f32> {
    raw.check().expect("planes of the shape");
    let [n_rows, n_columns] = [raw.shape.n_rows(), raw.shape.n_columns()].map(|n| n as usize);
    assert_eq!(x.len(), n_inputs * n_columns, "an input has one element per column");
    let n_tiles = raw.shape.tiles_per_row() as usize;
    let padded = |input: usize| {
        let mut x = x[input * n_columns..][..n_columns].to_vec();
        x.resize(n_tiles * TILE_COLUMNS, 0);
        x
    };
    let inputs: Vec<Vec<u16>> = (0..n_inputs).map(padded).collect();
    let mut y = vec![0.0; n_inputs * n_rows];
    for i in 0..raw.shape.n_row_tiles() as usize {
        let tiles: Vec<Tile> = (0..n_tiles).map(|j| unpack_tile(raw, i, j)).collect();
        for row in TILE_ROWS * i..n_rows.min(TILE_ROWS * (i + 1)) {
            for (input, x) in inputs.iter().enumerate() {
                let chain = |chain: usize| {
                    let mut sum = 0;
                    for j in chain * n_tiles / CHAINS..(chain + 1) * n_tiles / CHAINS {
                        for step in 0..TILE_STEPS {
                            let columns = columns(step);
                            let w = columns.map(|column| tiles[j][row % TILE_ROWS][column]);
                            let x = columns.map(|column| x[TILE_COLUMNS * j + column]);
                            sum = model.dot_add(Operand::Bf16, &w, &x, sum).bits;
                        }
                    }
                    f32::from_bits(sum)
                };
                let sum = (1..CHAINS).fold(chain(0), |sum, next| sum + chain(next));
                y[input * n_rows + row] =
                    if sum.is_nan() { f32::from_bits(0x7FFF_FFFF) } else { sum };
            }
        }
    }
    y
}
