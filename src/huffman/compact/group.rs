//! One group: its tensors as they are in a file, and what makes them sound.

use std::borrow::Cow;

use super::{CompactCode, LENGTHS_BYTES, LengthsError, MAX_COMPACT_BITS};
use crate::huffman::group::{check_count, check_len, check_split_bytes, check_splits, matrices_of};
use crate::huffman::indexed::{CodeTable, GRANULE_WEIGHTS, Index, RawIndexed, TILE_GRANULES};
use crate::huffman::{TensorError, TensorReason, words};

/// The six tensors of a compact group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactGroup {
    /// `[n_code_bytes]`.
    pub codes: Vec<u8>,
    /// `[n_elements]`.
    pub sign_mantissa: Vec<u8>,
    /// `[128]`.
    pub lengths: [u8; LENGTHS_BYTES],
    /// `[n_granules / 32 + 1]`.
    pub tile_bytes: Vec<u32>,
    /// `[n_granules + 1]`.
    pub granule_bits: Vec<u16>,
    /// `[8 * (n_matrices - 1)]`.
    pub split_positions: Vec<u8>,
}

impl CompactGroup {
    /// The tensors, borrowed.
    pub fn as_raw<'a>(&'a self, name: &'a str) -> RawCompact<'a> {
        RawCompact {
            name,
            codes: &self.codes,
            sign_mantissa: &self.sign_mantissa,
            lengths: &self.lengths,
            tile_bytes: bytemuck::cast_slice(&self.tile_bytes),
            granule_bits: bytemuck::cast_slice(&self.granule_bits),
            split_positions: &self.split_positions,
        }
    }
}

/// The six tensors of one compact group, borrowed as they are in a file, in any alignment, and trusted in nothing.
#[derive(Debug, Clone, Copy)]
pub struct RawCompact<'a> {
    /// Module path of the group, for error messages.
    pub name: &'a str,
    /// `[n_code_bytes]`: the exponents, prefix-coded, most significant bit first.
    pub codes: &'a [u8],
    /// `[n_elements]`: bit 7 the sign, bits 6..0 the mantissa.
    pub sign_mantissa: &'a [u8],
    /// `[128]`: bits of each exponent's code, 0 where it has none; of two exponents the even one in the lower 4 bits.
    pub lengths: &'a [u8],
    /// `[4 * (n_granules / 32 + 1)]`: little-endian u32, of the [`Index`].
    pub tile_bytes: &'a [u8],
    /// `[2 * (n_granules + 1)]`: little-endian u16, of the [`Index`].
    pub granule_bits: &'a [u8],
    /// `[8 * (n_matrices - 1)]`: little-endian i64, first element of each matrix but the first.
    pub split_positions: &'a [u8],
}

/// A compact group whose tensors fit each other: lengths, sizes, index and splits are sound. What only decoding can tell, whether granules
/// hold codes that end where the index says, is checked while decoding.
#[derive(Debug, Clone)]
pub struct Compact<'a> {
    raw: RawCompact<'a>,
    // On the heap: a group is moved about beside others that are small.
    code: Box<CompactCode>,
    table: Box<CodeTable>,
    tile_bytes: Cow<'a, [u32]>,
    granule_bits: Cow<'a, [u16]>,
}

impl<'a> RawCompact<'a> {
    /// The six tensors, in the order of the fields.
    pub fn tensors(&self) -> [&'a [u8]; 6] {
        [
            self.codes,
            self.sign_mantissa,
            self.lengths,
            self.tile_bytes,
            self.granule_bits,
            self.split_positions,
        ]
    }

    /// Checks everything that can be checked without decoding, in time linear in the index: sizes fit the format and each other; lengths are those
    /// of a prefix code of at most 12 bits; granules follow one another from bit 0 on, each of as many bits as its weights can have, and end in
    /// the last byte; splits ascend inside the group.
    ///
    /// # Errors
    /// [`TensorError`]: the first thing found, in that order.
    pub fn parse(self) -> Result<Compact<'a>, TensorError> {
        self.check_sizes()?;
        let code = self.check_lengths()?;
        let (tile_bytes, granule_bits) = (words(self.tile_bytes), words(self.granule_bits));
        self.check_index(&tile_bytes, &granule_bits)?;
        check_splits(self.split_positions, self.sign_mantissa.len() as u64)
            .map_err(|(at, reason)| TensorError::new(self.name, "split_positions", at, reason))?;
        let table = Box::new(code.table());
        Ok(Compact { raw: self, code: Box::new(code), table, tile_bytes, granule_bits })
    }

    fn check_sizes(&self) -> Result<(), TensorError> {
        check_count(self.name, "codes", self.codes, 1 << 32)?;
        check_count(self.name, "sign_mantissa", self.sign_mantissa, 1 << 32)?;
        let n_elements = self.sign_mantissa.len() as u64;
        for (tensor, expected, bytes) in [
            ("lengths", LENGTHS_BYTES as u64, self.lengths),
            ("tile_bytes", 4 * Index::tile_bytes_len(n_elements), self.tile_bytes),
            ("granule_bits", 2 * Index::granule_bits_len(n_elements), self.granule_bits),
        ] {
            check_len(self.name, tensor, bytes, expected)?;
        }
        check_split_bytes(self.name, self.split_positions)
    }

    fn check_lengths(&self) -> Result<CompactCode, TensorError> {
        let bytes = self.lengths.first_chunk().unwrap_or(&[0; LENGTHS_BYTES]);
        CompactCode::of_lengths(bytes).map_err(|found| {
            let at = match found {
                LengthsError::Length { exponent, .. } => Some(usize::from(exponent / 2)),
                _ => None,
            };
            TensorError::new(self.name, "lengths", at, TensorReason::Lengths(found))
        })
    }

    fn check_index(&self, tile_bytes: &[u32], granule_bits: &[u16]) -> Result<(), TensorError> {
        let n_elements = self.sign_mantissa.len();
        let mut end = 0;
        for (idx, bits) in granule_bits.iter().enumerate() {
            let byte = tile_bytes[idx / TILE_GRANULES];
            let start = 8 * u64::from(byte) + u64::from(*bits);
            // Of the granule that ends here.
            let n_weights = match idx.checked_sub(1) {
                Some(before) => (n_elements - before * GRANULE_WEIGHTS).min(GRANULE_WEIGHTS) as u64,
                None => 0,
            };
            let most = end + n_weights * u64::from(MAX_COMPACT_BITS);
            let is_own_byte = !idx.is_multiple_of(TILE_GRANULES) || *bits < 8;
            if !is_own_byte || !(end + n_weights..=most).contains(&start) {
                let reason = TensorReason::Start { got: start, previous: end, n_weights };
                return Err(TensorError::new(self.name, "granule_bits", 2 * idx, reason));
            }
            end = start;
        }
        let (got, expected) = (self.codes.len() as u64, end.div_ceil(8));
        if got != expected {
            return Err(TensorError::new(
                self.name,
                "codes",
                None,
                TensorReason::Length { expected, got },
            ));
        }
        Ok(())
    }
}

impl<'a> Compact<'a> {
    /// The tensors.
    pub fn raw(&self) -> &RawCompact<'a> {
        &self.raw
    }

    /// Module path of the group.
    pub fn name(&self) -> &'a str {
        self.raw.name
    }

    /// Its code.
    pub fn code(&self) -> &CompactCode {
        &self.code
    }

    /// The group as [`DeviceWeights::upload`](crate::huffman::DeviceWeights::upload) takes it.
    pub fn indexed(&self) -> RawIndexed<'_> {
        RawIndexed {
            codes: self.raw.codes,
            sign_mantissa: self.raw.sign_mantissa,
            tile_bytes: &self.tile_bytes,
            granule_bits: &self.granule_bits,
            entries: self.table.entries(),
            lengths: self.table.lengths(),
            luts: &[],
        }
    }

    /// Weights.
    pub fn n_elements(&self) -> u64 {
        self.raw.sign_mantissa.len() as u64
    }

    /// Matrices.
    pub fn n_matrices(&self) -> usize {
        self.raw.split_positions.len() / 8 + 1
    }

    /// Each matrix's weights, as ranges of the decoded group.
    pub fn matrices(&self) -> impl Iterator<Item = std::ops::Range<u64>> + '_ {
        matrices_of(self.raw.split_positions, self.n_elements())
    }

    /// Bytes of all six tensors.
    pub fn n_bytes(&self) -> u64 {
        self.raw.tensors().iter().map(|tensor| tensor.len() as u64).sum()
    }

    /// Bits of all six tensors, for each weight.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.n_bytes() as f64 / self.n_elements() as f64
    }
}
