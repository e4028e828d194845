//! Which code each exponent gets.

use super::{LENGTHS_BYTES, MAX_COMPACT_BITS};
use crate::huffman::codebook::{canonical_codes, limited_lengths};
use crate::huffman::indexed::CodeTable;

/// A prefix code over the 256 exponents of bf16 with codes of at most 12 bits, which its lengths tell: codes
/// ascend in length, then exponent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactCode {
    codes: [u32; 256],
    lengths: [u8; 256],
}

/// Why lengths are not those of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LengthsError {
    /// A code of more than 12 bits.
    #[error("exponent {exponent} has a code of {length} bits, and codes have up to 12")]
    Length {
        /// The exponent.
        exponent: u8,
        /// Its length.
        length: u8,
    },
    /// Lengths that no prefix code has.
    #[error("these lengths are those of no prefix code: they overfill the tree")]
    Overfull,
    /// Not one code.
    #[error("no exponent has a code")]
    Empty,
}

impl CompactCode {
    /// The code that makes the stream of `histogram[exponent]` weights of each exponent smallest; `None` if there are no weights.
    pub fn new(histogram: &[u64; 256]) -> Option<Self> {
        let present: Vec<usize> = (0..256).filter(|idx| histogram[*idx] > 0).collect();
        let weights: Vec<u64> = present.iter().map(|idx| histogram[*idx]).collect();
        let found = limited_lengths(&weights, 0, MAX_COMPACT_BITS)?;
        let mut lengths = [0; 256];
        for (idx, length) in present.into_iter().zip(found) {
            lengths[idx] = length;
        }
        Some(Self { codes: canonical_codes(&lengths, None).0, lengths })
    }

    /// Of the tensor `lengths`: 4 bits an exponent, the even one of two in the lower.
    ///
    /// # Errors
    /// [`LengthsError`]: the first length that is none, else that the tree does not hold them, else that there are none.
    pub fn of_lengths(bytes: &[u8; LENGTHS_BYTES]) -> Result<Self, LengthsError> {
        let lengths: [u8; 256] = std::array::from_fn(|idx| bytes[idx / 2] >> (4 * (idx % 2)) & 15);
        let mut leaves = 0_u32;
        for (exponent, length) in (0..=255).zip(lengths) {
            if u32::from(length) > MAX_COMPACT_BITS {
                return Err(LengthsError::Length { exponent, length });
            }
            leaves += if length == 0 { 0 } else { 1 << (MAX_COMPACT_BITS - u32::from(length)) };
        }
        match leaves {
            0 => Err(LengthsError::Empty),
            leaves if leaves > 1 << MAX_COMPACT_BITS => Err(LengthsError::Overfull),
            _ => Ok(Self { codes: canonical_codes(&lengths, None).0, lengths }),
        }
    }

    /// The code of each exponent, right-aligned; 0 for exponents without one.
    pub fn codes(&self) -> &[u32; 256] {
        &self.codes
    }

    /// Bits of each code; 0 for exponents without one.
    pub fn lengths(&self) -> &[u8; 256] {
        &self.lengths
    }

    /// The tensor `lengths`.
    pub fn to_lengths(&self) -> [u8; LENGTHS_BYTES] {
        std::array::from_fn(|idx| self.lengths[2 * idx] | self.lengths[2 * idx + 1] << 4)
    }

    /// What decoders look up.
    pub fn table(&self) -> CodeTable {
        CodeTable::of_code(&self.codes, &self.lengths)
    }

    /// Bits of the codes of so many weights of each exponent.
    pub fn n_bits(&self, histogram: &[u64; 256]) -> u64 {
        let bits = |(count, length): (&u64, &u8)| count.saturating_mul(u64::from(*length));
        histogram.iter().zip(&self.lengths).map(bits).fold(0, u64::saturating_add)
    }
}
