//! `score_rows`.

use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, or_f32, read, structs, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::{with_cached, with_real};
use crate::capi::kv::{lacuna_kv, lacuna_kv_shape};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::select::{
    GroupReduction, ScoreInputs, ScoreOutputs, ScorePlan, ScoreShape, SoftmaxOutputs,
};

/// What a query is scored against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_score_kind {
    /// The inner product with a row: a key, a mean, a centroid.
    LACUNA_SCORE_DOT = 0,
    /// The greatest inner product with anything in the box of a row, of which the first half is the minimum and the second the maximum of
    /// each channel (Quest).
    LACUNA_SCORE_BOX = 1,
}

/// What becomes of the scores of the query heads that share a head of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_group_reduction {
    /// One row of scores for each query head.
    LACUNA_GROUP_NONE = 0,
    /// Their maximum; NaN counts for nothing.
    LACUNA_GROUP_MAX = 1,
    /// Their sum, of ascending heads.
    LACUNA_GROUP_SUM = 2,
    /// Their sum times one over their number.
    LACUNA_GROUP_MEAN = 3,
}

/// Sizes of `lacuna_score_rows`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_score_rows_shape {
    pub header: lacuna_header,
    /// The cache of keys, or of summaries; rows of 512 elements at most.
    pub kv: *const lacuna_kv_shape,
    /// Query heads: 1 to 16 for each head of keys.
    pub n_q_heads: u64,
    /// Elements from one request's queries to the next's; 0 is those of its heads.
    pub query_stride: u64,
    /// Rows of a request that are scored, at most, below 2^24; 0 is all that the page table holds.
    pub n: u64,
    /// Elements from one row of scores to the next, at least `n`; 0 is `n`.
    pub score_stride: u64,
    /// A `lacuna_score_kind`.
    pub kind: u32,
    /// A `lacuna_group_reduction`.
    pub reduction: u32,
    /// The type of queries: bf16, f16 or f32.
    pub query_dtype: u32,
    /// The type of scores, the same.
    pub score_dtype: u32,
    /// What scores are multiplied by in softmaxes; 0 is one over the root of the head's dimension.
    pub softmax_scale: f32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_score_rows_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_score_rows_sizes {
    pub header: lacuna_header,
    pub queries: u64,
    pub skips: u64,
    pub scores: u64,
    pub softmaxes: u64,
    pub workspace: u64,
}

/// What `lacuna_score_rows` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_score_rows_args {
    pub header: lacuna_header,
    /// `[batch, n_q_heads, head_dim]` of the shape's type, requests `query_stride` elements apart.
    pub queries: lacuna_view,
    /// The cache of keys, or of what stands for several; values are not read.
    pub cache: lacuna_kv,
    /// Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: lacuna_view,
    /// `[batch, n_q_heads, n]` of the shape's type, of reduced groups `[batch, n_heads, n]`, rows `score_stride` elements apart. What a request
    /// has no rows for stays what it was.
    pub scores: lacuna_view_mut,
    /// Optional, u64 `[batch, n_q_heads]`: softmaxes over the scores as they are stored, for `lacuna_vote_rows`.
    pub softmaxes: lacuna_view_mut,
    /// With `softmaxes` alone, u64, from a multiple of 16 bytes on: zeros before the first launch, and used by one launch at a time;
    /// every launch leaves it ready.
    pub workspace: lacuna_view_mut,
}

structs! {
    lacuna_score_rows_shape: 72,
    lacuna_score_rows_sizes: 48,
    lacuna_score_rows_args: 232,
}

/// A plan of `lacuna_score_rows`: for any device, and any number of launches at once.
pub struct lacuna_score_rows_plan {
    pub(super) plan: ScorePlan,
    pub(super) query_dtype: u32,
    pub(super) key_dtype: u32,
    pub(super) score_dtype: u32,
}

impl lacuna_score_rows_plan {
    /// # Safety
    /// The shape's struct is the caller's.
    unsafe fn new(shape: &lacuna_score_rows_shape) -> Outcome<Self> {
        check_reserved("lacuna_score_rows_shape", shape.reserved)?;
        // SAFETY: the caller's word.
        let kv = unsafe { read(shape.kv) }?;
        let (query_dtype, score_dtype) = (shape.query_dtype, shape.score_dtype);
        with_real!(query_dtype, "queries", Q => Ok(size_of::<Q>()))?;
        with_cached!(kv.dtype, "keys", K => Ok(size_of::<K>()))?;
        with_real!(score_dtype, "scores", S => Ok(size_of::<S>()))?;
        let (layout, n_q_heads) = (kv.layout()?, shape.n_q_heads);
        let usual = match shape.kind {
            0 => ScoreShape::of(layout, n_q_heads),
            1 => ScoreShape::of_boxes(layout, n_q_heads),
            kind => return Err(Failure::number("kind", kind, "lacuna_score_kind")),
        };
        let reduction = match shape.reduction {
            0 => GroupReduction::None,
            1 => GroupReduction::Max,
            2 => GroupReduction::Sum,
            3 => GroupReduction::Mean,
            reduction => {
                return Err(Failure::number("reduction", reduction, "lacuna_group_reduction"));
            }
        };
        let n = or(shape.n, usual.n);
        let plan = ScorePlan::new(ScoreShape {
            query_stride: or(shape.query_stride, usual.query_stride),
            n,
            score_stride: or(shape.score_stride, n),
            reduction,
            softmax_scale: or_f32(shape.softmax_scale, usual.softmax_scale),
            ..usual
        })?;
        Ok(Self { plan, query_dtype, key_dtype: kv.dtype, score_dtype })
    }

    fn sizes(&self) -> lacuna_score_rows_sizes {
        let plan = &self.plan;
        lacuna_score_rows_sizes {
            header: lacuna_header::NONE,
            queries: plan.queries_len(),
            skips: plan.batch(),
            scores: plan.scores_len(),
            softmaxes: plan.n_softmaxes(),
            workspace: plan.workspace_len(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_score_rows_plan_new(
    shape: *const lacuna_score_rows_shape,
    plan: *mut *mut lacuna_score_rows_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_score_rows_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_score_rows_plan_free(plan: *mut lacuna_score_rows_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_score_rows_plan_sizes(
    plan: *const lacuna_score_rows_plan,
    sizes: *mut lacuna_score_rows_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Scores a query's heads against the rows of a paged cache: keys, or what stands for several. `lacuna::select::score_rows` says all of it.
///
/// One launch; lengths, page tables and skips are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_score_rows(
    queue: *const lacuna_queue,
    plan: *const lacuna_score_rows_plan,
    args: *const lacuna_score_rows_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let skips = args.skips.optional("skips", queue)?;
        let softmax = match args.softmaxes.optional("softmaxes", queue)? {
            None => None,
            Some(softmaxes) => {
                let workspace = args.workspace.of("workspace", queue)?;
                Some(SoftmaxOutputs { softmaxes, workspace })
            }
        };
        with_real!(plan.query_dtype, "queries", Q => {
            with_cached!(plan.key_dtype, "keys", K => {
                let inputs = ScoreInputs::<Q, K> {
                    queries: args.queries.of("queries", queue)?,
                    cache: args.cache.of(&plan.plan.shape().layout, queue)?,
                    skips,
                };
                with_real!(plan.score_dtype, "scores", S => {
                    let scores = args.scores.of::<S>("scores", queue)?;
                    let mut outputs = ScoreOutputs { scores, softmax };
                    Ok(crate::select::score_rows(queue, &plan.plan, &inputs, &mut outputs)?)
                })
            })
        })
    })
}
