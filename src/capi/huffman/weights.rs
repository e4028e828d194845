//! DF11 groups in device memory, and the launch that expands them.

use crate::capi::abi::{
    array, borrow, free, give, lacuna_header, read, read_array, structs, variable, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::huffman::indexed::{check_len, no_group, nothing_there};
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_bytes, lacuna_view, lacuna_view_mut};
use crate::huffman::{Corruption, DeviceWeights, GroupViews, RawGroup};

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

/// The same in device memory: u8 views.
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

/// Elements of each view of `lacuna_df11_decode_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_df11_sizes {
    pub header: lacuna_header,
    pub workspace: u64,
    pub output: u64,
    /// Bytes of device memory that the weights own.
    pub owned_bytes: u64,
    /// Groups.
    pub n_groups: u64,
}

/// What `lacuna_df11_decode` uses and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_df11_decode_args {
    pub header: lacuna_header,
    /// u64: zeros before the first launch, and used by one launch at a time.
    pub workspace: lacuna_view_mut,
    /// bf16: every group's weights, one group after the other, in file order.
    pub output: lacuna_view_mut,
}

structs! {
    lacuna_df11_group: 120,
    lacuna_df11_views: 128,
    lacuna_df11_sizes: 40,
    lacuna_df11_decode_args: 56,
}

/// DF11 groups in device memory, ready to be expanded by one launch.
pub struct lacuna_df11_weights(pub(in crate::capi) DeviceWeights<'static>);

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
}

/// Checks groups, and copies their tensors to the memory of the queue's device.
///
/// Two allocations and five copies a group, and one of each for their table; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_weights_upload(
    queue: *const lacuna_queue,
    groups: *const lacuna_df11_group,
    n_groups: u64,
    weights: *mut *mut lacuna_df11_weights,
) -> lacuna_status {
    // SAFETY: the caller's handle, structs, bytes and variable.
    answer(|| unsafe {
        give("weights", weights, || {
            let queue = &borrow("queue", queue)?.0;
            let groups = read_array(groups, n_groups)?;
            let raw = groups.iter().map(|group| group.raw()).collect::<Outcome<Vec<_>>>()?;
            let parsed: Result<Vec<_>, _> = raw.into_iter().map(RawGroup::parse).collect();
            Ok(lacuna_df11_weights(DeviceWeights::upload(
                queue,
                &parsed.map_err(crate::Error::from)?,
            )?))
        })
    })
}

/// Uses tensors that are in device memory already, without a copy, until the weights are freed. Kernels trust
/// nothing in them.
///
/// One allocation and one copy, for the table of groups; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_weights_borrow(
    queue: *const lacuna_queue,
    groups: *const lacuna_df11_views,
    n_groups: u64,
    weights: *mut *mut lacuna_df11_weights,
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
            Ok(lacuna_df11_weights(DeviceWeights::borrow(queue, &views)?))
        })
    })
}

/// Ends weights, and frees what they own after the work that was queued before; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_weights_free(weights: *mut lacuna_df11_weights) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(weights) }
}

/// How long views must be, at least.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_weights_sizes(
    weights: *const lacuna_df11_weights,
    sizes: *mut lacuna_df11_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let weights = &borrow("weights", weights)?.0;
        let plan = weights.plan();
        write(
            sizes,
            &lacuna_df11_sizes {
                header: lacuna_header::NONE,
                workspace: plan.workspace_len(),
                output: plan.output_len(),
                owned_bytes: weights.owned_bytes() as u64,
                n_groups: plan.n_groups() as u64,
            },
        )
    })
}

/// Where in `output` a group's weights are: `start` and the `end` after them, in elements.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_weights_range(
    weights: *const lacuna_df11_weights,
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

/// Expands every group: bit for bit the weights that were encoded. A corrupt group's whole range is quiet NaNs (0x7FC0), which
/// `lacuna_df11_check` reports.
///
/// One launch.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE` before anything is launched;
/// `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_decode(
    queue: *const lacuna_queue,
    weights: *const lacuna_df11_weights,
    args: *const lacuna_df11_decode_args,
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

/// Waits for the queue's stream, and reports the lowest corrupt block that any launch with this workspace has met since it was last zeroed.
/// Who synchronises anyway looks at the first word himself: 0 is sound.
///
/// Errors: `LACUNA_CORRUPT`, whose message says where and what; `LACUNA_NULL`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_check(
    queue: *const lacuna_queue,
    weights: *const lacuna_df11_weights,
    workspace: *const lacuna_view,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, weights) = (&borrow("queue", queue)?.0, &borrow("weights", weights)?.0);
        let workspace = borrow("workspace", workspace)?.of("workspace", queue)?;
        Ok(weights.check(queue, &workspace)?)
    })
}

/// What the first word of a workspace says, which the caller has copied to the host.
///
/// Errors: `LACUNA_CORRUPT`, whose message says where and what.
#[unsafe(no_mangle)]
pub extern "C" fn lacuna_df11_check_status(status: u64) -> lacuna_status {
    answer(|| {
        Corruption::from_status(status)
            .map_or(Ok(()), |found| Err(crate::Error::Corrupt(found).into()))
    })
}

/// The group in which what this status word reports is, as `lacuna_df11_check_status` takes it.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a word that reports nothing of these weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_weights_locate(
    weights: *const lacuna_df11_weights,
    status: u64,
    group: *mut u64,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        let plan = borrow("weights", weights)?.0.plan();
        let found = Corruption::from_status(status).and_then(|found| plan.locate(found.block));
        let (found, _) = found.ok_or_else(|| nothing_there(status))?;
        *variable("group", group)? = found as u64;
        Ok(())
    })
}

/// Expands a group in host memory on the CPU, on all threads: `output` is of the group's `n_elements`. A corrupt
/// group is quiet NaNs.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_FORMAT`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_group_decode(
    group: *const lacuna_df11_group,
    output: *mut u16,
    n_elements: u64,
) -> lacuna_status {
    // SAFETY: the caller's struct, bytes and array.
    answer(|| unsafe {
        let group = read(group)?.raw()?.parse().map_err(crate::Error::from)?;
        check_len("output", group.n_elements(), n_elements)?;
        let output = array("output", output, n_elements)?;
        Ok(crate::huffman::decode(&group, output).map_err(crate::Error::from)?)
    })
}
