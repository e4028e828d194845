//! The launches that compact rows.
#![allow(unsafe_code)]

use super::{CompactPlan, Listed};
use crate::Result;
use crate::bindings::{SelectCompactParams, SelectCountKeptParams, SelectMask};
use crate::buffer::{View, ViewMut};
use crate::launch::{Arguments, kernel_params};
use crate::queue::Queue;
use crate::region::Role;

kernel_params!(SelectCountKeptParams, "select", "count_kept");
kernel_params!(SelectCompactParams, "select", "compact_rows");

/// What [`compact_rows`] reads.
#[derive(Debug, Clone, Copy)]
pub struct CompactInputs<'a> {
    /// `[n_rows, n]`: not 0 where an element is kept; rows `row_stride` elements apart.
    pub kept: View<'a, u8>,
    /// `[n_rows / rows_per_request, rounded up]`: elements of each request's rows; else `n`. What lies past them is not
    /// listed.
    pub lengths: Option<View<'a, u32>>,
    /// `[n_rows]`: rows where it is not 0 are left alone, their outputs too.
    pub skips: Option<View<'a, u32>>,
}

impl<'a> CompactInputs<'a> {
    /// All of every row.
    pub fn whole(kept: View<'a, u8>) -> Self {
        Self { kept, lengths: None, skips: None }
    }

    fn params(&self, arguments: &mut Arguments<'_>, plan: &CompactPlan) -> Result<SelectMask> {
        let shape = plan.shape();
        let n_rows = shape.n_rows;
        Ok(SelectMask {
            kept: arguments.input("kept", &self.kept, plan.mask_len())?,
            lengths: arguments.optional_input(
                "lengths",
                self.lengths.as_ref(),
                plan.n_requests(),
            )?,
            skips: arguments.optional_input("skips", self.skips.as_ref(), n_rows)?,
            row_stride: shape.row_stride,
            n_rows: n_rows as u32,
            n: shape.n as u32,
            n_chunks: plan.n_chunks() as u32,
            // Rows are fewer than 2^31.
            rows_per_request: shape.rows_per_request.min(1 << 31) as u32,
            lists_dropped: u32::from(shape.listed == Listed::Dropped),
            reserved: 0,
        })
    }
}

/// What [`compact_rows`] writes.
#[derive(Debug)]
pub struct CompactOutputs<'a> {
    /// `[n_rows, capacity]`: the listed elements of each row, ascending, then -1.
    pub indices: ViewMut<'a, i32>,
    /// `[n_rows]`: how many are listed, also where `capacity` is less.
    pub counts: ViewMut<'a, u32>,
    /// `[n_rows, n]`: the place of each element among those listed, also past `capacity`; or -1.
    pub offsets: Option<ViewMut<'a, i32>>,
    /// `[n_rows + 1]`: where each row begins in a list of all rows' indices, and the list's end: the sum of
    /// the `counts` of the rows before, skipped ones too, `capacity` of each at most. Nothing is written
    /// where there are no rows.
    pub row_starts: Option<ViewMut<'a, u32>>,
    /// [`CompactPlan::workspace_len`] words: zeroed once, and left ready by every launch.
    pub workspace: ViewMut<'a, u32>,
}

/// Writes the kept elements of each row, or those that are not kept, in its order, and its inverse.
///
/// ```text
/// indices[r] = ascending { i : i < lengths[r / rows_per_request], mask[r, i] != 0 }, then -1; of dropped ones, == 0
/// offsets[r, indices[r, place]] = place, else -1
/// ```
///
/// # Shapes
/// Those of [`CompactInputs`] and [`CompactOutputs`]; sizes are the plan's. Lengths are read on the device, so that a captured
/// graph serves rows that grow.
///
/// # Numerics
/// No arithmetic: bit for bit [`reference::compact_row`](super::reference::compact_row).
///
/// # Stream
/// One launch; two where a row may have more than 16,369 elements, the first of which writes the mask as bits.
/// No allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::WrongQueue`](crate::Error::WrongQueue) and
/// [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched;
/// [`Error::Driver`](crate::Error::Driver) where a launch fails.
pub fn compact_rows(
    queue: &Queue,
    plan: &CompactPlan,
    inputs: &CompactInputs<'_>,
    outputs: &mut CompactOutputs<'_>,
) -> Result<()> {
    let shape = plan.shape();
    let CompactOutputs { indices, counts, offsets, row_starts, workspace } = outputs;
    let mut arguments = Arguments::new(queue);
    arguments.check_workspace(workspace, plan.workspace_len())?;
    let n_rows = shape.n_rows;
    let n_counted = plan.n_counted();
    let last = plan.workspace_len() as usize - 1;
    let n_words = last - n_counted as usize;
    let [words, chunk_counts] =
        [workspace.as_view().slice(0..n_words)?, workspace.as_view().slice(n_words..last)?];

    let mask = inputs.params(&mut arguments, plan)?;
    let is_counted = n_counted != 0;
    // A skipped row's outputs stay what they were.
    let role = if inputs.skips.is_some() { Role::InOut } else { Role::Output };
    let has_starts = row_starts.is_some();
    let params = SelectCompactParams {
        mask,
        words: arguments.optional_input("words", is_counted.then_some(&words), n_words as u64)?,
        chunk_counts: arguments.optional_input(
            "counts of chunks",
            is_counted.then_some(&chunk_counts),
            n_counted,
        )?,
        indices: arguments.written(role, "indices", indices, plan.indices_len())?,
        counts: arguments.written(role, "counts", counts, n_rows)?,
        offsets: arguments.optional_written(
            role,
            "offsets",
            offsets.as_ref(),
            plan.offsets_len(),
        )?,
        row_starts: arguments.optional_written(
            Role::Output,
            "row_starts",
            row_starts.as_ref(),
            plan.row_starts_len(),
        )?,
        n_done: {
            let n_done = workspace.slice_mut(last..last + 1)?;
            arguments.optional_written(
                Role::InOut,
                "rows done",
                has_starts.then_some(&n_done),
                1,
            )?
        },
        capacity: shape.capacity as u32,
        reserved: 0,
    };
    if is_counted {
        let mut arguments = Arguments::new(queue);
        let params = SelectCountKeptParams {
            mask: inputs.params(&mut arguments, plan)?,
            chunk_counts: arguments.written(
                Role::Workspace,
                "counts of chunks",
                &workspace.slice_mut(n_words..last)?,
                n_counted,
            )?,
            words: arguments.written(
                Role::Workspace,
                "words",
                &workspace.slice_mut(0..n_words)?,
                n_words as u64,
            )?,
        };
        // SAFETY: the plan's sizes are below the limits of the struct's fields.
        unsafe { arguments.launch(&plan.grid(), &params) }?;
    }
    // SAFETY: as above; the launch before wrote what this one reads.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
