//! The launch that expands groups, and what it reports.

use crate::capi::abi::{borrow, lacuna_header, read, structs, variable};
use crate::capi::device::lacuna_queue;
use crate::capi::huffman::lacuna_weights;
use crate::capi::status::{Failure, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::huffman::indexed::CorruptTile;
use crate::huffman::{Corruption, DeviceWeights};

/// What `lacuna_decode_weights` uses and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_decode_weights_args {
    pub header: lacuna_header,
    /// u64: zeros before the first launch, and used by one launch at a time.
    pub workspace: lacuna_view_mut,
    /// bf16: every group's weights, one group after the other, in file order.
    pub output: lacuna_view_mut,
}

structs! {
    lacuna_decode_weights_args: 56,
}

/// Expands every group: bit for bit the weights that were encoded. A corrupt tile of 4,096 weights is quiet NaNs (0x7FC0), of a group
/// without an index all of it, which `lacuna_weights_check` reports. Where `output` is aligned to 16 bytes, stores are so wide.
///
/// One launch, and another where some groups have an index and others none.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE` before anything is launched;
/// `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_decode_weights(
    queue: *const lacuna_queue,
    weights: *const lacuna_weights,
    args: *const lacuna_decode_weights_args,
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

/// Waits for the queue's stream, and reports the lowest corrupt tile that any launch with this workspace has met since it was last
/// zeroed; where there is none, the lowest corrupt block of groups without an index. Who synchronises anyway looks at the first two words himself: 0 is sound.
///
/// Errors: `LACUNA_CORRUPT`, whose message says where and what; `LACUNA_NULL`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_check(
    queue: *const lacuna_queue,
    weights: *const lacuna_weights,
    workspace: *const lacuna_view,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, weights) = (&borrow("queue", queue)?.0, &borrow("weights", weights)?.0);
        let workspace = borrow("workspace", workspace)?.of("workspace", queue)?;
        Ok(weights.check(queue, &workspace)?)
    })
}

/// What the first two words of a workspace say, which the caller has copied to the host.
///
/// Errors: `LACUNA_CORRUPT`, whose message says where and what.
#[unsafe(no_mangle)]
pub extern "C" fn lacuna_weights_check_status(
    tile_status: u64,
    block_status: u64,
) -> lacuna_status {
    answer(|| Ok(DeviceWeights::check_status([tile_status, block_status])?))
}

/// The group in which what these status words report is, as `lacuna_weights_check_status` takes them.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for words that report nothing of these weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_locate(
    weights: *const lacuna_weights,
    tile_status: u64,
    block_status: u64,
    group: *mut u64,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        let plan = borrow("weights", weights)?.0.plan();
        let found = match CorruptTile::from_status(tile_status) {
            Some(found) => plan.locate_tile(found.tile),
            None => Corruption::from_status(block_status)
                .and_then(|found| plan.locate_block(found.block)),
        };
        let (found, _) = found.ok_or_else(|| nothing_there(tile_status | block_status))?;
        *variable("group", group)? = found as u64;
        Ok(())
    })
}

fn nothing_there(status: u64) -> Failure {
    let (what, allowed) = ("status", "what launches over these weights report");
    crate::Error::Range { what, value: status, allowed }.into()
}
