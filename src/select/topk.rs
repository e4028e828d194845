//! The launch that picks the largest scores of each row.
#![allow(unsafe_code)]

use super::{Score, TopkPlan};
use crate::bindings::SelectTopkParams;
use crate::buffer::{View, ViewMut};
use crate::launch;
use crate::queue::Queue;
use crate::region::Role;
use crate::{Error, Result};

launch::kernel_params!(SelectTopkParams, "select", "topk_rows");

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
    let row_inputs = [
        ("starts", inputs.starts),
        ("lengths", inputs.lengths),
        ("counts asked", inputs.counts_asked),
        ("skips", inputs.skips),
    ];
    check_same("bytes of a score", shape.score_bytes.into(), size_of::<T>())?;
    queue.check_view("scores", &inputs.scores)?;
    check_same("scores", plan.scores_len(), inputs.scores.len())?;
    for (what, view) in &row_inputs {
        let Some(view) = view else { continue };
        queue.check_view(what, view)?;
        check_same(what, shape.n_rows, view.len())?;
    }
    queue.check_view_mut("indices", indices)?;
    check_same("indices", plan.picks_len(), indices.len())?;
    queue.check_view_mut("counts", counts)?;
    check_same("counts", shape.n_rows, counts.len())?;
    if let Some(values) = values {
        queue.check_view_mut("values", values)?;
        check_same("values", plan.picks_len(), values.len())?;
    }
    let address = |view: Option<View<'_, u32>>| view.map_or(0, |view| view.address());
    let params = SelectTopkParams {
        scores: inputs.scores.address(),
        starts: address(inputs.starts),
        lengths: address(inputs.lengths),
        counts_asked: address(inputs.counts_asked),
        skips: address(inputs.skips),
        indices: indices.address(),
        values: values.as_ref().map_or(0, |values| values.address()),
        counts: counts.address(),
        row_stride: shape.row_stride,
        n_rows: shape.n_rows as u32,
        n: shape.n as u32,
        k: shape.k as u32,
        element: T::NUMBER,
        n_first: shape.n_first as u32,
        n_last: shape.n_last as u32,
        n_staged: plan.n_staged(),
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields, every view is as long as
    // the plan says, and what is written is borrowed mutably.
    unsafe {
        launch::launch(queue, &plan.grid(), &params, |regions| {
            regions.input("scores", &inputs.scores);
            for (name, view) in &row_inputs {
                if let Some(view) = view {
                    regions.input(*name, view);
                }
            }
            // A skipped row's outputs stay what they were.
            let role = if inputs.skips.is_some() { Role::InOut } else { Role::Output };
            regions.written(role, "indices", indices);
            regions.written(role, "counts", counts);
            if let Some(values) = values {
                regions.written(role, "values", values);
            }
        })
    }
}

fn check_same(what: &'static str, expected: u64, got: usize) -> Result<()> {
    if got as u64 == expected {
        return Ok(());
    }
    Err(Error::Shape { what, expected, got: got as u64 })
}
