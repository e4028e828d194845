//! `attend_low_rank`.

use super::attend::{lacuna_attend_args, lacuna_attend_plan, lacuna_attend_shape};
use super::logits::turn;
use crate::attention::{LowRank, LowRankPlan, LowRankShape};
use crate::capi::abi::{borrow, check_reserved, free, give, lacuna_header, read, structs, write};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::{with_half, with_real};
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::lacuna_view;

/// Sizes of `lacuna_attend_low_rank`: which keys are made, and of what.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_low_rank_shape {
    pub header: lacuna_header,
    /// All the rest, with heads of up to 128 elements.
    pub attend: *const lacuna_attend_shape,
    /// The segment whose keys are made: one of blocks.
    pub segment: u64,
    /// Elements of a row of factors: a multiple of 16, up to 256 (ShadowKV: 160).
    pub rank: u64,
    /// Rows of factors of a request: tokens past them are absent.
    pub n_factors: u64,
    /// A `lacuna_turn`.
    pub turn: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_attend_low_rank_args`, by the same names; those of `attend` are `lacuna_attend_plan_sizes` of
/// `lacuna_attend_low_rank_plan_attend`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_low_rank_sizes {
    pub header: lacuna_header,
    pub factors: u64,
    pub basis: u64,
    pub cos_sin: u64,
    pub value_indices: u64,
}

/// What `lacuna_attend_low_rank` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_low_rank_args {
    pub header: lacuna_header,
    /// All the rest. The cache of the segment has values where the lists say, and keys that nothing reads (its values' view will do); its
    /// lengths say how many tokens a request has, with `value_indices` also more than it has rows.
    pub attend: *const lacuna_attend_args,
    /// `[batch, n_factors, rank]` of the keys' dtype, from a multiple of 16 bytes on: a row for each token, before it is turned.
    pub factors: lacuna_view,
    /// `[batch, n_heads, head_dim, rank]`, the same.
    pub basis: lacuna_view,
    /// f32 `[n_factors, head_dim]`, from a multiple of 8 bytes on: cosines of each position's angles, and then their sines; none
    /// where keys are not turned.
    pub cos_sin: lacuna_view,
    /// Optional, i32: of each of the segment's blocks, the block of its cache where its values are, as `lacuna_tier_resolve` gives
    /// slots; else the same block.
    pub value_indices: lacuna_view,
}

structs! {
    lacuna_attend_low_rank_shape: 48,
    lacuna_attend_low_rank_sizes: 40,
    lacuna_attend_low_rank_args: 112,
}

/// A plan of `lacuna_attend_low_rank`: for any device, and any number of launches at once, each with a workspace of its own.
pub struct lacuna_attend_low_rank_plan {
    plan: LowRankPlan,
    attend: lacuna_attend_plan,
}

impl lacuna_attend_low_rank_plan {
    /// # Safety
    /// The caller's structs.
    unsafe fn new(shape: &lacuna_attend_low_rank_shape) -> Outcome<Self> {
        check_reserved("lacuna_attend_low_rank_shape", shape.reserved)?;
        // SAFETY: the caller's structs.
        let attend = unsafe { read(shape.attend)?.plan() }?;
        let low_rank = LowRankShape {
            segment: shape.segment,
            rank: shape.rank,
            n_factors: shape.n_factors,
            turn: turn(shape.turn)?,
        };
        let plan = LowRankPlan::new(attend.plan, low_rank)?;
        Ok(Self { plan, attend: lacuna_attend_plan { plan: *plan.attend(), ..attend } })
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: those of `lacuna_attend_plan_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_low_rank_plan_new(
    shape: *const lacuna_attend_low_rank_shape,
    plan: *mut *mut lacuna_attend_low_rank_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_attend_low_rank_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_low_rank_plan_free(plan: *mut lacuna_attend_low_rank_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// What says all but how keys are made, for `lacuna_attend_plan_sizes`: a part of the plan, which ends with it. Null of null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_low_rank_plan_attend(
    plan: *const lacuna_attend_low_rank_plan,
) -> *const lacuna_attend_plan {
    // SAFETY: the caller's handle.
    unsafe { plan.as_ref() }.map_or(std::ptr::null(), |plan| &raw const plan.attend)
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_low_rank_plan_sizes(
    plan: *const lacuna_attend_low_rank_plan,
    sizes: *mut lacuna_attend_low_rank_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plan = &borrow("plan", plan)?.plan;
        let found = lacuna_attend_low_rank_sizes {
            header: lacuna_header::NONE,
            factors: plan.factors_len(),
            basis: plan.basis_len(),
            cos_sin: plan.cos_sin_len(),
            value_indices: plan.value_indices_len(),
        };
        write(sizes, &found)
    })
}

/// As `lacuna_attend`, but that the keys of one segment of blocks are not stored: they are made on chip of factors of low rank, turned
/// by their positions, and never written (ShadowKV). `lacuna::attention::attend_low_rank` says all of it.
///
/// One launch.
///
/// Errors: those of `lacuna_attend`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_low_rank(
    queue: *const lacuna_queue,
    plan: *const lacuna_attend_low_rank_plan,
    args: *const lacuna_attend_low_rank_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, structs and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let attend = read(args.attend)?;
        with_half!(plan.attend.dtype, "queries", T => {
            let segments = attend.segments::<T>(plan.plan.attend(), queue)?;
            let inputs = attend.inputs(&segments, queue)?;
            let low_rank = LowRank::<T> {
                factors: args.factors.of("factors", queue)?,
                basis: args.basis.of("basis", queue)?,
                cos_sin: args.cos_sin.optional("cos_sin", queue)?,
                value_indices: args.value_indices.optional("value_indices", queue)?,
            };
            with_real!(plan.attend.output_dtype, "outputs", O => {
                let mut outputs = attend.outputs::<O>(queue)?;
                let (plan, outputs) = (&plan.plan, &mut outputs);
                Ok(crate::attention::attend_low_rank(queue, plan, &inputs, &low_rank, outputs)?)
            })
        })
    })
}
