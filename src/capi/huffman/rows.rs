//! The launch that expands rows of a matrix by their numbers.

use crate::capi::abi::{borrow, free, give, lacuna_header, or, read, structs, write};
use crate::capi::device::lacuna_queue;
use crate::capi::huffman::lacuna_weights;
use crate::capi::status::{Failure, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::huffman::indexed::{IndexedRowsPlan, IndexedRowsShape};
use crate::select::Absent;

/// Rows of a matrix that lies in a group, an embedding's for instance.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_decode_rows_shape {
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

/// Elements of each view of `lacuna_decode_rows_args`, by the same names; `workspace` is as `lacuna_weights_sizes` says.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_decode_rows_sizes {
    pub header: lacuna_header,
    pub rows: u64,
    pub output: u64,
}

/// What `lacuna_decode_rows` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_decode_rows_args {
    pub header: lacuna_header,
    /// The group's number among the weights.
    pub group: u64,
    /// A `lacuna_absent`, for rows whose number is none: 0 makes zeros of them, 1 leaves them alone.
    pub absent: u32,
    /// 0.
    pub reserved: u32,
    /// u32 `[n_rows]`, any numbers.
    pub rows: lacuna_view,
    /// u64: as of `lacuna_decode_weights`.
    pub workspace: lacuna_view_mut,
    /// bf16 `[n_rows, row_len]`, rows `output_stride` elements apart.
    pub output: lacuna_view_mut,
}

structs! {
    lacuna_decode_rows_shape: 56,
    lacuna_decode_rows_sizes: 24,
    lacuna_decode_rows_args: 96,
}

/// A plan of `lacuna_decode_rows`: for any device, and any number of launches at once.
pub struct lacuna_decode_rows_plan(IndexedRowsPlan);

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_decode_rows_plan_new(
    shape: *const lacuna_decode_rows_shape,
    plan: *mut *mut lacuna_decode_rows_plan,
) -> lacuna_status {
    // SAFETY: the caller's struct and variable.
    answer(|| unsafe {
        give("plan", plan, || {
            let shape = read(shape)?;
            Ok(lacuna_decode_rows_plan(IndexedRowsPlan::new(IndexedRowsShape {
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
pub unsafe extern "C" fn lacuna_decode_rows_plan_free(plan: *mut lacuna_decode_rows_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_decode_rows_plan_sizes(
    plan: *const lacuna_decode_rows_plan,
    sizes: *mut lacuna_decode_rows_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plan = &borrow("plan", plan)?.0;
        write(
            sizes,
            &lacuna_decode_rows_sizes {
                header: lacuna_header::NONE,
                rows: plan.shape().n_rows,
                output: plan.output_len(),
            },
        )
    })
}

/// Expands rows of a matrix that lies in a group which has an index; nothing else of the group is read:
/// `output[i, j] = weight first_element + rows[i] * row_len + j`. Weights of a corrupt span of 32 granules are quiet NaNs (0x7FC0), which
/// `lacuna_weights_check` reports.
///
/// One launch; row numbers are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`, and `LACUNA_RANGE` for a group that has no index, before
/// anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_decode_rows(
    queue: *const lacuna_queue,
    weights: *const lacuna_weights,
    plan: *const lacuna_decode_rows_plan,
    args: *const lacuna_decode_rows_args,
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
