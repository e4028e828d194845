//! `vote_rows`, `score_votes`.

use super::score::lacuna_score_rows_plan;
use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, read, structs, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::{with_cached, with_real};
use crate::capi::kv::lacuna_kv;
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::select::{
    ScoreInputs, Together, VoteInputs, VoteOutputs, VotePlan, VoteReduction, VoteRule,
};

/// Which query heads vote together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_together {
    /// Each by itself: the softmax.
    LACUNA_TOGETHER_QUERY_HEAD = 0,
    /// Those that share a head of keys (ShadowKV, RetroInfer).
    LACUNA_TOGETHER_GROUP = 1,
    /// All (TokenSelect).
    LACUNA_TOGETHER_ALL = 2,
}

/// What becomes of their softmaxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_vote_reduction {
    /// The sum, of ascending heads.
    LACUNA_VOTE_SUM = 0,
    /// The maximum.
    LACUNA_VOTE_MAX = 1,
}

/// How heads vote.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_vote_rows_shape {
    pub header: lacuna_header,
    /// Elements from one row of votes to the next, at least the rows that are scored; 0 is those.
    pub stride: u64,
    /// A `lacuna_together`.
    pub together: u32,
    /// A `lacuna_vote_reduction`.
    pub reduction: u32,
    /// The type of votes: bf16, f16 or f32.
    pub vote_dtype: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_vote_rows_args` and `lacuna_score_votes_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_vote_rows_sizes {
    pub header: lacuna_header,
    pub queries: u64,
    pub scores: u64,
    pub softmaxes: u64,
    pub lengths: u64,
    pub skips: u64,
    pub votes: u64,
    /// 1 where `lacuna_score_votes` takes the plan: the scores of the heads that vote together fit on chip, and a vote is not of single
    /// query heads; else 0.
    pub fits_on_chip: u64,
}

/// What `lacuna_vote_rows` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_vote_rows_args {
    pub header: lacuna_header,
    /// `[batch, n_q_heads, n]`, as `lacuna_score_rows` leaves them.
    pub scores: lacuna_view,
    /// u64 `[batch, n_q_heads]`, the same.
    pub softmaxes: lacuna_view,
    /// u32 `[batch]`: tokens of each request.
    pub lengths: lacuna_view,
    /// Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: lacuna_view,
    /// `[batch, n_q_heads or n_heads or 1, n]` of the shape's type, rows `stride` elements apart. What a request has no rows for stays what it was.
    pub votes: lacuna_view_mut,
}

/// What `lacuna_score_votes` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_score_votes_args {
    pub header: lacuna_header,
    /// `[batch, n_q_heads, head_dim]`, as of `lacuna_score_rows_args`.
    pub queries: lacuna_view,
    /// The cache of keys, or of what stands for several; values are not read.
    pub cache: lacuna_kv,
    /// Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: lacuna_view,
    /// As of `lacuna_vote_rows_args`.
    pub votes: lacuna_view_mut,
    /// Optional, as of `lacuna_score_rows_args`.
    pub scores: lacuna_view_mut,
}

structs! {
    lacuna_vote_rows_shape: 32,
    lacuna_vote_rows_sizes: 64,
    lacuna_vote_rows_args: 128,
    lacuna_score_votes_args: 208,
}

/// A plan of `lacuna_vote_rows` and `lacuna_score_votes`: for any device, and any number of launches at once.
pub struct lacuna_vote_rows_plan {
    plan: VotePlan,
    query_dtype: u32,
    key_dtype: u32,
    score_dtype: u32,
    vote_dtype: u32,
}

impl lacuna_vote_rows_plan {
    fn new(score: &lacuna_score_rows_plan, shape: &lacuna_vote_rows_shape) -> Outcome<Self> {
        check_reserved("lacuna_vote_rows_shape", shape.reserved)?;
        let vote_dtype = shape.vote_dtype;
        with_real!(vote_dtype, "votes", V => Ok(size_of::<V>()))?;
        let together = match shape.together {
            0 => Together::QueryHead,
            1 => Together::Group,
            2 => Together::All,
            together => return Err(Failure::number("together", together, "lacuna_together")),
        };
        let reduction = match shape.reduction {
            0 => VoteReduction::Sum,
            1 => VoteReduction::Max,
            reduction => {
                return Err(Failure::number("reduction", reduction, "lacuna_vote_reduction"));
            }
        };
        let stride = or(shape.stride, score.plan.shape().n);
        let lacuna_score_rows_plan { plan, query_dtype, key_dtype, score_dtype } = *score;
        let plan = VotePlan::new(&plan, VoteRule { together, reduction, stride })?;
        Ok(Self { plan, query_dtype, key_dtype, score_dtype, vote_dtype })
    }

    fn sizes(&self) -> lacuna_vote_rows_sizes {
        let (plan, score) = (&self.plan, self.plan.score());
        lacuna_vote_rows_sizes {
            header: lacuna_header::NONE,
            queries: score.queries_len(),
            scores: score.scores_len(),
            softmaxes: score.n_softmaxes(),
            lengths: score.batch(),
            skips: score.batch(),
            votes: plan.votes_len(),
            fits_on_chip: score.fits_on_chip(plan).into(),
        }
    }
}

/// Makes a plan for what a plan of `lacuna_score_rows` scores, which may be freed before it: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE` for scores of reduced groups, and for what is too large.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_vote_rows_plan_new(
    scores: *const lacuna_score_rows_plan,
    shape: *const lacuna_vote_rows_shape,
    plan: *mut *mut lacuna_vote_rows_plan,
) -> lacuna_status {
    // SAFETY: the caller's handle, struct and variable.
    answer(|| unsafe {
        give("plan", plan, || lacuna_vote_rows_plan::new(borrow("scores", scores)?, &read(shape)?))
    })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_vote_rows_plan_free(plan: *mut lacuna_vote_rows_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_vote_rows_plan_sizes(
    plan: *const lacuna_vote_rows_plan,
    sizes: *mut lacuna_vote_rows_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Each token's weight in the softmaxes over the context of some query heads: their sum or maximum (TokenSelect, ShadowKV).
/// `lacuna::select::vote_rows` says all of it.
///
/// One launch; lengths and skips are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_vote_rows(
    queue: *const lacuna_queue,
    plan: *const lacuna_vote_rows_plan,
    args: *const lacuna_vote_rows_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        with_real!(plan.score_dtype, "scores", S => {
            let inputs = VoteInputs::<S> {
                scores: args.scores.of("scores", queue)?,
                softmaxes: args.softmaxes.of("softmaxes", queue)?,
                lengths: args.lengths.of("lengths", queue)?,
                skips: args.skips.optional("skips", queue)?,
            };
            with_real!(plan.vote_dtype, "votes", V => {
                let mut votes = args.votes.of::<V>("votes", queue)?;
                Ok(crate::select::vote_rows(queue, &plan.plan, &inputs, &mut votes)?)
            })
        })
    })
}

/// `lacuna_score_rows` and then `lacuna_vote_rows`, the scores on chip between them: the same bits. Of plans whose sizes say `fits_on_chip`, and
/// for as many votes as fill a device. `lacuna::select::score_votes` says all of it.
///
/// One launch; lengths, page tables and skips are read on the device.
///
/// Errors: those of `lacuna_score_rows`; `LACUNA_RANGE` for what does not fit on chip.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_score_votes(
    queue: *const lacuna_queue,
    plan: *const lacuna_vote_rows_plan,
    args: *const lacuna_score_votes_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let skips = args.skips.optional("skips", queue)?;
        with_real!(plan.query_dtype, "queries", Q => {
            with_cached!(plan.key_dtype, "keys", K => {
                let inputs = ScoreInputs::<Q, K> {
                    queries: args.queries.of("queries", queue)?,
                    cache: args.cache.of(&plan.plan.score().shape().layout, queue)?,
                    skips,
                };
                with_real!(plan.score_dtype, "scores", S => {
                    with_real!(plan.vote_dtype, "votes", V => {
                        let mut outputs = VoteOutputs::<S, V> {
                            votes: args.votes.of("votes", queue)?,
                            scores: args.scores.optional("scores", queue)?,
                        };
                        Ok(crate::select::score_votes(queue, &plan.plan, &inputs, &mut outputs)?)
                    })
                })
            })
        })
    })
}
