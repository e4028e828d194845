//! The CPU decoder: what the reference gives, faster.

use super::reference::place;
use super::{
    LANES, PALETTE_LEN, RawLane, TILE_COLUMNS, TILE_ROWS, TILE_STEPS, TILE_WEIGHTS, TILE_WORDS,
    Tile, row_tiles_of_batch,
};
use crate::Result;
use crate::error::check_same;
use crate::huffman::parallel;

/// The weights of a matrix, row by row, on all threads of the current rayon pool (feature `files`;
/// else on one).
///
/// # Numerics
/// Bit for bit [`reference::unpack`](super::reference::unpack), for any bytes.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where `output` has another length than the matrix weights, or a plane than the shape
/// tells, and [`Error::Range`](crate::Error::Range) for 2^32 escapes; `output` is then left alone.
pub fn unpack(raw: &RawLane<'_>, output: &mut [u16]) -> Result<()> {
    raw.check()?;
    check_same("output", raw.shape.n_weights(), output.len())?;
    let n_columns = raw.shape.n_columns() as usize;
    let n_row_tiles = row_tiles_of_batch(&raw.shape);
    let batches = output.chunks_mut(n_row_tiles * TILE_ROWS * n_columns).enumerate().collect();
    parallel::map(batches, |(idx, rows): (usize, &mut [u16])| {
        for (i, rows) in rows.chunks_mut(TILE_ROWS * n_columns).enumerate() {
            unpack_row_tile(raw, idx * n_row_tiles + i, rows);
        }
    });
    Ok(())
}

fn unpack_row_tile(raw: &RawLane<'_>, row_tile: usize, rows: &mut [u16]) {
    let [n_columns, n_tiles] =
        [raw.shape.n_columns(), raw.shape.tiles_per_row()].map(|n| n as usize);
    let palette = &raw.palettes.as_chunks::<PALETTE_LEN>().0[row_tile];
    // The high bytes of two neighbours, by the byte of their codes.
    let pairs: [[u8; 2]; 256] =
        std::array::from_fn(|codes| [codes & 7, codes >> 4 & 7].map(|slot| palette[slot] & 0x7F));
    let mut tile = [[0; TILE_COLUMNS]; TILE_ROWS];
    for j in 0..n_tiles {
        unpack_tile(raw, row_tile * n_tiles + j, &pairs, &mut tile);
        let columns = TILE_COLUMNS * j..n_columns.min(TILE_COLUMNS * (j + 1));
        for (row, own) in rows.chunks_mut(n_columns).zip(&tile) {
            row[columns.clone()].copy_from_slice(&own[..columns.len()]);
        }
    }
}

fn unpack_tile(raw: &RawLane<'_>, idx: usize, pairs: &[[u8; 2]; 256], tile: &mut Tile) {
    let low = raw.low.as_chunks::<TILE_WEIGHTS>().0[idx].as_chunks::<16>().0;
    let high = raw.high.as_chunks::<TILE_WORDS>().0[idx].as_chunks::<4>().0;
    for pair in 0..TILE_STEPS / 2 {
        for lane in 0..LANES {
            let low = &low[LANES * pair + lane];
            let four = &high[LANES * (pair / 2) + lane];
            let words = if pair % 2 == 0 { [four[0], four[1]] } else { [four[2], four[3]] };
            // Of a lane's two steps each other two are of the row eight below.
            let of_row = |below: usize| {
                let lows: [u8; 8] = std::array::from_fn(|i| low[i / 2 * 4 + i % 2 + 2 * below]);
                let of_step = |word: u32| {
                    let signs = word >> (16 * below);
                    let [a, b] = [0, 16].map(|at| {
                        u32::from(u16::from_le_bytes(
                            pairs[usize::from((word >> (at + 8 * below)) as u8)],
                        ))
                    });
                    a | b << 16 | signs & 0x8080 | (signs << 20) & 0x8080_0000
                };
                let highs = u64::from(of_step(words[0])) | u64::from(of_step(words[1])) << 32;
                let highs = highs.to_le_bytes();
                std::array::from_fn::<u16, 8, _>(|i| u16::from_le_bytes([lows[i], highs[i]]))
            };
            let (row, column) = place(2 * pair, lane, 0);
            let (above, below) = tile.split_at_mut(TILE_ROWS / 2);
            above[row].as_chunks_mut::<8>().0[column / 8] = of_row(0);
            below[row].as_chunks_mut::<8>().0[column / 8] = of_row(1);
        }
    }
    let header = raw.headers[idx];
    let first = (header as u32 as usize).min(raw.escapes.len());
    let count = (header >> 32 & 0xFFFF).min(TILE_WEIGHTS as u64) as usize;
    for escape in raw.escapes[first..].iter().take(count) {
        let step = (escape >> 24 & 7) as usize;
        if header >> (48 + step) & 1 == 1 {
            let (row, column) =
                place(step, (escape >> 19 & 31) as usize, (escape >> 16 & 7) as usize);
            tile[row][column] = *escape as u16;
        }
    }
}
