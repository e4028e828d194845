//! What a stream's next 12 bits say.

use crate::huffman::lookup::known_codes;
use crate::huffman::{Group, MAX_CODE_BITS};

/// Bits of the stream that a lookup sees.
pub(crate) const LOOKUP_BITS: u32 = 12;

/// For each value of a stream's next 12 bits the one or two codes that they begin with, and the length of every
/// exponent's code: 16,640 bytes, made of any prefix code.
///
/// An entry has, from bit 0: the first exponent and the second, both *rotated* (`e >> 1 | (e & 1) << 7`, so that a
/// bf16's two bytes are selections of bits from it and the byte of sign and mantissa); the bits of these codes together;
/// how many codes (two if both end within the 12 bits). An entry of 0 is none: the code is longer, or the bits are of no code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeTable {
    entries: Box<[u32; 1 << LOOKUP_BITS]>,
    lengths: [u8; 256],
}

impl CodeTable {
    /// Bytes of [`to_bytes`](Self::to_bytes).
    pub const N_BYTES: usize = (4 << LOOKUP_BITS) + 256;

    /// Of a group's own tables.
    pub fn of(group: &Group<'_>) -> Self {
        Self::of_luts(group.raw().luts)
    }

    /// Of `luts`, `[n_lut_rows + 1, 256]`, whatever they hold. What later bits than 12 decide is left to
    /// these tables themselves.
    pub(crate) fn of_luts(luts: &[u8]) -> Self {
        let known = known_codes::<LOOKUP_BITS>(luts);
        let lengths = luts.last_chunk().copied().unwrap_or([0; 256]);
        Self::new(&known, lengths)
    }

    /// Of a prefix code whose codes, right-aligned, have at most 12 bits; a length of 0 is of none.
    pub(crate) fn of_code(codes: &[u32; 256], lengths: &[u8; 256]) -> Self {
        let mut known = vec![vec![None; 1]];
        for n_bits in 1..=LOOKUP_BITS {
            let shorter = &known[known.len() - 1];
            let mut longer: Vec<_> = shorter.iter().flat_map(|code| [*code; 2]).collect();
            for (exponent, (code, length)) in (0..=255).zip(codes.iter().zip(lengths)) {
                if u32::from(*length) == n_bits {
                    longer[*code as usize] = Some((exponent, n_bits));
                }
            }
            known.push(longer);
        }
        Self::new(&known, *lengths)
    }

    /// `known[n][bits]`: the exponent and the length of the code that these `n` bits begin with.
    fn new(known: &[Vec<Option<(u8, u32)>>], lengths: [u8; 256]) -> Self {
        let code = |bits: usize, n_bits: u32| {
            let code = known[n_bits as usize][bits & ((1 << n_bits) - 1)];
            code.filter(|(_, length)| *length <= n_bits)
        };
        let entry = |bits: usize| {
            let (first, length) = code(bits, LOOKUP_BITS)?;
            let n_left = LOOKUP_BITS - length;
            let one = u32::from(rotate(first));
            Some(match code(bits, n_left).filter(|_| n_left > 0) {
                Some((second, more)) => {
                    one | u32::from(rotate(second)) << 8 | (length + more) << 16 | 2 << 24
                }
                None => one | length << 16 | 1 << 24,
            })
        };
        let entries = Box::new(std::array::from_fn(|bits| entry(bits).unwrap_or(0)));
        Self { entries, lengths }
    }

    /// The entries, by 12 bits, the first of them the most significant.
    pub fn entries(&self) -> &[u32; 1 << LOOKUP_BITS] {
        &self.entries
    }

    /// Bits of each exponent's code; 0 where it has none.
    pub fn lengths(&self) -> &[u8; 256] {
        &self.lengths
    }

    /// Entries, then lengths: as a kernel reads them.
    pub fn to_bytes(&self) -> Vec<u8> {
        [bytemuck::cast_slice(&self.entries[..]), &self.lengths[..]].concat()
    }
}

/// An exponent as entries have it.
pub(crate) const fn rotate(exponent: u8) -> u8 {
    exponent.rotate_right(1)
}

const _: () = assert!(LOOKUP_BITS < MAX_CODE_BITS);
