//! `compact_rows`.

use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, read, structs, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::select::{CompactInputs, CompactOutputs, CompactPlan, CompactShape, Listed};

/// Which elements of a row are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_listed {
    /// Those that the mask keeps.
    LACUNA_LISTED_KEPT = 0,
    /// Those that it does not: what is evicted.
    LACUNA_LISTED_DROPPED = 1,
}

/// Sizes of `lacuna_compact_rows`, and what it lists.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_compact_rows_shape {
    pub header: lacuna_header,
    /// Rows of the mask, below 2^31.
    pub n_rows: u64,
    /// Elements of a row, at most 2^26.
    pub n: u64,
    /// Elements between the starts of two rows, at least `n`; 0 is `n`.
    pub row_stride: u64,
    /// Places for indices in a row.
    pub capacity: u64,
    /// Rows that share a length, one after the other: a request's heads; 0 is 1.
    pub rows_per_request: u64,
    /// A `lacuna_listed`.
    pub listed: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_compact_rows_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_compact_rows_sizes {
    pub header: lacuna_header,
    pub kept: u64,
    pub lengths: u64,
    pub skips: u64,
    pub indices: u64,
    pub counts: u64,
    pub offsets: u64,
    pub row_starts: u64,
    pub workspace: u64,
}

/// What `lacuna_compact_rows` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_compact_rows_args {
    pub header: lacuna_header,
    /// u8 `[n_rows, n]`: not 0 where an element is kept; rows `row_stride` elements apart.
    pub kept: lacuna_view,
    /// Optional, u32 `[n_rows / rows_per_request, rounded up]`: elements of each request's rows; else `n`.
    pub lengths: lacuna_view,
    /// Optional, u32 `[n_rows]`: rows where it is not 0 are left alone, their outputs too.
    pub skips: lacuna_view,
    /// i32 `[n_rows, capacity]`: the listed elements of each row, ascending, then -1; none where `capacity` is 0.
    pub indices: lacuna_view_mut,
    /// u32 `[n_rows]`: how many are listed, also where `capacity` is less.
    pub counts: lacuna_view_mut,
    /// Optional, i32 `[n_rows, n]`: the place of each element among those listed, also past `capacity`; or -1.
    pub offsets: lacuna_view_mut,
    /// Optional, u32 `[n_rows + 1]`: where each row begins in a list of all rows' indices, `capacity` of each at most, and the list's end.
    pub row_starts: lacuna_view_mut,
    /// u32: zeros before the first launch, and used by one launch at a time; every launch leaves it ready.
    pub workspace: lacuna_view_mut,
}

structs! {
    lacuna_compact_rows_shape: 56,
    lacuna_compact_rows_sizes: 72,
    lacuna_compact_rows_args: 200,
}

/// A plan of `lacuna_compact_rows`: for any device, and any number of launches at once.
pub struct lacuna_compact_rows_plan(CompactPlan);

impl lacuna_compact_rows_plan {
    fn new(shape: &lacuna_compact_rows_shape) -> Outcome<Self> {
        check_reserved("lacuna_compact_rows_shape", shape.reserved)?;
        let listed = match shape.listed {
            0 => Listed::Kept,
            1 => Listed::Dropped,
            listed => return Err(Failure::number("listed", listed, "lacuna_listed")),
        };
        Ok(Self(CompactPlan::new(CompactShape {
            n_rows: shape.n_rows,
            n: shape.n,
            row_stride: or(shape.row_stride, shape.n),
            capacity: shape.capacity,
            rows_per_request: or(shape.rows_per_request, 1),
            listed,
        })?))
    }

    fn sizes(&self) -> lacuna_compact_rows_sizes {
        let (plan, n_rows) = (&self.0, self.0.shape().n_rows);
        lacuna_compact_rows_sizes {
            header: lacuna_header::NONE,
            kept: plan.mask_len(),
            lengths: plan.n_requests(),
            skips: n_rows,
            indices: plan.indices_len(),
            counts: n_rows,
            offsets: plan.offsets_len(),
            row_starts: plan.row_starts_len(),
            workspace: plan.workspace_len(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_rows_plan_new(
    shape: *const lacuna_compact_rows_shape,
    plan: *mut *mut lacuna_compact_rows_plan,
) -> lacuna_status {
    // SAFETY: the caller's struct and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_compact_rows_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_rows_plan_free(plan: *mut lacuna_compact_rows_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_rows_plan_sizes(
    plan: *const lacuna_compact_rows_plan,
    sizes: *mut lacuna_compact_rows_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Writes the kept elements of each row, or those that are not kept, in its order, and its inverse: lists of any length of the masks of
/// `lacuna_topk_rows`. `lacuna::select::compact_rows` says all of it.
///
/// One launch, two where a row may have more than 16,369 elements; lengths and skips are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_rows(
    queue: *const lacuna_queue,
    plan: *const lacuna_compact_rows_plan,
    args: *const lacuna_compact_rows_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let inputs = CompactInputs {
            kept: args.kept.of("kept", queue)?,
            lengths: args.lengths.optional("lengths", queue)?,
            skips: args.skips.optional("skips", queue)?,
        };
        let mut outputs = CompactOutputs {
            indices: args.indices.or_empty("indices", queue)?,
            counts: args.counts.of("counts", queue)?,
            offsets: args.offsets.optional("offsets", queue)?,
            row_starts: args.row_starts.optional("row_starts", queue)?,
            workspace: args.workspace.of("workspace", queue)?,
        };
        Ok(crate::select::compact_rows(queue, &plan.0, &inputs, &mut outputs)?)
    })
}
