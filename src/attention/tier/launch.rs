//! The launch that resolves.
#![allow(unsafe_code)]

use super::TierPlan;
use crate::Result;
use crate::bindings::AttentionTierParams;
use crate::buffer::{View, ViewMut};
use crate::launch::{Arguments, check_aligned, kernel_params};
use crate::queue::Queue;
use crate::region::Role;

kernel_params!(AttentionTierParams, "attention", "tier_resolve");

/// What [`tier_resolve`] reads.
#[derive(Debug, Clone, Copy)]
pub struct TierInputs<'a> {
    /// `[batch, lists_per_request, n]`: what each list asks for, by logical numbers, as
    /// [`topk_rows`](crate::select::topk_rows) leaves them. -1 and other numbers of nothing are passed over; one that
    /// stands there twice is copied once.
    pub indices: View<'a, i32>,
    /// `[batch, lists_per_request]`: how many of each list's entries count; else all.
    pub counts: Option<View<'a, u32>>,
    /// `[batch, n_logical]`: the page `p` that each logical number has in the large tier, in which the lists of a
    /// request have pages `p * lists_per_request` and on. What has none cannot miss, and gets no slot. Without a
    /// table list `l` of all has pages `l * n_logical` and on.
    pub source_table: Option<View<'a, i32>>,
}

/// What is in the slots, which [`tier_resolve`] keeps from step to step.
///
/// A logical number is in a slot where both maps say so, so that `logical_of` filled with -1 forgets all of a
/// request: to begin with, and where it ends.
#[derive(Debug)]
pub struct TierState<'a> {
    /// `[batch, lists_per_request, n_logical]`: the slot of each logical number, or -1.
    pub slot_of: ViewMut<'a, i32>,
    /// `[batch, lists_per_request, n_slots]`: the logical number in each slot, or -1.
    pub logical_of: ViewMut<'a, i32>,
    /// `[batch, lists_per_request, n_slots / 32, rounded up]`: bits of slots asked for; zeros to begin with.
    pub referenced: ViewMut<'a, u32>,
    /// `[batch, lists_per_request]`: the slot that is looked at next; zeros to begin with.
    pub hands: ViewMut<'a, u32>,
}

/// `slots` in two parts, each in the order of the list, then -1: two lists of blocks that
/// [`attend`](crate::attention::attend) takes.
#[derive(Debug)]
pub struct PartedSlots<'a> {
    /// `[batch, lists_per_request, n]`: the slots of entries that were there.
    pub hits: ViewMut<'a, i32>,
    /// `[batch, lists_per_request]`: how many.
    pub hit_counts: ViewMut<'a, u32>,
    /// `[batch, lists_per_request, n]`: the slots of entries that are copied: each of a number that stands there
    /// twice.
    pub fetched: ViewMut<'a, i32>,
    /// `[batch, lists_per_request]`: how many.
    pub fetched_counts: ViewMut<'a, u32>,
}

/// What [`tier_resolve`] writes.
#[derive(Debug)]
pub struct TierOutputs<'a> {
    /// `[batch, lists_per_request, n]`: the slot of each entry, in `0..n_slots`; -1 where it has none.
    pub slots: ViewMut<'a, i32>,
    /// `[batch, lists_per_request, n, 2]`, from a multiple of 8 bytes on: pages of the large tier and where they go:
    /// page `l * n_slots + slot` of the small tier, `l` being the list among all; then -1. The pairs of
    /// [`copy_pages`](crate::attention::copy_pages), lists of `n`,
    pub misses: ViewMut<'a, i32>,
    /// `[batch, lists_per_request]`: and their counts.
    pub miss_counts: ViewMut<'a, u32>,
    /// Hits and misses, each by itself.
    pub parts: Option<PartedSlots<'a>>,
    /// `[batch, lists_per_request]`: logical numbers that no slot was left for.
    pub overflows: Option<ViewMut<'a, u32>>,
}

/// Finds what lists ask for in the slots of a small fast tier, and slots for what is not there: hits, misses and
/// the copies to make, on the device (after ShadowKV, arXiv:2410.21465, RetroInfer's wave buffer, arXiv:2505.02922,
/// and SGLang's HiSparse).
///
/// ```text
/// slots[e]  = where indices[e] is; else the next slot that CLOCK gives up
/// misses    = each number that was nowhere, once, in the order of the list: (its page, its slot)
/// ```
///
/// Slots that a list asks for are never given up to it. Where it asks for more than there are slots, the numbers that come
/// last get -1, and are counted in `overflows`. Attention over `parts.hits` can run while
/// [`copy_pages`](crate::attention::copy_pages) copies `misses` on another queue, which is [lent](Queue::lend) the lists, and over
/// `parts.fetched` after that. The slots' memory is both queues' then, each reading and writing slots of its own, which no
/// borrow can say: one of them has it by `from_raw`.
///
/// # Shapes
/// Those of [`TierInputs`], [`TierState`] and [`TierOutputs`]; sizes are the plan's. Lists and counts are read on the
/// device, so that a captured graph serves them.
///
/// # Numerics
/// Integers alone: bit for bit [`reference::Tier`](super::reference::Tier), a function of the list's order and the state.
///
/// # Stream
/// One launch. No allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Range`](crate::Error::Range) where `misses` is not aligned,
/// [`Error::WrongQueue`](crate::Error::WrongQueue) and [`Error::WrongStream`](crate::Error::WrongStream) before anything is
/// launched; [`Error::Driver`](crate::Error::Driver) where the launch fails.
pub fn tier_resolve(
    queue: &Queue,
    plan: &TierPlan,
    inputs: &TierInputs<'_>,
    state: &mut TierState<'_>,
    outputs: &mut TierOutputs<'_>,
) -> Result<()> {
    let shape = plan.shape();
    let (n_lists, n_entries) = (plan.n_lists(), plan.entries_len());
    let TierState { slot_of, logical_of, referenced, hands } = state;
    let TierOutputs { slots, misses, miss_counts, parts, overflows } = outputs;
    check_aligned("address of misses", misses.address(), 8, "the multiples of 8 bytes")?;
    let mut arguments = Arguments::new(queue);
    let output = Role::Output;
    let mut params = AttentionTierParams {
        indices: arguments.input("indices", &inputs.indices, n_entries)?,
        counts: arguments.optional_input("counts", inputs.counts.as_ref(), n_lists)?,
        source_table: arguments.optional_input(
            "source_table",
            inputs.source_table.as_ref(),
            plan.source_table_len(),
        )?,
        slot_of: arguments.written(Role::InOut, "slot_of", slot_of, plan.slot_of_len())?,
        logical_of: arguments.written(
            Role::InOut,
            "logical_of",
            logical_of,
            plan.logical_of_len(),
        )?,
        referenced: arguments.written(
            Role::InOut,
            "referenced",
            referenced,
            plan.referenced_len(),
        )?,
        hands: arguments.written(Role::InOut, "hands", hands, n_lists)?,
        slots: arguments.written(output, "slots", slots, n_entries)?,
        misses: arguments.written(output, "misses", misses, plan.misses_len())?,
        miss_counts: arguments.written(output, "miss_counts", miss_counts, n_lists)?,
        hits: 0,
        hit_counts: 0,
        fetched: 0,
        fetched_counts: 0,
        overflows: arguments.optional_written(output, "overflows", overflows.as_ref(), n_lists)?,
        lists_per_request: shape.lists_per_request as u32,
        n: shape.n as u32,
        n_logical: shape.n_logical as u32,
        n_slots: shape.n_slots as u32,
        n_source_pages: shape.n_source_pages as u32,
        reserved: 0,
    };
    if let Some(PartedSlots { hits, hit_counts, fetched, fetched_counts }) = parts {
        params.hits = arguments.written(output, "hits", hits, n_entries)?;
        params.hit_counts = arguments.written(output, "hit_counts", hit_counts, n_lists)?;
        params.fetched = arguments.written(output, "fetched", fetched, n_entries)?;
        let what = "counts of fetched";
        params.fetched_counts = arguments.written(output, what, fetched_counts, n_lists)?;
    }
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
