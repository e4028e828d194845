//! `gather_kv`, `scatter_kv`.

use super::rows::absent;
use crate::capi::abi::{borrow, check_reserved, free, give, lacuna_header, read, structs, write};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::with_cached;
use crate::capi::kv::{lacuna_kv, lacuna_kv_mut, lacuna_kv_shape, lists};
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::select::{KvRows, KvRowsMut, KvRowsPlan};

/// Sizes of `lacuna_gather_kv` and `lacuna_scatter_kv`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_kv_rows_shape {
    pub header: lacuna_header,
    /// The cache.
    pub kv: *const lacuna_kv_shape,
    /// Rows of a list.
    pub n_indices: u64,
    /// A `lacuna_kv_lists`.
    pub lists: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_gather_kv_args` and `lacuna_scatter_kv_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_kv_rows_sizes {
    pub header: lacuna_header,
    pub indices: u64,
    pub keys: u64,
    pub values: u64,
}

/// What `lacuna_gather_kv` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_gather_kv_args {
    pub header: lacuna_header,
    /// The cache, with values or without.
    pub cache: lacuna_kv,
    /// i32 `[batch, n_heads, n_indices]` or `[batch, n_indices]`: a negative one, one past the request's tokens, and one whose page is none, is of
    /// no row.
    pub indices: lacuna_view,
    /// A `lacuna_absent`.
    pub absent: u32,
    /// 0.
    pub reserved: u32,
    /// `[batch, n_heads, n_indices, row_len]` of the cache's dtype, from a multiple of 8 bytes on.
    pub keys: lacuna_view_mut,
    /// The same of values, where the cache has them.
    pub values: lacuna_view_mut,
}

/// What `lacuna_scatter_kv` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_scatter_kv_args {
    pub header: lacuna_header,
    /// `[batch, n_heads, n_indices, row_len]` of the cache's dtype, from a multiple of 8 bytes on.
    pub keys: lacuna_view,
    /// The same of values, where the cache has them.
    pub values: lacuna_view,
    /// As of `lacuna_gather_kv_args`: what is of no row goes nowhere. No two rows may go to one place.
    pub indices: lacuna_view,
    /// The cache, with values or without.
    pub cache: lacuna_kv_mut,
}

structs! {
    lacuna_kv_rows_shape: 32,
    lacuna_kv_rows_sizes: 32,
    lacuna_gather_kv_args: 192,
    lacuna_scatter_kv_args: 176,
}

/// A plan of `lacuna_gather_kv` and `lacuna_scatter_kv`: for any device, and any number of launches at once.
pub struct lacuna_kv_rows_plan {
    plan: KvRowsPlan,
    dtype: u32,
}

impl lacuna_kv_rows_plan {
    /// # Safety
    /// The shape's struct is the caller's.
    unsafe fn new(shape: &lacuna_kv_rows_shape) -> Outcome<Self> {
        check_reserved("lacuna_kv_rows_shape", shape.reserved)?;
        // SAFETY: the caller's word.
        let kv = unsafe { read(shape.kv) }?;
        with_cached!(kv.dtype, "a cache", T => Ok(size_of::<T>()))?;
        let plan = KvRowsPlan::new(kv.layout()?, shape.n_indices, lists(shape.lists)?)?;
        Ok(Self { plan, dtype: kv.dtype })
    }

    fn sizes(&self) -> lacuna_kv_rows_sizes {
        let plan = &self.plan;
        lacuna_kv_rows_sizes {
            header: lacuna_header::NONE,
            indices: plan.indices_len(),
            keys: plan.rows_len(),
            values: plan.rows_len(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_kv_rows_plan_new(
    shape: *const lacuna_kv_rows_shape,
    plan: *mut *mut lacuna_kv_rows_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_kv_rows_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_kv_rows_plan_free(plan: *mut lacuna_kv_rows_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_kv_rows_plan_sizes(
    plan: *const lacuna_kv_rows_plan,
    sizes: *mut lacuna_kv_rows_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Copies rows of keys and values out of a paged cache. `lacuna::select::gather_kv` says all of it.
///
/// One launch for keys and values; lists, lengths and page tables are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gather_kv(
    queue: *const lacuna_queue,
    plan: *const lacuna_kv_rows_plan,
    args: *const lacuna_gather_kv_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        check_reserved("lacuna_gather_kv_args", args.reserved)?;
        let absent = absent(args.absent)?;
        let indices = args.indices.of("indices", queue)?;
        with_cached!(plan.dtype, "a cache", T => {
            let plan = &plan.plan;
            let cache = args.cache.of::<T>(plan.layout(), queue)?;
            let mut gathered = KvRowsMut {
                keys: args.keys.of("gathered keys", queue)?,
                values: args.values.optional("gathered values", queue)?,
            };
            Ok(crate::select::gather_kv(queue, plan, &cache, &indices, absent, &mut gathered)?)
        })
    })
}

/// Copies rows of keys and values into a paged cache. `lacuna::select::scatter_kv` says all of it.
///
/// One launch for keys and values; lists, lengths and page tables are read on the device.
///
/// Errors: those of `lacuna_gather_kv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_scatter_kv(
    queue: *const lacuna_queue,
    plan: *const lacuna_kv_rows_plan,
    args: *const lacuna_scatter_kv_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let indices = args.indices.of("indices", queue)?;
        with_cached!(plan.dtype, "a cache", T => {
            let plan = &plan.plan;
            let source = KvRows {
                keys: args.keys.of("scattered keys", queue)?,
                values: args.values.optional("scattered values", queue)?,
            };
            let mut cache = args.cache.of::<T>(plan.layout(), queue)?;
            Ok(crate::select::scatter_kv(queue, plan, &source, &indices, &mut cache)?)
        })
    })
}
