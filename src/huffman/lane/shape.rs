//! The sizes of a matrix of lanes, and the header that tells them.

use super::{PALETTE_LEN, TILE_COLUMNS, TILE_ROWS, TILE_WEIGHTS, TILE_WORDS};
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"LACLANE\0";
const VERSION: u32 = 1;
/// The number of bf16 among the elements that a header can name.
const BF16: u32 = 0;

/// Rows and columns of a matrix in tiles of 16 rows and 128 columns.
///
/// ```
/// use lacuna::huffman::lane::LaneShape;
///
/// let shape = LaneShape::new(100, 300)?;
/// assert_eq!((shape.n_row_tiles(), shape.tiles_per_row(), shape.n_tiles()), (7, 3, 21));
/// // Palettes, low bytes, codes with signs, and headers of tiles; then escapes.
/// assert_eq!(shape.n_bytes(5), 7 * 8 + 21 * (2048 + 1024 + 8) + 5 * 4);
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaneShape {
    n_rows: u64,
    n_columns: u64,
}

impl LaneShape {
    /// Bytes of [`header`](Self::header).
    pub const HEADER_BYTES: usize = 32;

    /// Of a matrix of `n_rows` output features and `n_columns` input features.
    ///
    /// # Errors
    /// [`Error::Range`] for no weights, or 2^32 of them.
    pub fn new(n_rows: u64, n_columns: u64) -> Result<Self> {
        let n_weights = n_rows.saturating_mul(n_columns);
        if !(1..1 << 32).contains(&n_weights) {
            let what = "weights of a matrix of lanes";
            return Err(Error::Range { what, value: n_weights, allowed: "1..2^32" });
        }
        Ok(Self { n_rows, n_columns })
    }

    /// Rows: output features of a linear layer.
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// Columns: input features of a linear layer.
    pub fn n_columns(&self) -> u64 {
        self.n_columns
    }

    /// Weights, `1..2^32`.
    pub fn n_weights(&self) -> u64 {
        self.n_rows * self.n_columns
    }

    /// Sixteens of rows, the last of which may have fewer.
    pub fn n_row_tiles(&self) -> u64 {
        self.n_rows.div_ceil(TILE_ROWS as u64)
    }

    /// Tiles of a sixteen of rows.
    pub fn tiles_per_row(&self) -> u64 {
        self.n_columns.div_ceil(TILE_COLUMNS as u64)
    }

    /// Tiles, below 2^29; those of a sixteen of rows one after the other.
    pub fn n_tiles(&self) -> u64 {
        self.n_row_tiles() * self.tiles_per_row()
    }

    /// Bytes of `palettes`.
    pub fn palettes_len(&self) -> u64 {
        self.n_row_tiles() * PALETTE_LEN as u64
    }

    /// Bytes of `low`.
    pub fn low_len(&self) -> u64 {
        self.n_tiles() * TILE_WEIGHTS as u64
    }

    /// Words of `high`.
    pub fn high_len(&self) -> u64 {
        self.n_tiles() * TILE_WORDS as u64
    }

    /// Words of `headers`.
    pub fn headers_len(&self) -> u64 {
        self.n_tiles()
    }

    /// Bytes of all planes beside so many escapes.
    pub fn n_bytes(&self, n_escapes: u64) -> u64 {
        let planes =
            self.palettes_len() + self.low_len() + 4 * self.high_len() + 8 * self.headers_len();
        planes.saturating_add(n_escapes.saturating_mul(4))
    }

    /// Bits of all planes for each weight.
    pub fn bits_per_weight(&self, n_escapes: u64) -> f64 {
        self.n_bytes(n_escapes) as f64 * 8.0 / self.n_weights() as f64
    }

    /// What stands before the planes in a file: magic, version, element (0: bf16), rows, columns.
    pub fn header(&self) -> [u8; Self::HEADER_BYTES] {
        let mut header = [0; Self::HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&BF16.to_le_bytes());
        header[16..24].copy_from_slice(&self.n_rows.to_le_bytes());
        header[24..].copy_from_slice(&self.n_columns.to_le_bytes());
        header
    }

    /// The shape that a header tells.
    ///
    /// # Errors
    /// [`Error::Range`] for another magic, version or element, and as [`new`](Self::new).
    pub fn of_header(header: &[u8; Self::HEADER_BYTES]) -> Result<Self> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|idx| header[at + idx]));
        let check = |what, value, expected, allowed| match value == expected {
            true => Ok(()),
            false => Err(Error::Range { what, value, allowed }),
        };
        let (version, element) = (word(8) & 0xFFFF_FFFF, word(8) >> 32);
        check("the magic of a matrix of lanes", word(0), u64::from_le_bytes(MAGIC), "LACLANE")?;
        check("the version of a matrix of lanes", version, u64::from(VERSION), "1")?;
        check("the element of a matrix of lanes", element, u64::from(BF16), "0 (bf16)")?;
        Self::new(word(16), word(24))
    }
}
