//! Where what of a page is.

use half::bf16;

use super::row::{Channels, MinimumRow, Row, dequantize, dequantize_minimums, normalize, quantize};
use super::{Part, Tail, Tier};
use crate::element::Half;
use crate::error::check_between;
use crate::{Error, Result};

/// Tokens of a page.
const TOKENS: usize = 64;
/// Rows and columns of a tile: operand A of an integer product of tensor cores.
const TILE: [usize; 2] = [16, 32];

/// Pages of one head: 64 tokens each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageShape {
    head_dim: usize,
    part: Part,
    tail: Tail,
}

/// Where a code is: some bits of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Of the page.
    pub byte: usize,
    /// Its lowest bit.
    pub shift: u32,
}

impl PageShape {
    /// Tokens of a page.
    pub const TOKENS: usize = TOKENS;

    /// Of heads of so many channels; pages of codes end with zero points.
    ///
    /// # Errors
    /// [`Error::Range`] for what is not a multiple of 32 up to 256.
    pub fn new(head_dim: u64, part: Part) -> Result<Self> {
        if head_dim == 0 || !head_dim.is_multiple_of(32) || head_dim > 256 {
            let (what, allowed) = ("elements of a head", "the multiples of 32 up to 256");
            return Err(Error::Range { what, value: head_dim, allowed });
        }
        Ok(Self { head_dim: head_dim as usize, part, tail: Tail::ZeroPoints })
    }

    /// The same of keys, or of values.
    #[must_use]
    pub fn of_part(self, part: Part) -> Self {
        Self { part, ..self }
    }

    /// The same with another tail of pages of codes.
    #[must_use]
    pub fn with_tail(self, tail: Tail) -> Self {
        Self { tail, ..self }
    }

    /// Channels.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Keys or values.
    pub fn part(&self) -> Part {
        self.part
    }

    /// What pages of codes end with.
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// Bytes of a page: a multiple of 256.
    pub fn page_bytes(&self, tier: Tier) -> usize {
        let codes = self.code_bytes(tier);
        if tier.is_coded() { codes + self.tail.bytes() } else { codes }
    }

    /// Bits that a page costs for each of its elements.
    pub fn bits_per_element(&self, tier: Tier) -> f64 {
        (8 * self.page_bytes(tier)) as f64 / (TOKENS * self.head_dim) as f64
    }

    /// Bytes of its elements, before the tail.
    pub fn code_bytes(&self, tier: Tier) -> usize {
        TOKENS * self.head_dim * tier.bits() as usize / 8
    }

    /// Where a token's step is: two bytes, bf16; or four, f32, beside a minimum.
    pub fn scale_byte(&self, tier: Tier, token: usize) -> usize {
        self.code_bytes(tier) + self.tail.bytes() / (2 * TOKENS) * token
    }

    /// Where its zero point is: two bytes, sixteenths of a step; or its minimum: four, f32.
    pub fn zero_byte(&self, tier: Tier, token: usize) -> usize {
        self.scale_byte(tier, token) + self.tail.bytes() / 2
    }

    /// Where the element of a token's channel is, of 64 tokens and the head's channels. Numbers that are not coded lie token by
    /// token.
    pub fn place(&self, tier: Tier, token: usize, channel: usize) -> Place {
        let bits = tier.bits();
        if !tier.is_coded() {
            return Place { byte: 2 * (token * self.head_dim + channel), shift: 0 };
        }
        // A matrix of which a lane's registers hold four columns of two rows each.
        let (row, column, n_columns) = match self.part {
            Part::Keys => (token, channel, self.head_dim),
            Part::Values => (channel, token, TOKENS),
        };
        let [strip, in_strip] = [row / TILE[0], row % TILE[0]];
        let [tile, in_tile] = [column / TILE[1], column % TILE[1]];
        let lane = in_strip % 8 * 4 + in_tile % 16 / 4;
        let register = in_strip / 8 + in_tile / 16 * 2;
        let in_word = in_tile % 4;
        // 16 bytes a lane are read at once, of as many tiles as that needs and as divide a strip.
        let n_tiles = n_columns / TILE[1];
        let n_together = common_divisor(8 / bits as usize, n_tiles);
        let n_words = bits as usize / 2;
        let [group, in_group] = [tile / n_together, tile % n_together];
        let first = (strip * (n_tiles / n_together) + group) * 32 + lane;
        let first_word = (first * n_together + in_group) * n_words;
        let (word, shift) = match tier {
            Tier::T8 => (register, 0),
            Tier::T4 => (register % 2, register / 2 * 4),
            _ => (0, register * 2),
        };
        Place { byte: 4 * (first_word + word) + in_word, shift: shift as u32 }
    }
}

/// Refuses what is not written of numbers.
pub(crate) fn check_written(tail: Tail) -> Result<()> {
    let (what, allowed) = ("bytes of a page after its codes", "256, those of zero points");
    check_between(what, tail.bytes() as u64, Tail::ZeroPoints.bytes() as u64, allowed)
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// The bytes of a page, and what they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    shape: PageShape,
    tier: Tier,
    bytes: Vec<u8>,
}

impl Page {
    /// Of zeros: what is there before a token is.
    pub fn zeroed(shape: PageShape, tier: Tier) -> Self {
        Self { shape, tier, bytes: vec![0; shape.page_bytes(tier)] }
    }

    /// What someone else wrote.
    ///
    /// # Errors
    /// [`Error::Shape`] where it has not as many bytes as a page.
    pub fn from_bytes(shape: PageShape, tier: Tier, bytes: Vec<u8>) -> Result<Self> {
        let (expected, got) = (shape.page_bytes(tier) as u64, bytes.len() as u64);
        if expected != got {
            return Err(Error::Shape { what: "bytes of a page", expected, got });
        }
        Ok(Self { shape, tier, bytes })
    }

    /// Up to 64 tokens' rows, quantized; zeros where there is none.
    ///
    /// # Errors
    /// [`Error::Shape`] where they are more, or not of as many elements; [`Error::Range`] where pages end with minimums, which come from
    /// elsewhere ([`import`](super::import)).
    pub fn quantize<'a, T: Half + 'a>(
        shape: PageShape,
        tier: Tier,
        rows: impl IntoIterator<Item = Option<&'a [T]>>,
        channels: &Channels<'_>,
    ) -> Result<Self> {
        check_written(shape.tail)?;
        let mut page = Self::zeroed(shape, tier);
        for (token, row) in rows.into_iter().enumerate() {
            let (n_most, n) = (TOKENS as u64, token as u64 + 1);
            if n > n_most {
                return Err(Error::Shape { what: "tokens of a page", expected: n_most, got: n });
            }
            let Some(row) = row else { continue };
            let (expected, got) = (shape.head_dim as u64, row.len() as u64);
            if expected != got {
                return Err(Error::Shape { what: "elements of a row", expected, got });
            }
            if tier.is_coded() {
                page.set_row(token, &quantize(tier, &normalize(row, channels)));
            } else {
                page.set_numbers(token, row);
            }
        }
        Ok(page)
    }

    /// Its shape.
    pub fn shape(&self) -> PageShape {
        self.shape
    }

    /// Its tier.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// As pools hold it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Codes, scale and zero point of a token.
    ///
    /// # Panics
    /// Of [`Tier::T16`], whose numbers are not coded, of a page of minimums, and past the 64th token.
    pub fn row(&self, token: usize) -> Row {
        assert_eq!(self.shape.tail, Tail::ZeroPoints, "a page of zero points");
        Row {
            codes: self.codes(token),
            scale: bf16::from_le_bytes(self.read(self.shape.scale_byte(self.tier, token))),
            zero: i16::from_le_bytes(self.read(self.shape.zero_byte(self.tier, token))),
        }
    }

    /// Writes them, of as many codes as a head has channels.
    ///
    /// # Panics
    /// As [`row`](Self::row).
    pub fn set_row(&mut self, token: usize, row: &Row) {
        assert_eq!(self.shape.tail, Tail::ZeroPoints, "a page of zero points");
        self.set_codes(token, &row.codes);
        self.write(self.shape.scale_byte(self.tier, token), row.scale.to_le_bytes());
        self.write(self.shape.zero_byte(self.tier, token), row.zero.to_le_bytes());
    }

    /// Codes, step and minimum of a token.
    ///
    /// # Panics
    /// Of [`Tier::T16`], whose numbers are not coded, of a page of zero points, and past the 64th token.
    pub fn minimum_row(&self, token: usize) -> MinimumRow {
        assert_eq!(self.shape.tail, Tail::Minimums, "a page of minimums");
        MinimumRow {
            codes: self.codes(token),
            step: f32::from_le_bytes(self.read(self.shape.scale_byte(self.tier, token))),
            minimum: f32::from_le_bytes(self.read(self.shape.zero_byte(self.tier, token))),
        }
    }

    /// Writes them, of as many codes as a head has channels.
    ///
    /// # Panics
    /// As [`minimum_row`](Self::minimum_row).
    pub fn set_minimum_row(&mut self, token: usize, row: &MinimumRow) {
        assert_eq!(self.shape.tail, Tail::Minimums, "a page of minimums");
        self.set_codes(token, &row.codes);
        self.write(self.shape.scale_byte(self.tier, token), row.step.to_le_bytes());
        self.write(self.shape.zero_byte(self.tier, token), row.minimum.to_le_bytes());
    }

    fn codes(&self, token: usize) -> Vec<u8> {
        let mask = self.tier.greatest_code().expect("a page of codes");
        let code = |channel| {
            let Place { byte, shift } = self.shape.place(self.tier, token, channel);
            self.bytes[byte] >> shift & mask
        };
        (0..self.shape.head_dim).map(code).collect()
    }

    fn set_codes(&mut self, token: usize, codes: &[u8]) {
        let mask = self.tier.greatest_code().expect("a page of codes");
        for (channel, code) in codes.iter().enumerate() {
            let Place { byte, shift } = self.shape.place(self.tier, token, channel);
            self.bytes[byte] &= !(mask << shift);
            self.bytes[byte] |= (code & mask) << shift;
        }
    }

    fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes[at..at + N].try_into().expect("as many bytes")
    }

    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.bytes[at..at + N].copy_from_slice(&bytes);
    }

    /// The elements of a token that are not coded, as they were written.
    ///
    /// # Panics
    /// Of tiers of codes, and past the 64th token.
    pub fn numbers<T: Half>(&self, token: usize) -> Vec<T> {
        assert!(!self.tier.is_coded(), "a page of numbers");
        let element = |channel| {
            let at = self.shape.place(self.tier, token, channel).byte;
            bytemuck::pod_read_unaligned::<T>(&self.bytes[at..at + 2])
        };
        (0..self.shape.head_dim).map(element).collect()
    }

    /// Writes them, as many as a head has channels.
    ///
    /// # Panics
    /// As [`numbers`](Self::numbers).
    pub fn set_numbers<T: Half>(&mut self, token: usize, row: &[T]) {
        assert!(!self.tier.is_coded(), "a page of numbers");
        for (channel, element) in row.iter().enumerate() {
            let at = self.shape.place(self.tier, token, channel).byte;
            self.bytes[at..at + 2].copy_from_slice(&element.bits().to_le_bytes());
        }
    }

    /// What a token's row stands for, in f32.
    ///
    /// # Panics
    /// Past the 64th token.
    pub fn dequantize<T: Half>(&self, token: usize, channels: &Channels<'_>) -> Vec<f32> {
        if self.tier.is_coded() {
            return match self.shape.tail {
                Tail::ZeroPoints => dequantize(&self.row(token), channels),
                Tail::Minimums => dequantize_minimums(&self.minimum_row(token), channels),
            };
        }
        self.numbers::<T>(token).into_iter().map(T::to_f32).collect()
    }

    /// A token's codes, what they are multiplied by, and what is then added.
    ///
    /// # Panics
    /// Of [`Tier::T16`], whose numbers are not coded, and past the 64th token.
    pub(crate) fn affine(&self, token: usize) -> (Vec<u8>, f32, f32) {
        match self.shape.tail {
            Tail::ZeroPoints => {
                let Row { codes, scale, zero } = self.row(token);
                let step = scale.to_f32();
                (codes, step, step * (-f32::from(zero) * 0.0625))
            }
            Tail::Minimums => {
                let MinimumRow { codes, step, minimum } = self.minimum_row(token);
                (codes, step, minimum)
            }
        }
    }
}
