//! `merge_partials` and `merge_partials_in_place`, of one plan.

use super::logits::{base, order};
use crate::Error;
use crate::attention::{MergeOutputs, MergePlan, MergeShape, MergeTarget, Partial, PartialShape};
use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, read, read_array, structs, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::{self, with_real};
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::element::Real;
use crate::queue::Queue;

/// How a part lies.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_partial_shape {
    pub header: lacuna_header,
    /// Elements from token to token of its outputs, at least all heads'; 0 is all heads'.
    pub stride: u64,
    /// A `lacuna_log_sum_order`, whatever that of the others is.
    pub log_sum_order: u32,
    /// 0.
    pub reserved: u32,
}

/// Sizes of `lacuna_merge_partials` and `lacuna_merge_partials_in_place`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_merge_partials_shape {
    pub header: lacuna_header,
    /// 1 to 8 parts; in place the 1 to 7 beside the target.
    pub parts: *const lacuna_partial_shape,
    pub n_parts: u64,
    /// Tokens that attended: of all requests, and queries of each.
    pub n_tokens: u64,
    /// Queries of each request, for `LACUNA_LOG_SUMS_BATCH_HEADS_QUERIES` alone; 0 is 1.
    pub n_queries: u64,
    /// Query heads.
    pub n_heads: u64,
    /// Elements of a head: a multiple of 8, up to 1,024.
    pub head_dim: u64,
    /// Elements from token to token of the outputs, at least all heads'; 0 is all heads'.
    pub output_stride: u64,
    /// A `lacuna_log_sum_order`: of the outputs; in place, of the target.
    pub log_sum_order: u32,
    /// A `lacuna_log_base`: of all log-sum-exps, the parts' and the outputs'.
    pub log_base: u32,
    /// The type of the parts' outputs: bf16, f16 or f32.
    pub dtype: u32,
    /// The type of outputs, the same; 0 is that of the parts, which it is in place.
    pub output_dtype: u32,
}

/// Elements of each view of `lacuna_merge_partials_args` and `lacuna_merge_partials_in_place_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_merge_partials_sizes {
    pub header: lacuna_header,
    pub outputs: u64,
    pub log_sums: u64,
    /// In place alone.
    pub mask: u64,
}

/// Elements of each view of a `lacuna_partial`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_partial_sizes {
    pub header: lacuna_header,
    pub outputs: u64,
    pub log_sums: u64,
    pub mask: u64,
}

/// A partial result of attention: over tokens that no other part has.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_partial {
    pub header: lacuna_header,
    /// `[n_tokens, n_heads, head_dim]` of the shape's dtype, tokens the part's stride apart.
    pub outputs: lacuna_view,
    /// f32 `[n_tokens, n_heads]`, or in the part's order; infinite where there is nothing.
    pub log_sums: lacuna_view,
    /// Optional, u32 `[n_tokens]`: where it is 0 the part has nothing for a token, and nothing of it is read.
    pub mask: lacuna_view,
}

/// What `lacuna_merge_partials` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_merge_partials_args {
    pub header: lacuna_header,
    /// As many as the shape has, in its order.
    pub parts: *const lacuna_partial,
    pub n_parts: u64,
    /// `[n_tokens, n_heads, head_dim]` of the shape's output dtype, tokens `output_stride` elements apart.
    pub outputs: lacuna_view_mut,
    /// Optional, f32 `[n_tokens, n_heads]`, or in the shape's order: the log-sum-exp over all parts.
    pub log_sums: lacuna_view_mut,
}

/// What `lacuna_merge_partials_in_place` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_merge_partials_in_place_args {
    pub header: lacuna_header,
    /// The parts beside the target: as many as the shape has, in its order.
    pub parts: *const lacuna_partial,
    pub n_parts: u64,
    /// Optional, u32 `[n_tokens]`: where it is 0 the target has nothing yet.
    pub mask: lacuna_view,
    /// The target, the first part before and the result after: `[n_tokens, n_heads, head_dim]` of the shape's dtype, tokens `output_stride`
    /// elements apart.
    pub outputs: lacuna_view_mut,
    /// f32 `[n_tokens, n_heads]`, or in the shape's order, before as after.
    pub log_sums: lacuna_view_mut,
}

structs! {
    lacuna_partial_shape: 24,
    lacuna_merge_partials_shape: 80,
    lacuna_merge_partials_sizes: 32,
    lacuna_partial_sizes: 32,
    lacuna_partial: 80,
    lacuna_merge_partials_args: 72,
    lacuna_merge_partials_in_place_args: 96,
}

/// A plan of `lacuna_merge_partials` and `lacuna_merge_partials_in_place`: for any device, and any number of launches at once.
pub struct lacuna_merge_partials_plan {
    plan: MergePlan,
    dtype: u32,
    output_dtype: u32,
}

impl lacuna_merge_partials_plan {
    /// # Safety
    /// The caller's structs.
    unsafe fn new(shape: &lacuna_merge_partials_shape) -> Outcome<Self> {
        let lacuna_merge_partials_shape { dtype, .. } = *shape;
        let output_dtype = if shape.output_dtype == 0 { dtype } else { shape.output_dtype };
        with_real!(dtype, "parts", T => Ok(size_of::<T>()))?;
        with_real!(output_dtype, "outputs", O => Ok(size_of::<O>()))?;
        let usual = MergeShape::of(shape.n_tokens, shape.n_heads, shape.head_dim);
        // SAFETY: the caller's structs.
        let parts = unsafe { read_array(shape.parts, shape.n_parts) }?;
        let part = |part: &lacuna_partial_shape| {
            check_reserved("lacuna_partial_shape", part.reserved)?;
            Ok(PartialShape {
                stride: or(part.stride, usual.output_stride),
                log_sum_order: order(part.log_sum_order)?,
            })
        };
        let parts = parts.iter().map(part).collect::<Outcome<Vec<_>>>()?;
        let shape = MergeShape {
            n_queries: or(shape.n_queries, 1),
            output_stride: or(shape.output_stride, usual.output_stride),
            log_sum_order: order(shape.log_sum_order)?,
            base: base(shape.log_base)?,
            ..usual
        };
        Ok(Self { plan: MergePlan::new(shape, &parts)?, dtype, output_dtype })
    }
}

/// # Safety
/// The structs and the memory are the caller's as the header's head says.
unsafe fn parts<'a, T: Real>(
    parts: *const lacuna_partial,
    n_parts: u64,
    plan: &MergePlan,
    queue: &Queue,
) -> Outcome<Vec<Partial<'a, T>>> {
    let expected = plan.parts().len() as u64;
    if expected != n_parts {
        return Err(Error::Shape { what: "parts", expected, got: n_parts }.into());
    }
    // SAFETY: the caller's word.
    unsafe {
        let of = |part: lacuna_partial| {
            Ok(Partial {
                outputs: part.outputs.of("outputs of a part", queue)?,
                log_sums: part.log_sums.of("log_sums of a part", queue)?,
                mask: part.mask.optional("mask of a part", queue)?,
            })
        };
        read_array(parts, n_parts)?.into_iter().map(of).collect()
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge_partials_plan_new(
    shape: *const lacuna_merge_partials_shape,
    plan: *mut *mut lacuna_merge_partials_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_merge_partials_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge_partials_plan_free(plan: *mut lacuna_merge_partials_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge_partials_plan_sizes(
    plan: *const lacuna_merge_partials_plan,
    sizes: *mut lacuna_merge_partials_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plan = &borrow("plan", plan)?.plan;
        let found = lacuna_merge_partials_sizes {
            header: lacuna_header::NONE,
            outputs: plan.outputs_len(),
            log_sums: plan.log_sums_len(),
            mask: plan.shape().n_tokens,
        };
        write(sizes, &found)
    })
}

/// How long the views of a part must be, by its place in the shape.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for a part that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge_partials_plan_partial_sizes(
    plan: *const lacuna_merge_partials_plan,
    part: u64,
    sizes: *mut lacuna_partial_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plan = &borrow("plan", plan)?.plan;
        if part >= plan.parts().len() as u64 {
            let (what, allowed) = ("part", "the parts of the plan");
            return Err(Error::Range { what, value: part, allowed }.into());
        }
        let found = lacuna_partial_sizes {
            header: lacuna_header::NONE,
            outputs: plan.partial_len(part as usize),
            log_sums: plan.log_sums_len(),
            mask: plan.shape().n_tokens,
        };
        write(sizes, &found)
    })
}

/// Partial results of attention, each over tokens of its own, as one: of a shared prefix and what follows it, of ranks that have a part of the
/// context each, of hits in a cache and of misses that came later. `lacuna::attention::merge_partials` says all of it.
///
/// One launch; masks are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge_partials(
    queue: *const lacuna_queue,
    plan: *const lacuna_merge_partials_plan,
    args: *const lacuna_merge_partials_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, structs and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        with_real!(plan.dtype, "parts", T => {
            let parts = parts::<T>(args.parts, args.n_parts, &plan.plan, queue)?;
            with_real!(plan.output_dtype, "outputs", O => {
                let mut outputs = MergeOutputs::<O> {
                    outputs: args.outputs.of("outputs", queue)?,
                    log_sums: args.log_sums.optional("log_sums", queue)?,
                };
                let plan = &plan.plan;
                Ok(crate::attention::merge_partials(queue, plan, &parts, &mut outputs)?)
            })
        })
    })
}

/// The same into the first of the parts, which is the target and not in the plan, as FlashInfer's `merge_state_in_place`. Rows to which
/// no other part adds anything are left alone. A launch that is replayed merges again.
///
/// One launch; masks are read on the device.
///
/// Errors: those of `lacuna_merge_partials`; `LACUNA_DTYPE` too of a plan whose outputs are not of the parts' dtype, and `LACUNA_RANGE` of one of 8
/// parts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge_partials_in_place(
    queue: *const lacuna_queue,
    plan: *const lacuna_merge_partials_plan,
    args: *const lacuna_merge_partials_in_place_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, structs and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        if plan.output_dtype != plan.dtype {
            let (found, allowed) = (plan.output_dtype, dtype::name(plan.dtype));
            return Err(dtype::refuse("a target, by the plan", found, &allowed));
        }
        with_real!(plan.dtype, "parts", T => {
            let parts = parts::<T>(args.parts, args.n_parts, &plan.plan, queue)?;
            let mut target = MergeTarget::<T> {
                outputs: args.outputs.of("outputs", queue)?,
                log_sums: args.log_sums.of("log_sums", queue)?,
                mask: args.mask.optional("mask", queue)?,
            };
            let (plan, target) = (&plan.plan, &mut target);
            Ok(crate::attention::merge_partials_in_place(queue, plan, target, &parts)?)
        })
    })
}
