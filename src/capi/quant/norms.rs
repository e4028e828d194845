//! `measure_norms`.

use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, read, structs, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::with_cached;
use crate::capi::kv::{lacuna_kv, lacuna_kv_shape};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::quant::{Norm, NormsPlan, NormsShape};

/// A norm of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_norm {
    /// The sum of magnitudes (CriticalKV).
    LACUNA_NORM_L1 = 0,
    /// The root of the sum of squares.
    LACUNA_NORM_L2 = 1,
}

/// Sizes of `lacuna_measure_norms`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_measure_norms_shape {
    pub header: lacuna_header,
    /// The cache, with values; a row for each token.
    pub kv: *const lacuna_kv_shape,
    /// Norms of each request and head, up to 2^26; 0 is all rows that the page table holds.
    pub n_tokens: u64,
    /// Rows of a request and head that the grid is for; a launch measures what there are more too, at a slower pace. 0 is all.
    pub max_new: u64,
    /// A `lacuna_norm`.
    pub norm: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_measure_norms_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_measure_norms_sizes {
    pub header: lacuna_header,
    pub firsts: u64,
    pub norms: u64,
}

/// What `lacuna_measure_norms` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_measure_norms_args {
    pub header: lacuna_header,
    /// The cache, with values.
    pub cache: lacuna_kv,
    /// Optional, u32 `[batch]`: the first row of each request that is measured; else 0.
    pub firsts: lacuna_view,
    /// f32 `[batch, n_heads, n_tokens]`; what lies before the first row or past the length stays what it was.
    pub norms: lacuna_view_mut,
}

structs! {
    lacuna_measure_norms_shape: 40,
    lacuna_measure_norms_sizes: 24,
    lacuna_measure_norms_args: 160,
}

/// A plan of `lacuna_measure_norms`: for any device, and any number of launches at once.
pub struct lacuna_measure_norms_plan {
    plan: NormsPlan,
    dtype: u32,
}

impl lacuna_measure_norms_plan {
    /// # Safety
    /// The shape's struct is the caller's.
    unsafe fn new(shape: &lacuna_measure_norms_shape) -> Outcome<Self> {
        check_reserved("lacuna_measure_norms_shape", shape.reserved)?;
        // SAFETY: the caller's word.
        let kv = unsafe { read(shape.kv) }?;
        with_cached!(kv.dtype, "a cache", T => Ok(size_of::<T>()))?;
        let norm = match shape.norm {
            0 => Norm::L1,
            1 => Norm::L2,
            norm => return Err(Failure::number("norm", norm, "lacuna_norm")),
        };
        let usual = NormsShape::of(kv.layout()?);
        let plan = NormsPlan::new(NormsShape {
            n_tokens: or(shape.n_tokens, usual.n_tokens),
            max_new: or(shape.max_new, usual.max_new),
            norm,
            ..usual
        })?;
        Ok(Self { plan, dtype: kv.dtype })
    }

    fn sizes(&self) -> lacuna_measure_norms_sizes {
        lacuna_measure_norms_sizes {
            header: lacuna_header::NONE,
            firsts: self.plan.shape().layout.shape().batch,
            norms: self.plan.norms_len(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_measure_norms_plan_new(
    shape: *const lacuna_measure_norms_shape,
    plan: *mut *mut lacuna_measure_norms_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_measure_norms_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_measure_norms_plan_free(plan: *mut lacuna_measure_norms_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_measure_norms_plan_sizes(
    plan: *const lacuna_measure_norms_plan,
    sizes: *mut lacuna_measure_norms_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Norms of the values of a paged cache, of rows that came since: what CriticalKV multiplies attention by, of values as they are in the cache.
/// `lacuna::quant::measure_norms` says all of it.
///
/// One launch; lengths, page tables and `firsts` are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_measure_norms(
    queue: *const lacuna_queue,
    plan: *const lacuna_measure_norms_plan,
    args: *const lacuna_measure_norms_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let firsts = args.firsts.optional("firsts", queue)?;
        let mut norms = args.norms.of("norms", queue)?;
        with_cached!(plan.dtype, "a cache", T => {
            let plan = &plan.plan;
            let cache = args.cache.of::<T>(&plan.shape().layout, queue)?;
            Ok(crate::quant::measure_norms(queue, plan, &cache, firsts, &mut norms)?)
        })
    })
}
