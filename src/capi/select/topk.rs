//! `topk_rows`.

use crate::capi::abi::{borrow, free, give, lacuna_header, or, read, structs, write};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::with_real;
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::select::{Order, Rule, TopkInputs, TopkOutputs, TopkPages, TopkPlan, TopkShape};

/// Which candidates of a row are picked: forced ones first, then larger scores, then lower indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_rule {
    /// As many as there are places.
    LACUNA_RULE_LARGEST = 0,
    /// The fewest whose mass is `amount` of the row's, 0 to 1 (ZipVL).
    LACUNA_RULE_MASS = 1,
    /// All scores that are at least `amount`.
    LACUNA_RULE_AT_LEAST = 2,
    /// All that are not among the lowest `amount` percent, 0 to 100 (LazyLLM).
    LACUNA_RULE_PERCENTILE = 3,
}

/// The order of a row's picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_order {
    /// Ascending indices.
    LACUNA_ORDER_INDEX = 0,
    /// Forced ones by their indices, then descending scores, of equal ones lower indices first.
    LACUNA_ORDER_SCORE = 1,
}

/// Sizes of `lacuna_topk_rows`, and what it picks.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_topk_rows_shape {
    pub header: lacuna_header,
    /// Rows of scores, below 2^31.
    pub n_rows: u64,
    /// Scores of a row: below 2^31, with pages at most 2^26, by mass at most 2^24.
    pub n: u64,
    /// Elements between the starts of two rows, at least `n`; 0 is `n`.
    pub row_stride: u64,
    /// Places for picks in a row, at most 8,192; none where only a mask or a number is asked for.
    pub k: u64,
    /// So many of a row's first candidates come before all others (attention sinks),
    pub n_first: u64,
    /// and so many of its last (the local window).
    pub n_last: u64,
    /// Rows that share a request's length and its entries of the page table, one after the other; 0 is 1.
    pub rows_per_request: u64,
    /// Tokens that a score stands for, in which lengths are; 0 is 1.
    pub tokens_per_score: u64,
    /// The type of scores: bf16, f16 or f32.
    pub dtype: u32,
    /// A `lacuna_rule`,
    pub rule: u32,
    /// and its number.
    pub amount: f32,
    /// A `lacuna_order`.
    pub order: u32,
    /// Pages of the pool that indices are translated to slots of,
    pub n_pages: u64,
    /// indices of a page, 1 to 256, or 0: there are no pages,
    pub page_size: u64,
    /// and entries of the page table from request to request.
    pub table_stride: u64,
}

/// Elements of each view of `lacuna_topk_rows_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_topk_rows_sizes {
    pub header: lacuna_header,
    pub scores: u64,
    pub starts: u64,
    pub lengths: u64,
    pub counts_asked: u64,
    pub skips: u64,
    pub amounts: u64,
    pub page_table: u64,
    pub indices: u64,
    pub counts: u64,
    pub values: u64,
    pub slots: u64,
    pub wanted: u64,
    pub kept: u64,
}

/// What `lacuna_topk_rows` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_topk_rows_args {
    pub header: lacuna_header,
    /// `[n_rows, n]` of the shape's dtype, rows `row_stride` elements apart.
    pub scores: lacuna_view,
    /// Optional, u32 `[n_rows]`: the first candidate of each row; else 0.
    pub starts: lacuna_view,
    /// Optional, u32 `[n_rows / rows_per_request, rounded up]`: tokens of each request; else all from the first on.
    pub lengths: lacuna_view,
    /// Optional, u32 `[n_rows]`: how many to pick and to mark at most; else `k`.
    pub counts_asked: lacuna_view,
    /// Optional, u32 `[n_rows]`: rows where it is not 0 are left alone, their outputs too.
    pub skips: lacuna_view,
    /// Optional, f32 `[n_rows]`: the number of each row's rule; else the shape's.
    pub amounts: lacuna_view,
    /// With pages alone, i32 `[n_rows / rows_per_request, rounded up; table_stride]`: the page of each `page_size` indices.
    pub page_table: lacuna_view,
    /// i32 `[n_rows, k]`: indices into the row, in the order of the shape, then -1; none where `k` is 0.
    pub indices: lacuna_view_mut,
    /// u32 `[n_rows]`: how many were picked.
    pub counts: lacuna_view_mut,
    /// Optional, `[n_rows, k]` of the shape's dtype: the scores at `indices`, then zeros.
    pub values: lacuna_view_mut,
    /// Optional, with pages alone, i32 `[n_rows, k]`: where `indices` are in the pool of pages; -1 where the page is none.
    pub slots: lacuna_view_mut,
    /// Optional, u32 `[n_rows]`: how many the rule wanted.
    pub wanted: lacuna_view_mut,
    /// Optional, u8 `[n_rows, n]`: 1 at each that the rule wants and `counts_asked` allows, else 0. Not bounded by `k`.
    pub kept: lacuna_view_mut,
}

structs! {
    lacuna_topk_rows_shape: 112,
    lacuna_topk_rows_sizes: 112,
    lacuna_topk_rows_args: 320,
}

/// A plan of `lacuna_topk_rows`: for any device, and any number of launches at once.
pub struct lacuna_topk_rows_plan {
    plan: TopkPlan,
    dtype: u32,
}

impl lacuna_topk_rows_plan {
    fn new(shape: &lacuna_topk_rows_shape) -> Outcome<Self> {
        let (dtype, amount) = (shape.dtype, shape.amount);
        let rule = match shape.rule {
            0 => Rule::Largest,
            1 => Rule::Mass { share: amount },
            2 => Rule::AtLeast { least: amount },
            3 => Rule::Percentile { percent: amount },
            rule => return Err(Failure::number("rule", rule, "lacuna_rule")),
        };
        let order = match shape.order {
            0 => Order::Index,
            1 => Order::Score,
            order => return Err(Failure::number("order", order, "lacuna_order")),
        };
        let pages = (shape.page_size > 0).then_some(TopkPages {
            n_pages: shape.n_pages,
            page_size: shape.page_size,
            table_stride: shape.table_stride,
        });
        let shape = TopkShape {
            n_rows: shape.n_rows,
            n: shape.n,
            row_stride: or(shape.row_stride, shape.n),
            k: shape.k,
            n_first: shape.n_first,
            n_last: shape.n_last,
            rows_per_request: or(shape.rows_per_request, 1),
            tokens_per_score: or(shape.tokens_per_score, 1),
            score_bytes: with_real!(dtype, "scores", T => Ok(size_of::<T>() as u32))?,
            rule,
            order,
            pages,
        };
        Ok(Self { plan: TopkPlan::new(shape)?, dtype })
    }

    fn sizes(&self) -> lacuna_topk_rows_sizes {
        let plan = &self.plan;
        let (n_rows, n_picks) = (plan.shape().n_rows, plan.picks_len());
        lacuna_topk_rows_sizes {
            header: lacuna_header::NONE,
            scores: plan.scores_len(),
            starts: n_rows,
            lengths: plan.n_requests(),
            counts_asked: n_rows,
            skips: n_rows,
            amounts: n_rows,
            page_table: plan.table_len(),
            indices: n_picks,
            counts: n_rows,
            values: n_picks,
            slots: n_picks,
            wanted: n_rows,
            kept: plan.mask_len(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_topk_rows_plan_new(
    shape: *const lacuna_topk_rows_shape,
    plan: *mut *mut lacuna_topk_rows_plan,
) -> lacuna_status {
    // SAFETY: the caller's struct and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_topk_rows_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_topk_rows_plan_free(plan: *mut lacuna_topk_rows_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_topk_rows_plan_sizes(
    plan: *const lacuna_topk_rows_plan,
    sizes: *mut lacuna_topk_rows_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Picks the first scores of each row, exactly: the largest, the fewest that have a share of the row's mass, those above a
/// threshold or a percentile. Ties go to the lower index, NaN comes last; `lacuna::select::topk_rows` says all of it.
///
/// One launch; starts, lengths, counts, amounts and pages are read on the device, and what lies past a row counts for nothing.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_topk_rows(
    queue: *const lacuna_queue,
    plan: *const lacuna_topk_rows_plan,
    args: *const lacuna_topk_rows_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        with_real!(plan.dtype, "scores", T => {
            let inputs = TopkInputs::<T> {
                scores: args.scores.of("scores", queue)?,
                starts: args.starts.optional("starts", queue)?,
                lengths: args.lengths.optional("lengths", queue)?,
                counts_asked: args.counts_asked.optional("counts_asked", queue)?,
                skips: args.skips.optional("skips", queue)?,
                amounts: args.amounts.optional("amounts", queue)?,
                page_table: args.page_table.optional("page_table", queue)?,
            };
            let mut outputs = TopkOutputs::<T> {
                indices: args.indices.or_empty("indices", queue)?,
                counts: args.counts.of("counts", queue)?,
                values: args.values.optional("values", queue)?,
                slots: args.slots.optional("slots", queue)?,
                wanted: args.wanted.optional("wanted", queue)?,
                kept: args.kept.optional("kept", queue)?,
            };
            Ok(crate::select::topk_rows(queue, &plan.plan, &inputs, &mut outputs)?)
        })
    })
}
