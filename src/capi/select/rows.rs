//! `gather_rows`, `scatter_rows`, `scatter_add_rows`.

use crate::capi::abi::{borrow, check_reserved, free, give, lacuna_header, read, structs, write};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::{with_any, with_real};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::select::{Absent, Repeats, RowStrides, RowsPlan, RowsShape};

/// Where rows, tables and lists are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_rows_order {
    /// One after the other; the shape's strides are not looked at.
    LACUNA_ROWS_DENSE = 0,
    /// Where the shape's strides say.
    LACUNA_ROWS_STRIDES = 1,
}

/// What becomes of a gathered row whose index is of no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_absent {
    /// Zeros.
    LACUNA_ABSENT_ZEROS = 0,
    /// It is left alone.
    LACUNA_ABSENT_KEPT = 1,
}

/// Sizes of `lacuna_gather_rows`, `lacuna_scatter_rows` and `lacuna_scatter_add_rows`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_rows_shape {
    pub header: lacuna_header,
    /// Lists of indices.
    pub n_lists: u64,
    /// Indices of a list, and its rows.
    pub n_indices: u64,
    /// Rows of a table.
    pub n_table_rows: u64,
    /// Elements of a row.
    pub row_len: u64,
    /// The type of elements: any; to be added, bf16, f16 or f32.
    pub dtype: u32,
    /// A `lacuna_rows_order`; strides are in elements.
    pub order: u32,
    /// From one list of indices to the next; 0: all lists are one.
    pub index_stride: u64,
    /// From one list's table to the next's; 0: all lists share one table.
    pub table_stride: u64,
    /// From row to row of a table.
    pub table_row_stride: u64,
    /// From one list's rows to the next's.
    pub list_stride: u64,
    /// From row to row of a list.
    pub list_row_stride: u64,
}

/// Elements of each view of `lacuna_gather_rows_args`, `lacuna_scatter_rows_args` and `lacuna_scatter_add_rows_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_rows_sizes {
    pub header: lacuna_header,
    pub table: u64,
    pub indices: u64,
    pub gathered: u64,
    pub source: u64,
    pub weights: u64,
    pub last: u64,
}

/// What `lacuna_gather_rows` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_gather_rows_args {
    pub header: lacuna_header,
    /// `[n_lists, n_table_rows, row_len]` of the shape's dtype.
    pub table: lacuna_view,
    /// i32 `[n_lists, n_indices]`: a negative one, and one past the table, is of no row.
    pub indices: lacuna_view,
    /// A `lacuna_absent`.
    pub absent: u32,
    /// 0.
    pub reserved: u32,
    /// `[n_lists, n_indices, row_len]` of the shape's dtype.
    pub gathered: lacuna_view_mut,
}

/// What `lacuna_scatter_rows` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_scatter_rows_args {
    pub header: lacuna_header,
    /// `[n_lists, n_indices, row_len]` of the shape's dtype.
    pub source: lacuna_view,
    /// i32 `[n_lists, n_indices]`: a row whose index is negative or past the table goes nowhere.
    pub indices: lacuna_view,
    /// Optional, u32 `[n_lists, n_table_rows]`: where a list may name a row twice, of which the last one wins. Zeros before the first launch,
    /// and used by one launch at a time; every launch leaves it ready. Without it no list may, and a row that one does name twice holds
    /// bytes of either.
    pub last: lacuna_view_mut,
    /// `[n_lists, n_table_rows, row_len]` of the shape's dtype; rows that no list names are left alone.
    pub table: lacuna_view_mut,
}

/// What `lacuna_scatter_add_rows` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_scatter_add_rows_args {
    pub header: lacuna_header,
    /// `[n_lists, n_indices, row_len]` of the shape's dtype.
    pub source: lacuna_view,
    /// i32 `[n_lists, n_indices]`: a row whose index is negative or past the table goes nowhere; any may be named any number of times.
    pub indices: lacuna_view,
    /// Optional, f32 `[n_lists, n_indices]`: what each row is multiplied by; else 1.
    pub weights: lacuna_view,
    /// `[n_lists, n_table_rows, row_len]` of the shape's dtype, read and written.
    pub table: lacuna_view_mut,
}

structs! {
    lacuna_rows_shape: 88,
    lacuna_rows_sizes: 56,
    lacuna_gather_rows_args: 88,
    lacuna_scatter_rows_args: 104,
    lacuna_scatter_add_rows_args: 104,
}

/// A plan of `lacuna_gather_rows`, `lacuna_scatter_rows` and `lacuna_scatter_add_rows`: for any device, and any number of launches at once.
pub struct lacuna_rows_plan {
    plan: RowsPlan,
    dtype: u32,
}

impl lacuna_rows_plan {
    fn new(shape: &lacuna_rows_shape) -> Outcome<Self> {
        let dtype = shape.dtype;
        let (order, element_bytes) =
            (shape.order, with_any!(dtype, "rows", T => Ok(size_of::<T>() as u32))?);
        let strides = |list, row| RowStrides { list, row };
        let shape = RowsShape {
            n_lists: shape.n_lists,
            n_indices: shape.n_indices,
            index_stride: shape.index_stride,
            n_table_rows: shape.n_table_rows,
            row_len: shape.row_len,
            table: strides(shape.table_stride, shape.table_row_stride),
            list: strides(shape.list_stride, shape.list_row_stride),
            element_bytes,
        };
        let shape = match order {
            0 => shape.dense(),
            1 => shape,
            order => return Err(Failure::number("order", order, "lacuna_rows_order")),
        };
        Ok(Self { plan: RowsPlan::new(shape)?, dtype })
    }

    fn sizes(&self) -> lacuna_rows_sizes {
        let plan = &self.plan;
        lacuna_rows_sizes {
            header: lacuna_header::NONE,
            table: plan.table_len(),
            indices: plan.indices_len(),
            gathered: plan.list_len(),
            source: plan.list_len(),
            weights: plan.weights_len(),
            last: plan.last_len(),
        }
    }
}

pub(super) fn absent(value: u32) -> Outcome<Absent> {
    match value {
        0 => Ok(Absent::Zeros),
        1 => Ok(Absent::Kept),
        absent => Err(Failure::number("absent", absent, "lacuna_absent")),
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_rows_plan_new(
    shape: *const lacuna_rows_shape,
    plan: *mut *mut lacuna_rows_plan,
) -> lacuna_status {
    // SAFETY: the caller's struct and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_rows_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_rows_plan_free(plan: *mut lacuna_rows_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_rows_plan_sizes(
    plan: *const lacuna_rows_plan,
    sizes: *mut lacuna_rows_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Copies rows out of tables: `gathered[l, i] = table[l, indices[l, i]]`. `lacuna::select::gather_rows` says all of it.
///
/// One launch; indices are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`; `LACUNA_RANGE` where rows that are written overlap; all before
/// anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gather_rows(
    queue: *const lacuna_queue,
    plan: *const lacuna_rows_plan,
    args: *const lacuna_gather_rows_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        check_reserved("lacuna_gather_rows_args", args.reserved)?;
        let absent = absent(args.absent)?;
        let indices = args.indices.of("indices", queue)?;
        with_any!(plan.dtype, "rows", T => {
            let table = args.table.of::<T>("table", queue)?;
            let mut gathered = args.gathered.of::<T>("gathered", queue)?;
            let plan = &plan.plan;
            Ok(crate::select::gather_rows(queue, plan, &table, &indices, absent, &mut gathered)?)
        })
    })
}

/// Copies rows into tables: `table[l, indices[l, i]] = source[l, i]`. `lacuna::select::scatter_rows` says all of it.
///
/// One launch, two with `last`; indices are read on the device.
///
/// Errors: those of `lacuna_gather_rows`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_scatter_rows(
    queue: *const lacuna_queue,
    plan: *const lacuna_rows_plan,
    args: *const lacuna_scatter_rows_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let indices = args.indices.of("indices", queue)?;
        let mut repeats = match args.last.optional("last", queue)? {
            None => Repeats::Never,
            Some(last) => Repeats::LastWins(last),
        };
        with_any!(plan.dtype, "rows", T => {
            let source = args.source.of::<T>("source", queue)?;
            let mut table = args.table.of::<T>("table", queue)?;
            let plan = &plan.plan;
            Ok(crate::select::scatter_rows(queue, plan, &source, &indices, &mut repeats, &mut table)?)
        })
    })
}

/// Adds rows to rows of tables, in the order of the list: `table[l, indices[l, i]] += weights[l, i] * source[l, i]`, summed in f32 and
/// rounded once. `lacuna::select::scatter_add_rows` says all of it.
///
/// One launch, without a workspace; indices and weights are read on the device.
///
/// Errors: those of `lacuna_gather_rows`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_scatter_add_rows(
    queue: *const lacuna_queue,
    plan: *const lacuna_rows_plan,
    args: *const lacuna_scatter_add_rows_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let indices = args.indices.of("indices", queue)?;
        let weights = args.weights.optional("weights", queue)?;
        with_real!(plan.dtype, "rows to add", T => {
            let source = args.source.of::<T>("source", queue)?;
            let mut table = args.table.of::<T>("table", queue)?;
            let plan = &plan.plan;
            Ok(crate::select::scatter_add_rows(queue, plan, &source, &indices, weights, &mut table)?)
        })
    })
}
