//! What must hold of groups, whatever is in them.

use std::collections::HashMap;

use lacuna::Error;
use lacuna::huffman::indexed::{
    self, CodeTable, CorruptTile, GRANULE_WEIGHTS, IndexedRowsPlan, IndexedRowsShape, RawIndexed,
    TILE_GRANULES, TILE_WEIGHTS, TileReason,
};
use lacuna::huffman::{self, Corruption, Group, reference};
use lacuna::select::Absent;

use crate::Input;

/// What a tile is that is corrupt.
const CORRUPT: u16 = reference::CORRUPT_WEIGHT;
/// What lies in outputs before they are written.
const POISON: u16 = 0xDEAD;
/// Rows that are asked for at once, at most.
const MOST_ROWS: usize = 8;

/// What the CPU decoder found corrupt.
///
/// # Panics
/// For any other error.
pub fn corruption(result: lacuna::Result<()>) -> Result<(), Corruption> {
    result.map_err(|error| match error {
        Error::Corrupt(found) => found,
        error => panic!("{error}"),
    })
}

/// The same of compact groups.
///
/// # Panics
/// For any other error.
pub fn corrupt_tile(result: lacuna::Result<()>) -> Result<(), CorruptTile> {
    result.map_err(|error| match error {
        Error::CorruptTile(found) => found,
        error => panic!("{error}"),
    })
}

/// The CPU decoder and the reference agree on a DF11 group; and where it is sound and an index holds
/// it, so does decoding by that.
pub fn check_group(input: &mut Input<'_>, group: &Group<'_>) {
    let mut expected = vec![0; group.n_elements() as usize];
    let verdict = reference::decode(group.raw(), &mut expected);
    let mut decoded = vec![POISON; expected.len()];
    assert_eq!(corruption(huffman::decode(group, &mut decoded)), verdict);
    assert!(decoded == expected, "the CPU decoder");
    assert!(verdict.is_ok() || decoded.iter().all(|weight| *weight == CORRUPT));
    let index = indexed::reference::index(group);
    assert_eq!(index.as_ref().err(), verdict.as_ref().err());
    let Ok(Some(index)) = index else { return };
    let table = CodeTable::of(group);
    let raw = RawIndexed {
        codes: group.raw().encoded_exponent,
        sign_mantissa: group.raw().sign_mantissa,
        tile_bytes: &index.tile_bytes,
        granule_bits: &index.granule_bits,
        entries: table.entries(),
        lengths: table.lengths(),
        luts: group.raw().luts,
    };
    let (decoded, verdict) = check_indexed(input, &raw);
    assert_eq!(verdict, Ok(()));
    assert!(decoded == expected, "by the index");
}

/// Decodes by an index, of which only the lengths are trusted: a corrupt tile is filled as such, and
/// rows are what the whole says. Gives what was decoded.
pub fn check_indexed(
    input: &mut Input<'_>,
    raw: &RawIndexed<'_>,
) -> (Vec<u16>, Result<(), CorruptTile>) {
    let n = raw.sign_mantissa.len();
    let mut decoded = vec![POISON; n];
    let verdict = indexed::reference::decode(raw, &mut decoded);
    if let Err(corrupt) = verdict {
        let mut tiles = decoded.chunks(TILE_WEIGHTS);
        let tile = tiles.nth(corrupt.tile as usize).expect("a tile of the group");
        assert!(tile.iter().all(|weight| *weight == CORRUPT));
    }
    // A row that is a tile is decoded as the tile is.
    let tiles: Vec<u32> = (0..(n / TILE_WEIGHTS) as u32).collect();
    let (rows, of_rows) = decode_rows(raw, 0, TILE_WEIGHTS, &tiles);
    assert!(rows == decoded[..rows.len()], "tiles as rows");
    let is_among = |corrupt: &CorruptTile| (corrupt.tile as usize) < tiles.len();
    assert_eq!(of_rows.err(), verdict.err().filter(is_among));

    let row_len = 1 + input.number(n - 1);
    let first = input.number(n - row_len);
    let n_rows = 1 + input.byte() as usize % MOST_ROWS;
    let rows: Vec<u32> = (0..n_rows).map(|_| input.byte().into()).collect();
    let (found, of_rows) = decode_rows(raw, first, row_len, &rows);
    // Rows begin between tiles, so only of a sound group is it known what they are.
    if verdict.is_ok() {
        assert_eq!(of_rows, Ok(()));
        let matrix: Vec<_> = decoded[first..].chunks_exact(row_len).collect();
        for (row, found) in rows.iter().zip(found.chunks(row_len)) {
            match matrix.get(*row as usize) {
                Some(expected) => assert!(found == *expected, "row {row}"),
                None => assert!(found.iter().all(|weight| *weight == 0), "row {row}"),
            }
        }
    }
    (decoded, verdict)
}

/// Rows of the matrix that the group has from element `first` on.
fn decode_rows(
    raw: &RawIndexed<'_>,
    first: usize,
    row_len: usize,
    rows: &[u32],
) -> (Vec<u16>, Result<(), CorruptTile>) {
    let n_elements = raw.sign_mantissa.len();
    let shape = IndexedRowsShape {
        n_elements: n_elements as u64,
        first_element: first as u64,
        n_matrix_rows: ((n_elements - first) / row_len) as u64,
        row_len: row_len as u64,
        n_rows: rows.len() as u64,
        output_stride: row_len as u64,
    };
    let plan = IndexedRowsPlan::new(shape).expect("a matrix within the group");
    let mut output = vec![POISON; plan.output_len() as usize];
    let verdict = indexed::reference::decode_rows(raw, &plan, rows, Absent::Zeros, &mut output);
    (output, verdict)
}

/// The decoding of `raw`, whose table is that of `codes` of up to 12 bits, is what a walk of the
/// stream gives that reads it bit by bit.
pub fn check_walked(
    raw: &RawIndexed<'_>,
    codes: &[u32; 256],
    decoded: &[u16],
    verdict: Result<(), CorruptTile>,
) {
    let known: Codes =
        (0..=255).map(|e| ((raw.lengths[usize::from(e)], codes[usize::from(e)]), e)).collect();
    let (mut expected, mut lowest) = (Vec::with_capacity(decoded.len()), Ok(()));
    for (tile, signs) in (0..).zip(raw.sign_mantissa.chunks(TILE_WEIGHTS)) {
        expected.extend(walk_tile(raw, &known, tile, signs).unwrap_or_else(|reason| {
            lowest = lowest.and(Err(CorruptTile { tile, reason }));
            vec![CORRUPT; signs.len()]
        }));
    }
    assert_eq!(verdict, lowest);
    assert!(decoded == expected, "the walk");
}

/// The exponent of each code, by length and bits.
type Codes = HashMap<(u8, u32), u8>;

fn walk_tile(
    raw: &RawIndexed<'_>,
    known: &Codes,
    tile: u32,
    signs: &[u8],
) -> Result<Vec<u16>, TileReason> {
    let first = TILE_GRANULES * tile as usize;
    let start = |granule: usize| {
        8 * u64::from(raw.tile_bytes[granule / TILE_GRANULES])
            + u64::from(raw.granule_bits[granule])
    };
    let n_granules = signs.len().div_ceil(GRANULE_WEIGHTS);
    let starts: Vec<u64> = (first..=first + n_granules).map(start).collect();
    let (begin, end) = (starts[0] / 8 * 8, starts[n_granules]);
    let most = begin + 32 * TILE_WEIGHTS as u64 + 7;
    if !starts.is_sorted() || end > most.min(8 * raw.codes.len() as u64) {
        return Err(TileReason::Index);
    }
    let (mut weights, mut worst) = (Vec::with_capacity(signs.len()), None);
    for (signs, starts) in signs.chunks(GRANULE_WEIGHTS).zip(starts.windows(2)) {
        worst = worst.max(walk(raw.codes, known, starts, signs, &mut weights).err());
    }
    worst.map_or(Ok(weights), Err)
}

fn walk(
    codes: &[u8],
    known: &Codes,
    starts: &[u64],
    signs: &[u8],
    weights: &mut Vec<u16>,
) -> Result<(), TileReason> {
    let mut bit = starts[0];
    for sign_mantissa in signs {
        let (mut at, mut code, mut n_bits) = (bit, 0, 0);
        let exponent = loop {
            let byte = codes.get((at / 8) as usize).copied().unwrap_or(0);
            code = code << 1 | u32::from(byte >> (7 - at % 8) & 1);
            (at, n_bits) = (at + 1, n_bits + 1);
            match known.get(&(n_bits, code)) {
                Some(exponent) => break *exponent,
                None if n_bits < 12 => {}
                None if bit > starts[1] => return Err(TileReason::Chain),
                None => return Err(TileReason::Code),
            }
        };
        bit = at;
        let sign_mantissa = u16::from(*sign_mantissa);
        weights.push(sign_mantissa << 8 & 0x8000 | u16::from(exponent) << 7 | sign_mantissa & 0x7F);
    }
    if bit == starts[1] { Ok(()) } else { Err(TileReason::Chain) }
}
