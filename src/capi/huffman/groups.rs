//! Groups in host memory: their tensors as a checkpoint has them, and what the CPU does with them.

use std::borrow::Cow;

use crate::capi::abi::{array, lacuna_header, read, structs, write};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::lacuna_bytes;
use crate::huffman::compact::{Compact, CompactCode, LENGTHS_BYTES, LengthsError, RawCompact};
use crate::huffman::indexed::{CodeTable, Index, RawIndexed};
use crate::huffman::{Group, RawGroup, words};

/// The tensors of a DF11 group in host memory, as a checkpoint has them.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_df11_group {
    pub header: lacuna_header,
    /// Optional: the group's name in messages, UTF-8.
    pub name: lacuna_bytes,
    /// `[n_code_bytes]`: the exponents, prefix-coded.
    pub encoded_exponent: lacuna_bytes,
    /// `[n_elements]`.
    pub sign_mantissa: lacuna_bytes,
    /// `[n_lut_rows + 1, 256]`.
    pub luts: lacuna_bytes,
    /// `[320 * n_blocks]`.
    pub gaps: lacuna_bytes,
    /// `[4 * (n_blocks + 1)]`.
    pub output_positions: lacuna_bytes,
    /// `[8 * (n_matrices - 1)]`; none where the group is one matrix.
    pub split_positions: lacuna_bytes,
}

/// Bytes of a code table.
pub const LACUNA_CODE_TABLE_BYTES: u64 = 16640;

/// The tensors of a compact group in host memory, as a checkpoint has them.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_compact_group {
    pub header: lacuna_header,
    /// Optional: the group's name in messages, UTF-8.
    pub name: lacuna_bytes,
    /// `[n_code_bytes]`: the exponents, prefix-coded.
    pub codes: lacuna_bytes,
    /// `[n_elements]`.
    pub sign_mantissa: lacuna_bytes,
    /// `[128]`.
    pub lengths: lacuna_bytes,
    /// `[4 * (n_granules / 32 + 1)]`, `n_granules` being the weights over 128, rounded up.
    pub tile_bytes: lacuna_bytes,
    /// `[2 * (n_granules + 1)]`.
    pub granule_bits: lacuna_bytes,
    /// `[8 * (n_matrices - 1)]`; none where the group is one matrix.
    pub split_positions: lacuna_bytes,
}

/// A group and its index in host memory: DF11 with an index that `lacuna_weights_download_index` gave.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_indexed_group {
    pub header: lacuna_header,
    /// `[n_code_bytes]`: of DF11 the tensor `encoded_exponent`.
    pub codes: lacuna_bytes,
    /// `[n_elements]`.
    pub sign_mantissa: lacuna_bytes,
    /// `[4 * (n_granules / 32 + 1)]`.
    pub tile_bytes: lacuna_bytes,
    /// `[2 * (n_granules + 1)]`.
    pub granule_bits: lacuna_bytes,
    /// `[LACUNA_CODE_TABLE_BYTES]`: of `lacuna_df11_code_table` or `lacuna_compact_code_table`.
    pub table: lacuna_bytes,
    /// `[n_lut_rows + 1, 256]`: DF11's tables, where codes may be longer than 12 bits; else none.
    pub luts: lacuna_bytes,
}

/// Entries of an index's two arrays.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_index_sizes {
    pub header: lacuna_header,
    pub tile_bytes: u64,
    pub granule_bits: u64,
}

structs! {
    lacuna_df11_group: 120,
    lacuna_compact_group: 120,
    lacuna_indexed_group: 104,
    lacuna_index_sizes: 24,
}

const _: () = assert!(LACUNA_CODE_TABLE_BYTES == CodeTable::N_BYTES as u64);

impl lacuna_df11_group {
    #[cfg(feature = "files")]
    pub(super) fn new(raw: &RawGroup<'_>) -> Self {
        Self {
            header: lacuna_header::NONE,
            name: lacuna_bytes::new(raw.name.as_bytes()),
            encoded_exponent: lacuna_bytes::new(raw.encoded_exponent),
            sign_mantissa: lacuna_bytes::new(raw.sign_mantissa),
            luts: lacuna_bytes::new(raw.luts),
            gaps: lacuna_bytes::new(raw.gaps),
            output_positions: lacuna_bytes::new(raw.output_positions),
            split_positions: lacuna_bytes::new(raw.split_positions),
        }
    }

    /// # Safety
    /// The bytes are the caller's, and nothing writes them for `'a`.
    unsafe fn raw<'a>(&self) -> Outcome<RawGroup<'a>> {
        // SAFETY: the caller's word.
        unsafe {
            Ok(RawGroup {
                name: self.name.text("name")?,
                encoded_exponent: self.encoded_exponent.of("encoded_exponent")?,
                sign_mantissa: self.sign_mantissa.of("sign_mantissa")?,
                luts: self.luts.of("luts")?,
                gaps: self.gaps.of("gaps")?,
                output_positions: self.output_positions.of("output_positions")?,
                split_positions: self.split_positions.of("split_positions")?,
            })
        }
    }

    /// # Safety
    /// As of `raw`.
    pub(super) unsafe fn parse<'a>(&self) -> Outcome<Group<'a>> {
        // SAFETY: the caller's word.
        Ok(unsafe { self.raw() }?.parse().map_err(crate::Error::from)?)
    }
}

impl lacuna_compact_group {
    #[cfg(feature = "files")]
    pub(super) fn new(raw: &RawCompact<'_>) -> Self {
        Self {
            header: lacuna_header::NONE,
            name: lacuna_bytes::new(raw.name.as_bytes()),
            codes: lacuna_bytes::new(raw.codes),
            sign_mantissa: lacuna_bytes::new(raw.sign_mantissa),
            lengths: lacuna_bytes::new(raw.lengths),
            tile_bytes: lacuna_bytes::new(raw.tile_bytes),
            granule_bits: lacuna_bytes::new(raw.granule_bits),
            split_positions: lacuna_bytes::new(raw.split_positions),
        }
    }

    /// # Safety
    /// The bytes are the caller's, and nothing writes them for `'a`.
    unsafe fn raw<'a>(&self) -> Outcome<RawCompact<'a>> {
        // SAFETY: the caller's word.
        unsafe {
            Ok(RawCompact {
                name: self.name.text("name")?,
                codes: self.codes.of("codes")?,
                sign_mantissa: self.sign_mantissa.of("sign_mantissa")?,
                lengths: self.lengths.of("lengths")?,
                tile_bytes: self.tile_bytes.of("tile_bytes")?,
                granule_bits: self.granule_bits.of("granule_bits")?,
                split_positions: self.split_positions.of("split_positions")?,
            })
        }
    }

    /// # Safety
    /// As of `raw`.
    pub(super) unsafe fn parse<'a>(&self) -> Outcome<Compact<'a>> {
        // SAFETY: the caller's word.
        Ok(unsafe { self.raw() }?.parse().map_err(crate::Error::from)?)
    }
}

/// A caller's `lacuna_indexed_group`, whose words are aligned.
pub(super) struct Indexed<'a> {
    codes: &'a [u8],
    sign_mantissa: &'a [u8],
    tile_bytes: Cow<'a, [u32]>,
    granule_bits: Cow<'a, [u16]>,
    entries: Cow<'a, [u32]>,
    lengths: &'a [u8],
    luts: &'a [u8],
}

impl<'a> Indexed<'a> {
    /// # Safety
    /// The bytes are the caller's, and nothing writes them for `'a`.
    pub(super) unsafe fn new(group: &lacuna_indexed_group) -> Outcome<Self> {
        // SAFETY: the caller's word.
        unsafe {
            let table = group.table.of("table")?;
            let what = "table, in bytes";
            check_len(what, CodeTable::N_BYTES as u64, table.len() as u64)?;
            let (entries, lengths) = table.split_at(CodeTable::N_BYTES - 256);
            let whole = |what, bytes: &'a [u8], unit: usize| {
                check_len(what, bytes.len().next_multiple_of(unit) as u64, bytes.len() as u64)?;
                Ok::<_, Failure>(bytes)
            };
            let tile_bytes = group.tile_bytes.of("tile_bytes")?;
            let granule_bits = group.granule_bits.of("granule_bits")?;
            Ok(Self {
                codes: group.codes.of("codes")?,
                sign_mantissa: group.sign_mantissa.of("sign_mantissa")?,
                tile_bytes: words(whole("tile_bytes, in bytes", tile_bytes, 4)?),
                granule_bits: words(whole("granule_bits, in bytes", granule_bits, 2)?),
                entries: words(entries),
                lengths,
                luts: group.luts.of("luts")?,
            })
        }
    }

    pub(super) fn raw(&self) -> RawIndexed<'_> {
        RawIndexed {
            codes: self.codes,
            sign_mantissa: self.sign_mantissa,
            tile_bytes: &self.tile_bytes,
            granule_bits: &self.granule_bits,
            entries: &self.entries,
            lengths: self.lengths,
            luts: self.luts,
        }
    }
}

pub(super) fn check_len(what: &'static str, expected: u64, got: u64) -> Outcome {
    if got == expected {
        return Ok(());
    }
    Err(crate::Error::Shape { what, expected, got }.into())
}

/// How many entries the index of so many weights has.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_index_len(
    n_elements: u64,
    sizes: *mut lacuna_index_sizes,
) -> lacuna_status {
    let found = lacuna_index_sizes {
        header: lacuna_header::NONE,
        tile_bytes: Index::tile_bytes_len(n_elements),
        granule_bits: Index::granule_bits_len(n_elements),
    };
    // SAFETY: the caller's struct.
    answer(|| unsafe { write(sizes, &found) })
}

/// The code table of DF11's `luts`, `[n_lut_rows + 1, 256]` in host memory, into `n_bytes` of host memory: `LACUNA_CODE_TABLE_BYTES`.
///
/// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_code_table(
    luts: lacuna_bytes,
    table: *mut u8,
    n_bytes: u64,
) -> lacuna_status {
    // SAFETY: the caller's bytes and array.
    answer(|| unsafe {
        let luts = luts.of("luts")?;
        let n_luts = luts.len() as u64;
        check_len("luts, in bytes", n_luts.next_multiple_of(256).max(512), n_luts)?;
        write_table(&CodeTable::of_luts(luts), table, n_bytes)
    })
}

/// The code table of a compact group's `lengths`, 128 bytes in host memory, into `n_bytes` of host memory: `LACUNA_CODE_TABLE_BYTES`.
///
/// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_MALFORMED` for lengths that are those of no code.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_code_table(
    lengths: lacuna_bytes,
    table: *mut u8,
    n_bytes: u64,
) -> lacuna_status {
    // SAFETY: the caller's bytes and array.
    answer(|| unsafe {
        let lengths = lengths.of("lengths")?;
        check_len("lengths, in bytes", LENGTHS_BYTES as u64, lengths.len() as u64)?;
        let lengths = lengths.first_chunk().unwrap_or(&[0; LENGTHS_BYTES]);
        let code = CompactCode::of_lengths(lengths).map_err(|error: LengthsError| {
            Failure::new(lacuna_status::LACUNA_MALFORMED, format!("lengths: {error}"))
        })?;
        write_table(&code.table(), table, n_bytes)
    })
}

/// # Safety
/// An array of the caller's.
pub(super) unsafe fn write_table(found: &CodeTable, table: *mut u8, n_bytes: u64) -> Outcome {
    // SAFETY: the caller's word.
    let table = unsafe { array("table", table, n_bytes) }?;
    check_len("table, in bytes", CodeTable::N_BYTES as u64, n_bytes)?;
    table.copy_from_slice(&found.to_bytes());
    Ok(())
}

/// Expands a DF11 group in host memory on the CPU, on all threads: `output` is of the group's `n_elements`. A corrupt
/// group is quiet NaNs.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_MALFORMED`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_group_decode(
    group: *const lacuna_df11_group,
    output: *mut u16,
    n_elements: u64,
) -> lacuna_status {
    // SAFETY: the caller's struct, bytes and array.
    answer(|| unsafe {
        let group = read(group)?.parse()?;
        check_len("output", group.n_elements(), n_elements)?;
        let output = array("output", output, n_elements)?;
        Ok(crate::huffman::decode(&group, output)?)
    })
}

/// Expands a compact group in host memory on the CPU, on all threads: `output` is of the group's `n_elements`. A corrupt tile is quiet NaNs.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_MALFORMED`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_group_decode(
    group: *const lacuna_compact_group,
    output: *mut u16,
    n_elements: u64,
) -> lacuna_status {
    // SAFETY: the caller's struct, bytes and array.
    answer(|| unsafe {
        let group = read(group)?.parse()?;
        check_len("output", group.n_elements(), n_elements)?;
        let output = array("output", output, n_elements)?;
        Ok(crate::huffman::compact::decode(&group, output)?)
    })
}
