//! Groups in device memory: how they come there, and what is known of them.

use crate::capi::abi::{
    array, borrow, free, give, lacuna_header, read_array, structs, variable, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::huffman::groups::{Indexed, check_len};
use crate::capi::huffman::{lacuna_compact_group, lacuna_df11_group, lacuna_indexed_group};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::lacuna_view;
use crate::huffman::indexed::IndexedViews;
use crate::huffman::{DeviceWeights, GroupViews};

/// The tensors of a DF11 group in device memory: u8 views.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_df11_views {
    pub header: lacuna_header,
    /// `[n_code_bytes]`: the tensor `encoded_exponent`.
    pub encoded_exponent: lacuna_view,
    /// `[n_elements]`.
    pub sign_mantissa: lacuna_view,
    /// `[n_lut_rows + 1, 256]`.
    pub luts: lacuna_view,
    /// `[320 * n_blocks]`.
    pub gaps: lacuna_view,
    /// `[4 * n_positions]`.
    pub output_positions: lacuna_view,
}

/// The tensors of a group with an index in device memory.
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

/// Elements of each view of `lacuna_decode_weights_args`, by the same names, and what else is known of weights.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_decode_weights_sizes {
    pub header: lacuna_header,
    pub workspace: u64,
    pub output: u64,
    /// Bytes of device memory that the weights own.
    pub owned_bytes: u64,
    /// Groups.
    pub n_groups: u64,
    /// Those of them that have no index.
    pub n_plain_groups: u64,
}

structs! {
    lacuna_df11_views: 128,
    lacuna_indexed_views: 152,
    lacuna_decode_weights_sizes: 48,
}

/// Groups in device memory, ready to be expanded by one launch: by an index of their streams, or without one, as DF11 files have them; by two where there are both.
pub struct lacuna_weights(pub(super) DeviceWeights<'static>);

/// Checks DF11 groups, and copies their tensors to the memory of the queue's device.
///
/// Two allocations and five copies a group, and one of each for their table; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_upload_df11(
    queue: *const lacuna_queue,
    groups: *const lacuna_df11_group,
    n_groups: u64,
    weights: *mut *mut lacuna_weights,
) -> lacuna_status {
    // SAFETY: the caller's handle, structs, bytes and variable.
    answer(|| unsafe {
        give("weights", weights, || {
            let queue = &borrow("queue", queue)?.0;
            let groups = read_array(groups, n_groups)?;
            let groups = groups.iter().map(|group| group.parse()).collect::<Outcome<Vec<_>>>()?;
            Ok(lacuna_weights(DeviceWeights::upload(queue, groups)?))
        })
    })
}

/// Checks compact groups, and copies them to the memory of the queue's device.
///
/// An allocation and six copies a group, and one of each for their table; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_upload_compact(
    queue: *const lacuna_queue,
    groups: *const lacuna_compact_group,
    n_groups: u64,
    weights: *mut *mut lacuna_weights,
) -> lacuna_status {
    // SAFETY: the caller's handle, structs, bytes and variable.
    answer(|| unsafe {
        give("weights", weights, || {
            let queue = &borrow("queue", queue)?.0;
            let groups = read_array(groups, n_groups)?;
            let groups = groups.iter().map(|group| group.parse()).collect::<Outcome<Vec<_>>>()?;
            Ok(lacuna_weights(DeviceWeights::upload(queue, &groups)?))
        })
    })
}

/// Copies groups and their indices to the memory of the queue's device. Nothing in them is trusted, now or later.
///
/// An allocation and six copies a group, and one of each for their table; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_upload_indexed(
    queue: *const lacuna_queue,
    groups: *const lacuna_indexed_group,
    n_groups: u64,
    weights: *mut *mut lacuna_weights,
) -> lacuna_status {
    // SAFETY: the caller's handle, structs, bytes and variable.
    answer(|| unsafe {
        give("weights", weights, || {
            let queue = &borrow("queue", queue)?.0;
            let groups = read_array(groups, n_groups)?;
            let groups =
                groups.iter().map(|group| Indexed::new(group)).collect::<Outcome<Vec<_>>>()?;
            Ok(lacuna_weights(DeviceWeights::upload(queue, groups.iter().map(Indexed::raw))?))
        })
    })
}

/// Uses DF11 groups that are in device memory already, without a copy, until the weights are freed. Kernels trust
/// nothing in them.
///
/// One allocation and one copy, for the table of groups; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_borrow_df11(
    queue: *const lacuna_queue,
    groups: *const lacuna_df11_views,
    n_groups: u64,
    weights: *mut *mut lacuna_weights,
) -> lacuna_status {
    // SAFETY: the caller's handle, structs, memory and variable.
    answer(|| unsafe {
        give("weights", weights, || {
            let queue = &borrow("queue", queue)?.0;
            let mut views = Vec::new();
            for group in read_array(groups, n_groups)? {
                views.push(GroupViews {
                    encoded_exponent: group.encoded_exponent.of("encoded_exponent", queue)?,
                    sign_mantissa: group.sign_mantissa.of("sign_mantissa", queue)?,
                    luts: group.luts.of("luts", queue)?,
                    gaps: group.gaps.of("gaps", queue)?,
                    output_positions: group.output_positions.of("output_positions", queue)?,
                });
            }
            Ok(lacuna_weights(DeviceWeights::borrow(queue, &views)?))
        })
    })
}

/// Uses groups with an index that are in device memory already, without a copy, until the weights are freed. Kernels trust
/// nothing in them.
///
/// One allocation and one copy, for the table of groups; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_borrow_indexed(
    queue: *const lacuna_queue,
    groups: *const lacuna_indexed_views,
    n_groups: u64,
    weights: *mut *mut lacuna_weights,
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
            Ok(lacuna_weights(DeviceWeights::borrow(queue, &views)?))
        })
    })
}

/// Verifies the groups that have no index, DF11 ones, and indexes them: from now on each of their codes is decoded once, and not twice. What was
/// uploaded of a group and no longer serves is freed. A group that no index holds, or whose views are not aligned to 16 bytes, is decoded as before. Sizes
/// change: ask for them again.
///
/// Two launches, allocations and copies, for which it waits; not for a captured stream. Where all groups have an index, nothing.
///
/// Errors, after which the weights are what they were: `LACUNA_NULL`; `LACUNA_CORRUPT`, whose message names the lowest corrupt
/// block; `LACUNA_WRONG_QUEUE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_index(
    queue: *const lacuna_queue,
    weights: *mut lacuna_weights,
) -> lacuna_status {
    // SAFETY: the caller's handles.
    answer(|| unsafe {
        let (queue, weights) = (&borrow("queue", queue)?.0, variable("weights", weights)?);
        Ok(weights.0.index(queue)?)
    })
}

/// Ends weights, and frees what they own after the work that was queued before; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_free(weights: *mut lacuna_weights) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(weights) }
}

/// How long views must be, at least.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_sizes(
    weights: *const lacuna_weights,
    sizes: *mut lacuna_decode_weights_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let weights = &borrow("weights", weights)?.0;
        let plan = weights.plan();
        write(
            sizes,
            &lacuna_decode_weights_sizes {
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
pub unsafe extern "C" fn lacuna_weights_range(
    weights: *const lacuna_weights,
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

/// Sets `is_indexed` to 1 where a group has an index, and to 0 where it has none.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_is_indexed(
    weights: *const lacuna_weights,
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

/// Copies a group's index to host memory, so that it need not be made again: as many entries as `lacuna_index_len` says.
///
/// Two copies, for which it waits.
///
/// Errors: `LACUNA_NULL`; `LACUNA_SHAPE` for arrays of another length; `LACUNA_RANGE` for a group that there is not, or that has no index;
/// `LACUNA_WRONG_QUEUE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_download_index(
    queue: *const lacuna_queue,
    weights: *const lacuna_weights,
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

pub(super) fn no_group(group: u64) -> Failure {
    crate::Error::Range { what: "group", value: group, allowed: "the groups" }.into()
}
