//! Groups with an index of their streams in device memory: DF11 that was indexed there, and compact groups.

use std::borrow::Cow;

use crate::capi::abi::{
    array, borrow, free, give, lacuna_header, or, read, read_array, structs, variable, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::huffman::lacuna_df11_weights;
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_bytes, lacuna_view, lacuna_view_mut};
use crate::huffman::compact::{CompactCode, LENGTHS_BYTES, LengthsError, RawCompact};
use crate::huffman::indexed::{
    CodeTable, CorruptTile, Index, IndexedRowsPlan, IndexedRowsShape, IndexedViews, IndexedWeights,
    RawIndexed,
};
use crate::huffman::{Corruption, words};
use crate::select::Absent;

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

/// A group and its index in host memory: DF11 with an index that `lacuna_indexed_weights_download_index` gave.
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

/// The same in device memory.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_indexed_views {
    pub header: lacuna_header,
    /// u8 `[n_code_bytes]`, aligned to 16 bytes.
    pub codes: lacuna_view,
    /// u8 `[n_elements]`, aligned to 16 bytes.
    pub sign_mantissa: lacuna_view,
    /// u32 `[n_granules / 32 + 1]`.
    pub tile_bytes: lacuna_view,
    /// u16 `[n_granules + 1]`.
    pub granule_bits: lacuna_view,
    /// u8 `[LACUNA_CODE_TABLE_BYTES]`, aligned to 16 bytes.
    pub table: lacuna_view,
    /// Optional, u8 `[n_lut_rows + 1, 256]`: DF11's tables, where codes may be longer than 12 bits.
    pub luts: lacuna_view,
}

/// Elements of each view of `lacuna_indexed_decode_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_indexed_sizes {
    pub header: lacuna_header,
    pub workspace: u64,
    pub output: u64,
    /// Bytes of device memory that the weights own.
    pub owned_bytes: u64,
    /// Groups.
    pub n_groups: u64,
    /// Those of them that no index holds: a second launch decodes them.
    pub n_plain_groups: u64,
}

/// Entries of an index's two arrays.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_index_sizes {
    pub header: lacuna_header,
    pub tile_bytes: u64,
    pub granule_bits: u64,
}

/// What `lacuna_indexed_decode` uses and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_indexed_decode_args {
    pub header: lacuna_header,
    /// u64: zeros before the first launch, and used by one launch at a time.
    pub workspace: lacuna_view_mut,
    /// bf16: every group's weights, one group after the other, in file order.
    pub output: lacuna_view_mut,
}

/// Rows of a matrix that lies in a group, an embedding's for instance.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_indexed_decode_rows_shape {
    pub header: lacuna_header,
    /// Weights of the group.
    pub n_elements: u64,
    /// Where in it the matrix begins, in elements.
    pub first_element: u64,
    /// Rows of the matrix.
    pub n_matrix_rows: u64,
    /// Elements of a row.
    pub row_len: u64,
    /// Rows that are asked for.
    pub n_rows: u64,
    /// Elements from row to row of the output; 0 is `row_len`.
    pub output_stride: u64,
}

/// Elements of each view of `lacuna_indexed_decode_rows_args`, by the same names; `workspace` is as `lacuna_indexed_weights_sizes` says.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_indexed_decode_rows_sizes {
    pub header: lacuna_header,
    pub rows: u64,
    pub output: u64,
}

/// What `lacuna_indexed_decode_rows` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_indexed_decode_rows_args {
    pub header: lacuna_header,
    /// The group's number among the weights.
    pub group: u64,
    /// A `lacuna_absent`, for rows whose number is none: 0 makes zeros of them, 1 leaves them alone.
    pub absent: u32,
    /// 0.
    pub reserved: u32,
    /// u32 `[n_rows]`, any numbers.
    pub rows: lacuna_view,
    /// u64: as of `lacuna_indexed_decode`.
    pub workspace: lacuna_view_mut,
    /// bf16 `[n_rows, row_len]`, rows `output_stride` elements apart.
    pub output: lacuna_view_mut,
}

structs! {
    lacuna_compact_group: 120,
    lacuna_indexed_group: 104,
    lacuna_indexed_views: 152,
    lacuna_indexed_sizes: 48,
    lacuna_index_sizes: 24,
    lacuna_indexed_decode_args: 56,
    lacuna_indexed_decode_rows_shape: 56,
    lacuna_indexed_decode_rows_sizes: 24,
    lacuna_indexed_decode_rows_args: 96,
}

/// Groups with an index of their streams in device memory, ready to be expanded by one launch; and by another those that no
/// index holds.
pub struct lacuna_indexed_weights(IndexedWeights<'static>);

const _: () = assert!(LACUNA_CODE_TABLE_BYTES == CodeTable::N_BYTES as u64);

/// A plan of `lacuna_indexed_decode_rows`: for any device, and any number of launches at once.
pub struct lacuna_indexed_decode_rows_plan(IndexedRowsPlan);

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
    pub(super) unsafe fn raw<'a>(&self) -> Outcome<RawCompact<'a>> {
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
}

/// A caller's `lacuna_indexed_group`, whose words are aligned.
struct Indexed<'a> {
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
    unsafe fn new(group: &lacuna_indexed_group) -> Outcome<Self> {
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

    fn raw(&self) -> RawIndexed<'_> {
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

/// Verifies DF11 groups in device memory, and indexes them: from now on each code is decoded once, and not twice. What was
/// uploaded of a group and no longer serves is freed. A group that no index holds is decoded as before.
///
/// Takes `*df11` over: whatever the answer, it is null afterwards, and its groups are freed where the answer is not
/// `LACUNA_OK`. That of null handles is `LACUNA_NULL`, and nothing is taken.
///
/// Two launches, allocations and copies, for which it waits; not for a captured stream.
///
/// Errors: `LACUNA_NULL`; `LACUNA_CORRUPT`, whose message names the lowest corrupt block; `LACUNA_WRONG_QUEUE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_weights_index(
    queue: *const lacuna_queue,
    df11: *mut *mut lacuna_df11_weights,
    weights: *mut *mut lacuna_indexed_weights,
) -> lacuna_status {
    // SAFETY: the caller's handles and variables; what is taken is named by no variable of his any more.
    answer(|| unsafe {
        let (queue, df11) = (&borrow("queue", queue)?.0, variable("df11", df11)?);
        borrow("*df11", *df11)?;
        give("weights", weights, || {
            let taken = Box::from_raw(std::mem::replace(df11, std::ptr::null_mut()));
            Ok(lacuna_indexed_weights(IndexedWeights::index(queue, taken.0)?))
        })
    })
}

/// Checks compact groups, and copies them to the memory of the queue's device.
///
/// An allocation and six copies a group, and one of each for their table; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_weights_upload_compact(
    queue: *const lacuna_queue,
    groups: *const lacuna_compact_group,
    n_groups: u64,
    weights: *mut *mut lacuna_indexed_weights,
) -> lacuna_status {
    // SAFETY: the caller's handle, structs, bytes and variable.
    answer(|| unsafe {
        give("weights", weights, || {
            let queue = &borrow("queue", queue)?.0;
            let groups = read_array(groups, n_groups)?;
            let raw = groups.iter().map(|group| group.raw()).collect::<Outcome<Vec<_>>>()?;
            let parsed: Result<Vec<_>, _> = raw.into_iter().map(RawCompact::parse).collect();
            let parsed = parsed.map_err(crate::Error::from)?;
            let indexed: Vec<_> = parsed.iter().map(|group| group.indexed()).collect();
            Ok(lacuna_indexed_weights(IndexedWeights::upload(queue, &indexed)?))
        })
    })
}

/// Copies groups and their indices to the memory of the queue's device. Nothing in them is trusted, now or later.
///
/// An allocation and six copies a group, and one of each for their table; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_weights_upload(
    queue: *const lacuna_queue,
    groups: *const lacuna_indexed_group,
    n_groups: u64,
    weights: *mut *mut lacuna_indexed_weights,
) -> lacuna_status {
    // SAFETY: the caller's handle, structs, bytes and variable.
    answer(|| unsafe {
        give("weights", weights, || {
            let queue = &borrow("queue", queue)?.0;
            let groups = read_array(groups, n_groups)?;
            let groups =
                groups.iter().map(|group| Indexed::new(group)).collect::<Outcome<Vec<_>>>()?;
            let raw: Vec<_> = groups.iter().map(Indexed::raw).collect();
            Ok(lacuna_indexed_weights(IndexedWeights::upload(queue, &raw)?))
        })
    })
}

/// Uses groups that are in device memory already, without a copy, until the weights are freed. Kernels trust
/// nothing in them.
///
/// One allocation and one copy, for the table of groups; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_weights_borrow(
    queue: *const lacuna_queue,
    groups: *const lacuna_indexed_views,
    n_groups: u64,
    weights: *mut *mut lacuna_indexed_weights,
) -> lacuna_status {
    // SAFETY: the caller's handle, structs, memory and variable.
    answer(|| unsafe {
        give("weights", weights, || {
            let queue = &borrow("queue", queue)?.0;
            let mut views = Vec::new();
            for group in read_array(groups, n_groups)? {
                views.push(IndexedViews {
                    codes: group.codes.of("codes", queue)?,
                    sign_mantissa: group.sign_mantissa.of("sign_mantissa", queue)?,
                    tile_bytes: group.tile_bytes.of("tile_bytes", queue)?,
                    granule_bits: group.granule_bits.of("granule_bits", queue)?,
                    table: group.table.of("table", queue)?,
                    luts: group.luts.optional("luts", queue)?,
                });
            }
            Ok(lacuna_indexed_weights(IndexedWeights::borrow(queue, &views)?))
        })
    })
}

/// Ends weights, and frees what they own after the work that was queued before; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_weights_free(weights: *mut lacuna_indexed_weights) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(weights) }
}

/// How long views must be, at least.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_weights_sizes(
    weights: *const lacuna_indexed_weights,
    sizes: *mut lacuna_indexed_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let weights = &borrow("weights", weights)?.0;
        let plan = weights.plan();
        write(
            sizes,
            &lacuna_indexed_sizes {
                header: lacuna_header::NONE,
                workspace: plan.workspace_len(),
                output: plan.output_len(),
                owned_bytes: weights.owned_bytes() as u64,
                n_groups: plan.n_groups() as u64,
                n_plain_groups: plan.n_plain_groups() as u64,
            },
        )
    })
}

/// Where in `output` a group's weights are: `start` and the `end` after them, in elements.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_weights_range(
    weights: *const lacuna_indexed_weights,
    group: u64,
    start: *mut u64,
    end: *mut u64,
) -> lacuna_status {
    // SAFETY: the caller's handle and variables.
    answer(|| unsafe {
        let plan = borrow("weights", weights)?.0.plan();
        let range = usize::try_from(group).ok().and_then(|idx| plan.output_range(idx));
        let range = range.ok_or_else(|| no_group(group))?;
        let (start, end) = (variable("start", start)?, variable("end", end)?);
        (*start, *end) = (range.start, range.end);
        Ok(())
    })
}

/// Sets `is_indexed` to 1 where an index holds the group, and to 0 where none does.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_weights_is_indexed(
    weights: *const lacuna_indexed_weights,
    group: u64,
    is_indexed: *mut u32,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        let plan = borrow("weights", weights)?.0.plan();
        if group >= plan.n_groups() as u64 {
            return Err(no_group(group));
        }
        *variable("is_indexed", is_indexed)? = plan.is_indexed(group as usize).into();
        Ok(())
    })
}

pub(super) fn no_group(group: u64) -> Failure {
    crate::Error::Range { what: "group", value: group, allowed: "the groups" }.into()
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

/// Copies a group's index to host memory, so that it need not be made again: as many entries as `lacuna_index_len` says.
///
/// Two copies, for which it waits.
///
/// Errors: `LACUNA_NULL`; `LACUNA_SHAPE` for arrays of another length; `LACUNA_RANGE` for a group that there is not, or that no index holds;
/// `LACUNA_WRONG_QUEUE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_weights_download_index(
    queue: *const lacuna_queue,
    weights: *const lacuna_indexed_weights,
    group: u64,
    tile_bytes: *mut u32,
    n_tile_bytes: u64,
    granule_bits: *mut u16,
    n_granule_bits: u64,
) -> lacuna_status {
    // SAFETY: the caller's handles and arrays.
    answer(|| unsafe {
        let (queue, weights) = (&borrow("queue", queue)?.0, &borrow("weights", weights)?.0);
        let tile_bytes = array("tile_bytes", tile_bytes, n_tile_bytes)?;
        let granule_bits = array("granule_bits", granule_bits, n_granule_bits)?;
        let idx = usize::try_from(group).unwrap_or(usize::MAX);
        let index = weights.download_index(queue, idx)?.ok_or(crate::Error::Range {
            what: "group of an index",
            value: group,
            allowed: "the groups that have an index",
        })?;
        check_len("tile_bytes", index.tile_bytes.len() as u64, n_tile_bytes)?;
        check_len("granule_bits", index.granule_bits.len() as u64, n_granule_bits)?;
        tile_bytes.copy_from_slice(&index.tile_bytes);
        granule_bits.copy_from_slice(&index.granule_bits);
        Ok(())
    })
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
/// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_FORMAT` for lengths that are those of no code.
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
            Failure::new(lacuna_status::LACUNA_FORMAT, format!("lengths: {error}"))
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

/// Expands every group: bit for bit the weights that were encoded. A corrupt tile of 4,096 weights is quiet NaNs (0x7FC0), of a group
/// without an index all of it, which `lacuna_indexed_check` reports. Where `output` is aligned to 16 bytes, stores are so wide.
///
/// One launch, and another where there are groups without an index.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE` before anything is launched;
/// `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_decode(
    queue: *const lacuna_queue,
    weights: *const lacuna_indexed_weights,
    args: *const lacuna_indexed_decode_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, weights) = (&borrow("queue", queue)?.0, &borrow("weights", weights)?.0);
        let args = read(args)?;
        let mut workspace = args.workspace.of("workspace", queue)?;
        let mut output = args.output.of("output", queue)?;
        Ok(weights.decode(queue, &mut workspace, &mut output)?)
    })
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_decode_rows_plan_new(
    shape: *const lacuna_indexed_decode_rows_shape,
    plan: *mut *mut lacuna_indexed_decode_rows_plan,
) -> lacuna_status {
    // SAFETY: the caller's struct and variable.
    answer(|| unsafe {
        give("plan", plan, || {
            let shape = read(shape)?;
            Ok(lacuna_indexed_decode_rows_plan(IndexedRowsPlan::new(IndexedRowsShape {
                n_elements: shape.n_elements,
                first_element: shape.first_element,
                n_matrix_rows: shape.n_matrix_rows,
                row_len: shape.row_len,
                n_rows: shape.n_rows,
                output_stride: or(shape.output_stride, shape.row_len),
            })?))
        })
    })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_decode_rows_plan_free(
    plan: *mut lacuna_indexed_decode_rows_plan,
) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_decode_rows_plan_sizes(
    plan: *const lacuna_indexed_decode_rows_plan,
    sizes: *mut lacuna_indexed_decode_rows_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plan = &borrow("plan", plan)?.0;
        write(
            sizes,
            &lacuna_indexed_decode_rows_sizes {
                header: lacuna_header::NONE,
                rows: plan.shape().n_rows,
                output: plan.output_len(),
            },
        )
    })
}

/// Expands rows of a matrix that lies in a group which an index holds; nothing else of the group is read:
/// `output[i, j] = weight first_element + rows[i] * row_len + j`. Weights of a corrupt span of 32 granules are quiet NaNs (0x7FC0), which
/// `lacuna_indexed_check` reports.
///
/// One launch; row numbers are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`, and `LACUNA_RANGE` for a group that no index holds, before
/// anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_decode_rows(
    queue: *const lacuna_queue,
    weights: *const lacuna_indexed_weights,
    plan: *const lacuna_indexed_decode_rows_plan,
    args: *const lacuna_indexed_decode_rows_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, weights) = (&borrow("queue", queue)?.0, &borrow("weights", weights)?.0);
        let (plan, args) = (&borrow("plan", plan)?.0, read(args)?);
        let absent = match args.absent {
            0 => Absent::Zeros,
            1 => Absent::Kept,
            number => return Err(Failure::number("absent", number, "lacuna_absent")),
        };
        let group = usize::try_from(args.group).unwrap_or(usize::MAX);
        let rows = args.rows.of("rows", queue)?;
        let mut workspace = args.workspace.of("workspace", queue)?;
        let mut output = args.output.of("output", queue)?;
        Ok(weights.decode_rows(queue, plan, group, &rows, absent, &mut workspace, &mut output)?)
    })
}

/// Expands a compact group in host memory on the CPU, on all threads: `output` is of the group's `n_elements`. A corrupt tile is quiet NaNs.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_FORMAT`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_group_decode(
    group: *const lacuna_compact_group,
    output: *mut u16,
    n_elements: u64,
) -> lacuna_status {
    // SAFETY: the caller's struct, bytes and array.
    answer(|| unsafe {
        let group = read(group)?.raw()?.parse().map_err(crate::Error::from)?;
        check_len("output", group.n_elements(), n_elements)?;
        let output = array("output", output, n_elements)?;
        Ok(crate::huffman::compact::decode(&group, output)?)
    })
}

/// Waits for the queue's stream, and reports the lowest corrupt tile that any launch with this workspace has met since it was last
/// zeroed; where there is none, the lowest corrupt block of groups without an index. Who synchronises anyway looks at the first two words himself: 0 is sound.
///
/// Errors: `LACUNA_CORRUPT`, whose message says where and what; `LACUNA_NULL`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_check(
    queue: *const lacuna_queue,
    weights: *const lacuna_indexed_weights,
    workspace: *const lacuna_view,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, weights) = (&borrow("queue", queue)?.0, &borrow("weights", weights)?.0);
        let workspace = borrow("workspace", workspace)?.of("workspace", queue)?;
        Ok(weights.check(queue, &workspace)?)
    })
}

/// What the first word of a workspace says, which the caller has copied to the host, and the second, where there are groups without
/// an index; else 0.
///
/// Errors: `LACUNA_CORRUPT`, whose message says where and what.
#[unsafe(no_mangle)]
pub extern "C" fn lacuna_indexed_check_status(
    tile_status: u64,
    block_status: u64,
) -> lacuna_status {
    answer(|| {
        if let Some(tile) = CorruptTile::from_status(tile_status) {
            return Err(crate::Error::CorruptTile(tile).into());
        }
        Corruption::from_status(block_status)
            .map_or(Ok(()), |found| Err(crate::Error::Corrupt(found).into()))
    })
}

/// The group in which what these status words report is, as `lacuna_indexed_check_status` takes them.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for words that report nothing of these weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_indexed_weights_locate(
    weights: *const lacuna_indexed_weights,
    tile_status: u64,
    block_status: u64,
    group: *mut u64,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        let plan = borrow("weights", weights)?.0.plan();
        let found = match CorruptTile::from_status(tile_status) {
            Some(found) => plan.locate(found.tile),
            None => Corruption::from_status(block_status)
                .and_then(|found| plan.locate_plain(found.block)),
        };
        let (found, _) = found.ok_or_else(|| nothing_there(tile_status | block_status))?;
        *variable("group", group)? = found as u64;
        Ok(())
    })
}

pub(super) fn nothing_there(status: u64) -> Failure {
    let (what, allowed) = ("status", "what launches over these weights report");
    crate::Error::Range { what, value: status, allowed }.into()
}
