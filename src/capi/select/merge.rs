//! `merge_rows`.

use crate::capi::abi::{borrow, free, give, lacuna_header, read, structs, write};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::with_half;
use crate::capi::kv::{lacuna_kv_mut, lacuna_kv_shape};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::select::{MergeInputs, MergePlan, MergeState, MergeWeights};

/// How a kept row and those merged into it are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_merge_weights {
    /// The paper's: exp(similarity) of each, the kept row's similarity being 1, over their sum.
    LACUNA_MERGE_SOFTMAX = 0,
    /// The released code's: rows times their similarity, the kept row as it is, over how many there are.
    LACUNA_MERGE_RELEASED = 1,
}

/// Sizes of `lacuna_merge_rows`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_merge_rows_shape {
    pub header: lacuna_header,
    /// The cache: bf16 or f16, rows of 256 elements at most.
    pub kv: *const lacuna_kv_shape,
    /// Tokens of a list of those evicted.
    pub n_evicted: u64,
    /// Tokens of a list of those kept.
    pub n_kept: u64,
}

/// Elements of each view of `lacuna_merge_rows_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_merge_rows_sizes {
    pub header: lacuna_header,
    pub evicted: u64,
    pub kept: u64,
    pub nearest: u64,
    pub similarities: u64,
    pub thresholds: u64,
}

/// What `lacuna_merge_rows` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_merge_rows_args {
    pub header: lacuna_header,
    /// i32 `[batch, n_heads, n_evicted]`: tokens to be merged; numbers of no token are skipped.
    pub evicted: lacuna_view,
    /// i32 `[batch, n_heads, n_kept]`: tokens that stay. None may be evicted too, nor may heads share a row.
    pub kept: lacuna_view,
    /// What an old threshold is multiplied by, 0 to 1; the released code's is 0.5.
    pub decay: f32,
    /// A `lacuna_merge_weights`.
    pub weights: u32,
    /// Whose kept rows are written; with values, which are merged as keys are, or without.
    pub cache: lacuna_kv_mut,
    /// i32 `[batch, n_heads, n_evicted]`: the place in `kept` of each evicted token's nearest, or -1.
    pub nearest: lacuna_view_mut,
    /// f32 `[batch, n_heads, n_evicted]`: how near it is, from -1 to 1.
    pub similarities: lacuna_view_mut,
    /// f32 `[batch, n_heads]`, read and written: how near a token must be to be merged. NaN before a request's first step.
    pub thresholds: lacuna_view_mut,
}

structs! {
    lacuna_merge_rows_shape: 32,
    lacuna_merge_rows_sizes: 48,
    lacuna_merge_rows_args: 232,
}

/// A plan of `lacuna_merge_rows`: for any device, and any number of launches at once.
pub struct lacuna_merge_rows_plan {
    plan: MergePlan,
    dtype: u32,
}

impl lacuna_merge_rows_plan {
    /// # Safety
    /// The shape's struct is the caller's.
    unsafe fn new(shape: &lacuna_merge_rows_shape) -> Outcome<Self> {
        // SAFETY: the caller's word.
        let kv = unsafe { read(shape.kv) }?;
        with_half!(kv.dtype, "a cache to merge rows of", T => Ok(size_of::<T>()))?;
        let plan = MergePlan::new(kv.layout()?, shape.n_evicted, shape.n_kept)?;
        Ok(Self { plan, dtype: kv.dtype })
    }

    fn sizes(&self) -> lacuna_merge_rows_sizes {
        let plan = &self.plan;
        lacuna_merge_rows_sizes {
            header: lacuna_header::NONE,
            evicted: plan.evicted_len(),
            kept: plan.kept_len(),
            nearest: plan.evicted_len(),
            similarities: plan.evicted_len(),
            thresholds: plan.n_lists(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge_rows_plan_new(
    shape: *const lacuna_merge_rows_shape,
    plan: *mut *mut lacuna_merge_rows_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_merge_rows_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge_rows_plan_free(plan: *mut lacuna_merge_rows_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge_rows_plan_sizes(
    plan: *const lacuna_merge_rows_plan,
    sizes: *mut lacuna_merge_rows_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Merges evicted tokens into the kept ones that their keys are nearest to (D2O). `lacuna::select::merge_rows` says all of it.
///
/// Three launches; lists, lengths and page tables are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge_rows(
    queue: *const lacuna_queue,
    plan: *const lacuna_merge_rows_plan,
    args: *const lacuna_merge_rows_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let weights = match args.weights {
            0 => MergeWeights::Softmax,
            1 => MergeWeights::Released,
            weights => return Err(Failure::number("weights", weights, "lacuna_merge_weights")),
        };
        let inputs = MergeInputs {
            evicted: args.evicted.of("evicted", queue)?,
            kept: args.kept.of("kept", queue)?,
            decay: args.decay,
            weights,
        };
        let mut state = MergeState {
            nearest: args.nearest.of("nearest", queue)?,
            similarities: args.similarities.of("similarities", queue)?,
            thresholds: args.thresholds.of("thresholds", queue)?,
        };
        with_half!(plan.dtype, "a cache to merge rows of", T => {
            let mut cache = args.cache.of::<T>(plan.plan.layout(), queue)?;
            Ok(crate::select::merge_rows(queue, &plan.plan, &inputs, &mut state, &mut cache)?)
        })
    })
}
