//! The launch that measures.
#![allow(unsafe_code)]

use super::ChannelsPlan;
use crate::Result;
use crate::bindings::{QuantMeasureParams, QuantMeasured};
use crate::buffer::{View, ViewMut};
use crate::element::Half;
use crate::kv::KvView;
use crate::launch::{Arguments, kernel_params};
use crate::queue::Queue;
use crate::region::Role;

kernel_params!(QuantMeasureParams, "quant", "measure_channels");

/// Which rows are measured: what [`PageLists`](crate::quant::PageLists) will name.
#[derive(Debug, Clone, Copy)]
pub struct MeasuredRows<'a> {
    /// `[batch, n_lists, n_pages, 64]`, of a request one list or one for each head: numbers of a request's rows. One that is of no row, as -1, counts for nothing.
    pub indices: View<'a, i32>,
    /// `[batch, n_lists]`: how many of each list's indices count; else all.
    pub counts: Option<View<'a, u32>>,
}

/// What channels are relative to, to write: in the layout of [`ChannelViews`](crate::quant::ChannelViews).
#[derive(Debug, Default)]
pub struct ChannelViewsMut<'a> {
    /// `[batch, n_heads, n_spans, head_dim]`: root mean squares of what is left when offsets are taken away, those that are asked for; or none.
    pub scales: Option<ViewMut<'a, f32>>,
    /// The same: means; or none.
    pub offsets: Option<ViewMut<'a, f32>>,
}

/// What the channels of keys and of values are relative to, of each span of pages: means as offsets, and root mean squares around them as scales.
/// With these tiered pages lose least (`cargo accuracy`), of keys with offsets and of values without.
///
/// # Shapes
/// Those of [`MeasuredRows`] and [`ChannelViewsMut`]; sizes are those of [`ChannelsPlan::pages`]. `workspace` has [`ChannelsPlan::workspace_len`] words:
/// zeroed once, and left ready by every launch. Lengths, page tables and lists are read on the device, so that a captured graph serves them.
///
/// # Numerics
/// Bit for bit [`reference::measure`](crate::quant::reference::measure), whose order depends on the span's slots alone: 8 chains in each 512, sums of what
/// is apart from a chain's first number, joined by Chan's formula. Means are off by 2^-20 of their size and spread, scales by 2^-20, and by 2^-16 where a chain's
/// first number is a thousand spreads from the others (measured against f64, up to 131,072 tokens). Elements that are not finite have no part, in the count either. Offsets and scales are finite, and scales
/// normal: of a channel without a number or a spread 1, so that what its later numbers are away from the offset stays what it is.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Range`](crate::Error::Range), [`Error::Number`](crate::Error::Number) for a cache with scales,
/// [`Error::WrongQueue`](crate::Error::WrongQueue) and [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched;
/// [`Error::Driver`](crate::Error::Driver) where the launch fails.
pub fn measure_channels<T: Half>(
    queue: &Queue,
    plan: &ChannelsPlan,
    source: &KvView<'_, T>,
    rows: &MeasuredRows<'_>,
    workspace: &mut ViewMut<'_, u32>,
    keys: &mut ChannelViewsMut<'_>,
    values: &mut ChannelViewsMut<'_>,
) -> Result<()> {
    let (pages, shape) = (plan.pages(), plan.pages().shape());
    source.check_planned(&shape.layout)?;
    let mut arguments = Arguments::new(queue);
    arguments.check_workspace(workspace, plan.workspace_len())?;
    let n_tickets = plan.n_tickets();
    let n_words = workspace.len();
    let mut params = QuantMeasureParams {
        kv: source.params(&mut arguments)?,
        measured: [keys.params(plan, &mut arguments)?, values.params(plan, &mut arguments)?],
        indices: arguments.input("indices", &rows.indices, pages.indices_len())?,
        counts: arguments.optional_input("counts", rows.counts.as_ref(), pages.n_lists())?,
        tickets: 0,
        pieces: 0,
        n_pages: shape.n_pages as u32,
        n_lists: shape.lists.per_request(&shape.layout) as u32,
        span_pages: shape.span_pages as u32,
        n_spans: pages.n_spans() as u32,
        n_pieces: plan.n_pieces() as u32,
        reserved: 0,
    };
    if n_tickets != 0 {
        let tickets = workspace.slice_mut(0..n_tickets as usize)?;
        params.tickets = arguments.written(Role::InOut, "tickets", &tickets, n_tickets)?;
        let pieces = workspace.slice_mut(n_tickets as usize..n_words)?;
        let n_pieces = n_words as u64 - n_tickets;
        params.pieces = arguments.written(Role::Workspace, "pieces", &pieces, n_pieces)?;
    }
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}

impl ChannelViewsMut<'_> {
    fn params(&self, plan: &ChannelsPlan, arguments: &mut Arguments<'_>) -> Result<QuantMeasured> {
        let len = plan.pages().channels_len();
        let (scales, offsets) = (self.scales.as_ref(), self.offsets.as_ref());
        Ok(QuantMeasured {
            scales: arguments.optional_written(Role::Output, "scales of channels", scales, len)?,
            offsets: arguments.optional_written(
                Role::Output,
                "offsets of channels",
                offsets,
                len,
            )?,
        })
    }
}
