//! The launch that picks the largest scores of each row.
#![allow(unsafe_code)]

use super::TopkPlan;
use crate::Result;
use crate::bindings::SelectTopkParams;
use crate::buffer::{View, ViewMut};
use crate::launch::{Arguments, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::select::Score;

kernel_params!(SelectTopkParams, "select", "topk_rows");

/// What [`topk_rows`] reads.
#[derive(Debug, Clone, Copy)]
pub struct TopkInputs<'a, T> {
    /// `[n_rows, n]`, rows `row_stride` elements apart.
    pub scores: View<'a, T>,
    /// `[n_rows]`: the first candidate of each row; else 0.
    pub starts: Option<View<'a, u32>>,
    /// `[n_rows]`: the candidates of each row; else all from the first on.
    pub lengths: Option<View<'a, u32>>,
    /// `[n_rows]`: how many to pick, `k` at most; else `k`.
    pub counts_asked: Option<View<'a, u32>>,
    /// `[n_rows]`: rows where it is not 0 are left alone, their outputs too.
    pub skips: Option<View<'a, u32>>,
}

impl<'a, T: Score> TopkInputs<'a, T> {
    /// All of every row.
    pub fn whole(scores: View<'a, T>) -> Self {
        Self { scores, starts: None, lengths: None, counts_asked: None, skips: None }
    }
}

/// What [`topk_rows`] writes.
#[derive(Debug)]
pub struct TopkOutputs<'a, T> {
    /// `[n_rows, k]`: indices into the row, ascending, then -1.
    pub indices: ViewMut<'a, i32>,
    /// `[n_rows]`: how many were picked.
    pub counts: ViewMut<'a, u32>,
    /// `[n_rows, k]`: the scores at `indices`, then zeros.
    pub values: Option<ViewMut<'a, T>>,
}

/// Picks the `k` largest scores of each row, exactly.
///
/// ```text
/// indices[r] = ascending { i : scores[r, i] is among the k first by (forced, score, lower index) }
/// ```
///
/// # Shapes
/// Those of [`TopkInputs`] and [`TopkOutputs`]; sizes are the plan's. Starts, lengths and counts are
/// read on the device, and what lies past a row counts for nothing, so that a captured graph serves
/// rows that grow.
///
/// # Numerics
/// No arithmetic: bit for bit [`reference::topk_row`](super::reference::topk_row). Zeros of both signs
/// are equal; NaN comes after -inf; ties go to the lower index; any number of equal scores.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`], [`Error::Range`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything
/// is launched; [`Error::Driver`] where the launch fails.
pub fn topk_rows<T: Score>(
    queue: &Queue,
    plan: &TopkPlan,
    inputs: &TopkInputs<'_, T>,
    outputs: &mut TopkOutputs<'_, T>,
) -> Result<()> {
    let shape = plan.shape();
    let TopkOutputs { indices, counts, values } = outputs;
    let (n_rows, n_picks) = (shape.n_rows, plan.picks_len());
    // A skipped row's outputs stay what they were.
    let role = if inputs.skips.is_some() { Role::InOut } else { Role::Output };
    check_same("bytes of a score", shape.score_bytes.into(), size_of::<T>())?;
    let mut arguments = Arguments::new(queue);
    let params = SelectTopkParams {
        scores: arguments.input("scores", &inputs.scores, plan.scores_len())?,
        starts: arguments.optional_input("starts", inputs.starts.as_ref(), n_rows)?,
        lengths: arguments.optional_input("lengths", inputs.lengths.as_ref(), n_rows)?,
        counts_asked: arguments.optional_input(
            "counts asked",
            inputs.counts_asked.as_ref(),
            n_rows,
        )?,
        skips: arguments.optional_input("skips", inputs.skips.as_ref(), n_rows)?,
        indices: arguments.written(role, "indices", indices, n_picks)?,
        values: arguments.optional_written(role, "values", values.as_ref(), n_picks)?,
        counts: arguments.written(role, "counts", counts, n_rows)?,
        row_stride: shape.row_stride,
        n_rows: n_rows as u32,
        n: shape.n as u32,
        k: shape.k as u32,
        element: T::NUMBER,
        n_first: shape.n_first as u32,
        n_last: shape.n_last as u32,
        n_staged: plan.n_staged(),
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
