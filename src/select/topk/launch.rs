//! The launch that picks the first scores of each row.
#![allow(unsafe_code)]

use super::{Order, TopkPlan};
use crate::Result;
use crate::bindings::SelectTopkParams;
use crate::buffer::{View, ViewMut};
use crate::launch::{Arguments, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::select::Score;

kernel_params!(SelectTopkParams, "select", "topk_rows");

/// What [`topk_rows`] reads. What is not asked for is left out:
/// `TopkInputs { lengths: Some(lengths), ..TopkInputs::whole(scores) }`.
#[derive(Debug, Clone, Copy)]
pub struct TopkInputs<'a, T> {
    /// `[n_rows, n]`, rows `row_stride` elements apart.
    pub scores: View<'a, T>,
    /// `[n_rows]`: the first candidate of each row; else 0.
    pub starts: Option<View<'a, u32>>,
    /// `[n_rows / rows_per_request, rounded up]`: tokens of each request, as a cache has them. Of its rows each has a
    /// candidate for every `tokens_per_score` of them, rounded up; else all from the first on.
    pub lengths: Option<View<'a, u32>>,
    /// `[n_rows]`: how many to pick and to mark at most, which [`Rule::Largest`](crate::select::Rule) wants; else `k`.
    pub counts_asked: Option<View<'a, u32>>,
    /// `[n_rows]`: rows where it is not 0 are left alone, their outputs too.
    pub skips: Option<View<'a, u32>>,
    /// `[n_rows]`: the number of each row's [`Rule`](crate::select::Rule); else the shape's.
    pub amounts: Option<View<'a, f32>>,
    /// `[n_rows / rows_per_request, rounded up; table_stride]`: the page of each `page_size` indices; needed where
    /// the shape has pages.
    pub page_table: Option<View<'a, i32>>,
}

impl<'a, T: Score> TopkInputs<'a, T> {
    /// All of every row.
    pub fn whole(scores: View<'a, T>) -> Self {
        Self {
            scores,
            starts: None,
            lengths: None,
            counts_asked: None,
            skips: None,
            amounts: None,
            page_table: None,
        }
    }
}

/// What [`topk_rows`] writes; of no places `indices` is a view of nothing: `TopkOutputs { slots: Some(slots), ..TopkOutputs::new(indices, counts) }`.
#[derive(Debug)]
pub struct TopkOutputs<'a, T> {
    /// `[n_rows, k]`: indices into the row, in the order of the shape, then -1.
    pub indices: ViewMut<'a, i32>,
    /// `[n_rows]`: how many were picked.
    pub counts: ViewMut<'a, u32>,
    /// `[n_rows, k]`: the scores at `indices`, then zeros.
    pub values: Option<ViewMut<'a, T>>,
    /// `[n_rows, k]`: where `indices` are in the pool of pages; -1 where the page is none, and after the last.
    pub slots: Option<ViewMut<'a, i32>>,
    /// `[n_rows]`: how many the rule wanted; more than `counts` where `k` or `counts_asked` was too small for it.
    pub wanted: Option<ViewMut<'a, u32>>,
    /// `[n_rows, n]`: 1 at each that the rule wants and `counts_asked` allows, 0 at all else of the row. Not bounded by
    /// `k`, which may be 0: [`compact_rows`](crate::select::compact_rows) makes lists of any length of it.
    pub kept: Option<ViewMut<'a, u8>>,
}

impl<'a, T: Score> TopkOutputs<'a, T> {
    /// Indices and counts alone.
    pub fn new(indices: ViewMut<'a, i32>, counts: ViewMut<'a, u32>) -> Self {
        Self { indices, counts, values: None, slots: None, wanted: None, kept: None }
    }
}

/// Picks the first scores of each row, exactly: the largest, the fewest that have a share of the row's mass, those
/// above a threshold or a percentile.
///
/// ```text
/// ranked[r]  = candidates of r, by (forced first, score descending, index ascending)
/// wanted[r]  = how many of the first of ranked[r] the rule wants
/// counts[r]  = min(wanted[r], counts_asked[r], k)
/// indices[r] = the first counts[r] of ranked[r], ascending or as ranked, then -1
/// kept[r, i] = whether i is among the first min(wanted[r], counts_asked[r]) of ranked[r]
/// slots[r]   = table[r / rows_per_request, i / page_size] * page_size + i % page_size, of i in indices[r]
/// ```
///
/// # Shapes
/// Those of [`TopkInputs`] and [`TopkOutputs`]; sizes are the plan's. Starts, lengths, counts, amounts and pages
/// are read on the device, and what lies past a row counts for nothing, so that a captured graph serves rows that
/// grow.
///
/// # Numerics
/// Integers alone: bit for bit [`reference::topk_row`](super::reference::topk_row). Zeros of both signs are equal;
/// NaN comes after -inf; ties go to the lower index; any number of equal scores.
/// [`Rule`](crate::select::Rule) says how a mass is summed.
///
/// # Stream
/// One launch, of clusters for rows of 32 KiB and more where the device has them ([`TopkPlan::cluster_grid`]), and of a
/// block for each row elsewhere; the bits are the same. No allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`], [`Error::Range`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything
/// is launched; [`Error::Driver`] where the launch fails.
///
/// [`Error::Shape`]: crate::Error::Shape
/// [`Error::Range`]: crate::Error::Range
/// [`Error::WrongQueue`]: crate::Error::WrongQueue
/// [`Error::WrongStream`]: crate::Error::WrongStream
/// [`Error::Driver`]: crate::Error::Driver
pub fn topk_rows<T: Score>(
    queue: &Queue,
    plan: &TopkPlan,
    inputs: &TopkInputs<'_, T>,
    outputs: &mut TopkOutputs<'_, T>,
) -> Result<()> {
    let shape = plan.shape();
    let TopkOutputs { indices, counts, values, slots, wanted, kept } = outputs;
    let (n_rows, n_picks) = (shape.n_rows, plan.picks_len());
    // A skipped row's outputs stay what they were.
    let role = if inputs.skips.is_some() { Role::InOut } else { Role::Output };
    check_same("bytes of a score", shape.score_bytes.into(), size_of::<T>())?;
    // Slots need pages, and pages a table.
    let n_tables = shape.pages.map_or(0, |_| 1);
    check_same("page tables", n_tables, inputs.page_table.iter().len())?;
    if shape.pages.is_none() {
        check_same("slots without pages", 0, slots.iter().len())?;
    }
    let (rule, amount) = shape.rule.params();
    let grid = plan.cluster_grid(queue.most_cluster_blocks());
    let [n_work_bytes, n_staged] = plan.shared_memory(&grid);
    let mut arguments = Arguments::new(queue);
    let params = SelectTopkParams {
        scores: arguments.input("scores", &inputs.scores, plan.scores_len())?,
        starts: arguments.optional_input("starts", inputs.starts.as_ref(), n_rows)?,
        lengths: arguments.optional_input("lengths", inputs.lengths.as_ref(), plan.n_requests())?,
        counts_asked: arguments.optional_input(
            "counts_asked",
            inputs.counts_asked.as_ref(),
            n_rows,
        )?,
        skips: arguments.optional_input("skips", inputs.skips.as_ref(), n_rows)?,
        amounts: arguments.optional_input("amounts", inputs.amounts.as_ref(), n_rows)?,
        page_table: arguments.optional_input(
            "page_table",
            inputs.page_table.as_ref(),
            plan.table_len(),
        )?,
        indices: arguments.written(role, "indices", indices, n_picks)?,
        values: arguments.optional_written(role, "values", values.as_ref(), n_picks)?,
        slots: arguments.optional_written(role, "slots", slots.as_ref(), n_picks)?,
        counts: arguments.written(role, "counts", counts, n_rows)?,
        wanted: arguments.optional_written(role, "wanted", wanted.as_ref(), n_rows)?,
        kept: arguments.optional_written(role, "kept", kept.as_ref(), plan.mask_len())?,
        row_stride: shape.row_stride,
        table_stride: shape.pages.map_or(0, |pages| pages.table_stride),
        page_multiplier: shape.pages.map_or(0, |pages| pages.multiplier()),
        n_rows: n_rows as u32,
        n: shape.n as u32,
        k: shape.k as u32,
        element: T::NUMBER,
        n_first: shape.n_first as u32,
        n_last: shape.n_last as u32,
        rule,
        amount,
        order: match shape.order {
            Order::Index => 0,
            Order::Score => 1,
        },
        n_pages: shape.pages.map_or(0, |pages| pages.n_pages as u32),
        page_size: shape.pages.map_or(1, |pages| pages.page_size as u32),
        // Rows are fewer than 2^31.
        rows_per_request: shape.rows_per_request.min(1 << 31) as u32,
        tokens_per_score: shape.tokens_per_score as u32,
        n_work_bytes,
        n_staged,
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&grid, &params) }
}
