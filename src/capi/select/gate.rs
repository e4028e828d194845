//! `gate_selection`.

use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, read, structs, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::with_real;
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::select::{GateInputs, GateOutputs, GatePlan, GateShape};

/// Sizes of `lacuna_gate_selection`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_gate_selection_shape {
    pub header: lacuna_header,
    /// Requests, below 2^31.
    pub batch: u64,
    /// Elements of a query, all its heads': a multiple of 8, 64 KiB at most.
    pub n: u64,
    /// Elements between the starts of two queries, a multiple of 8 and at least `n`; 0 is `n`.
    pub query_stride: u64,
    /// The same of the cached queries.
    pub cached_stride: u64,
    /// Rows of a request, each with a word of `skips`: 1, or its heads of keys; 0 is 1.
    pub rows_per_request: u64,
    /// The type of queries: bf16, f16 or f32.
    pub dtype: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_gate_selection_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_gate_selection_sizes {
    pub header: lacuna_header,
    pub queries: u64,
    pub forced: u64,
    pub thetas: u64,
    pub cached: u64,
    pub states: u64,
    pub skips: u64,
    pub cosines: u64,
}

/// What `lacuna_gate_selection` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_gate_selection_args {
    pub header: lacuna_header,
    /// `[batch, n]` of the shape's dtype, rows `query_stride` elements apart, from a multiple of 16 bytes on.
    pub queries: lacuna_view,
    /// Optional, u32 `[batch]`: requests where it is not 0 select again, whatever is cached: a new request in its place, say.
    pub forced: lacuna_view,
    /// Optional, f32 `[batch]`: the least cosine of each request; else `theta`.
    pub thetas: lacuna_view,
    /// The least cosine with which a cached selection is used again. Infinity, and NaN: never. TokenSelect's is 0.9.
    pub theta: f32,
    /// 0.
    pub reserved: u32,
    /// `[batch, n]` of the shape's dtype, read and written, rows `cached_stride` elements apart, from a multiple of 16 bytes on: the queries that
    /// made the cached selections. Anything where `states` is 0.
    pub cached: lacuna_view_mut,
    /// u32 `[batch]`, read and written: 0 where there is no cached selection yet. Zeros before the first launch; ones after.
    pub states: lacuna_view_mut,
    /// u32 `[batch, rows_per_request]`: 1 where the cached selection may be used, 0 where it must be made.
    pub skips: lacuna_view_mut,
    /// Optional, f32 `[batch]`: the cosines; NaN where there is none.
    pub cosines: lacuna_view_mut,
}

structs! {
    lacuna_gate_selection_shape: 56,
    lacuna_gate_selection_sizes: 64,
    lacuna_gate_selection_args: 184,
}

/// A plan of `lacuna_gate_selection`: for any device, and any number of launches at once.
pub struct lacuna_gate_selection_plan {
    plan: GatePlan,
    dtype: u32,
}

impl lacuna_gate_selection_plan {
    fn new(shape: &lacuna_gate_selection_shape) -> Outcome<Self> {
        check_reserved("lacuna_gate_selection_shape", shape.reserved)?;
        let dtype = shape.dtype;
        let plan = GatePlan::new(GateShape {
            batch: shape.batch,
            n: shape.n,
            query_stride: or(shape.query_stride, shape.n),
            cached_stride: or(shape.cached_stride, shape.n),
            rows_per_request: or(shape.rows_per_request, 1),
            element_bytes: with_real!(dtype, "queries", T => Ok(size_of::<T>() as u32))?,
        })?;
        Ok(Self { plan, dtype })
    }

    fn sizes(&self) -> lacuna_gate_selection_sizes {
        let (plan, batch) = (&self.plan, self.plan.shape().batch);
        lacuna_gate_selection_sizes {
            header: lacuna_header::NONE,
            queries: plan.queries_len(),
            forced: batch,
            thetas: batch,
            cached: plan.cached_len(),
            states: batch,
            skips: plan.skips_len(),
            cosines: batch,
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_selection_plan_new(
    shape: *const lacuna_gate_selection_shape,
    plan: *mut *mut lacuna_gate_selection_plan,
) -> lacuna_status {
    // SAFETY: the caller's struct and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_gate_selection_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_selection_plan_free(plan: *mut lacuna_gate_selection_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_selection_plan_sizes(
    plan: *const lacuna_gate_selection_plan,
    sizes: *mut lacuna_gate_selection_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Says which requests may use the selection that they have, and caches the queries of the others: those whose query is like the one that made the
/// selection (TokenSelect). `lacuna::select::gate_selection` says all of it. What selects takes `skips`.
///
/// One launch; thresholds, states and what is forced are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_selection(
    queue: *const lacuna_queue,
    plan: *const lacuna_gate_selection_plan,
    args: *const lacuna_gate_selection_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        check_reserved("lacuna_gate_selection_args", args.reserved)?;
        with_real!(plan.dtype, "queries", T => {
            let inputs = GateInputs::<T> {
                queries: args.queries.of("queries", queue)?,
                forced: args.forced.optional("forced", queue)?,
                thetas: args.thetas.optional("thetas", queue)?,
                theta: args.theta,
            };
            let mut outputs = GateOutputs::<T> {
                cached: args.cached.of("cached", queue)?,
                states: args.states.of("states", queue)?,
                skips: args.skips.of("skips", queue)?,
                cosines: args.cosines.optional("cosines", queue)?,
            };
            Ok(crate::select::gate_selection(queue, &plan.plan, &inputs, &mut outputs)?)
        })
    })
}
