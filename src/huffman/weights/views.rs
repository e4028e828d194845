//! Groups that are in device memory already.

use super::tables::Row;
use crate::buffer::View;
use crate::huffman::indexed::{CodeTable, Index, IndexedShape};
use crate::huffman::{GAP_BYTES_PER_BLOCK, GroupShape};
use crate::launch::{check_aligned, check_same};
use crate::queue::Queue;
use crate::{Error, Result};

/// The tensors of one group in device memory, as an engine loaded them from the checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct GroupViews<'a> {
    /// `[n_code_bytes]`: the tensor `encoded_exponent`.
    pub encoded_exponent: View<'a, u8>,
    /// `[n_elements]`.
    pub sign_mantissa: View<'a, u8>,
    /// `[n_lut_rows + 1, 256]`.
    pub luts: View<'a, u8>,
    /// `[320 * n_blocks]`.
    pub gaps: View<'a, u8>,
    /// `[4 * n_positions]`.
    pub output_positions: View<'a, u8>,
}

impl GroupViews<'_> {
    /// What the tensors' lengths say of the group.
    ///
    /// # Errors
    /// [`Error::Shape`] where a length cannot be that of a DF11 tensor, or two do not fit.
    pub fn shape(&self) -> Result<GroupShape> {
        let multiple = |what, len: usize, unit: usize| {
            if len.is_multiple_of(unit) {
                Ok(len / unit)
            } else {
                let expected = len.next_multiple_of(unit) as u64;
                Err(Error::Shape { what, expected, got: len as u64 })
            }
        };
        let n_rows = multiple("luts, in bytes", self.luts.len(), 256)?;
        let n_positions = multiple("output_positions, in bytes", self.output_positions.len(), 4)?;
        let shape = GroupShape {
            n_code_bytes: self.encoded_exponent.len() as u64,
            n_elements: self.sign_mantissa.len() as u64,
            n_lut_rows: u32::try_from(n_rows.saturating_sub(1)).unwrap_or(u32::MAX),
            n_positions: u32::try_from(n_positions).unwrap_or(u32::MAX),
        };
        let n_gap_bytes = shape.n_blocks() * GAP_BYTES_PER_BLOCK as u64;
        if self.gaps.len() as u64 != n_gap_bytes {
            return Err(Error::Shape {
                what: "gaps, in bytes",
                expected: n_gap_bytes,
                got: self.gaps.len() as u64,
            });
        }
        Ok(shape)
    }

    fn check(&self, queue: &Queue) -> Result<()> {
        queue.check_view("encoded_exponent", &self.encoded_exponent)?;
        queue.check_view("sign_mantissa", &self.sign_mantissa)?;
        queue.check_view("luts", &self.luts)?;
        queue.check_view("gaps", &self.gaps)?;
        queue.check_view("output_positions", &self.output_positions)
    }

    /// Codes, signs and mantissas, luts, gaps, positions.
    fn addresses(&self) -> [u64; 5] {
        [
            self.encoded_exponent.address(),
            self.sign_mantissa.address(),
            self.luts.address(),
            self.gaps.address(),
            self.output_positions.address(),
        ]
    }
}

/// What lookups are made for, whatever a file's own place was: copies of 16 bytes.
pub(super) const CODES_ALIGNMENT: u64 = 16;

/// One group and its index in device memory.
#[derive(Debug, Clone, Copy)]
pub struct IndexedViews<'a> {
    /// `[n_code_bytes]`, aligned to 16 bytes.
    pub codes: View<'a, u8>,
    /// `[n_elements]`, aligned to 16 bytes.
    pub sign_mantissa: View<'a, u8>,
    /// `[n_granules / 32 + 1]`, `n_granules` being the weights over 128, rounded up: of an [`Index`].
    pub tile_bytes: View<'a, u32>,
    /// `[n_granules + 1]`: of an [`Index`].
    pub granule_bits: View<'a, u16>,
    /// `[16640]`: the bytes of a [`CodeTable`], aligned to 16 bytes.
    pub table: View<'a, u8>,
    /// `[n_lut_rows + 1, 256]`: DF11's tables, where codes may be longer than 12 bits.
    pub luts: Option<View<'a, u8>>,
}

impl IndexedViews<'_> {
    /// What the views' lengths say of the group.
    ///
    /// # Errors
    /// [`Error::Shape`] where two do not fit, [`Error::Range`] where codes, signs and mantissas or the table are not aligned.
    pub fn shape(&self) -> Result<IndexedShape> {
        let n_elements = self.sign_mantissa.len() as u64;
        check_same("tile_bytes", Index::tile_bytes_len(n_elements), self.tile_bytes.len())?;
        check_same("granule_bits", Index::granule_bits_len(n_elements), self.granule_bits.len())?;
        check_same("table", CodeTable::N_BYTES as u64, self.table.len())?;
        let luts_len = self.luts.map_or(256, |luts| luts.len());
        if !luts_len.is_multiple_of(256) || luts_len == 0 {
            let expected = luts_len.next_multiple_of(256).max(512) as u64;
            return Err(Error::Shape { what: "luts", expected, got: luts_len as u64 });
        }
        for (what, address) in [
            ("address of codes", self.codes.address()),
            ("address of sign_mantissa", self.sign_mantissa.address()),
            ("address of a code table", self.table.address()),
        ] {
            check_aligned(what, address, CODES_ALIGNMENT, "multiples of 16")?;
        }
        Ok(IndexedShape {
            n_code_bytes: self.codes.len() as u64,
            n_elements,
            n_lut_rows: u32::try_from(luts_len / 256 - 1).unwrap_or(u32::MAX),
        })
    }

    fn check(&self, queue: &Queue) -> Result<()> {
        queue.check_view("codes", &self.codes)?;
        queue.check_view("sign_mantissa", &self.sign_mantissa)?;
        queue.check_view("tile_bytes", &self.tile_bytes)?;
        queue.check_view("granule_bits", &self.granule_bits)?;
        queue.check_view("table", &self.table)?;
        self.luts.map_or(Ok(()), |luts| queue.check_view("luts", &luts))
    }

    /// Codes, signs and mantissas, tile_bytes, granule_bits, table, luts.
    fn addresses(&self) -> [u64; 6] {
        [
            self.codes.address(),
            self.sign_mantissa.address(),
            self.tile_bytes.address(),
            self.granule_bits.address(),
            self.table.address(),
            self.luts.map_or(0, |luts| luts.address()),
        ]
    }
}

/// A group in device memory, in any format that is decoded to bf16.
#[derive(Debug, Clone, Copy)]
pub enum WeightViews<'a> {
    /// DF11, as a checkpoint has it.
    Df11(GroupViews<'a>),
    /// With an index.
    Indexed(IndexedViews<'a>),
}

impl<'a> From<GroupViews<'a>> for WeightViews<'a> {
    fn from(views: GroupViews<'a>) -> Self {
        Self::Df11(views)
    }
}

impl<'a> From<&GroupViews<'a>> for WeightViews<'a> {
    fn from(views: &GroupViews<'a>) -> Self {
        Self::Df11(*views)
    }
}

impl<'a> From<IndexedViews<'a>> for WeightViews<'a> {
    fn from(views: IndexedViews<'a>) -> Self {
        Self::Indexed(views)
    }
}

impl<'a> From<&IndexedViews<'a>> for WeightViews<'a> {
    fn from(views: &IndexedViews<'a>) -> Self {
        Self::Indexed(*views)
    }
}

impl WeightViews<'_> {
    /// What a launch knows of the group.
    pub(super) fn row(&self, queue: &Queue) -> Result<Row> {
        match self {
            Self::Df11(views) => {
                views.check(queue)?;
                Ok(Row::plain(&views.shape()?, views.addresses()))
            }
            Self::Indexed(views) => {
                views.check(queue)?;
                Ok(Row::indexed(&views.shape()?, views.addresses()))
            }
        }
    }
}
