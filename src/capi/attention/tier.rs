//! `tier_resolve`.

use crate::attention::{PartedSlots, TierInputs, TierOutputs, TierPlan, TierShape, TierState};
use crate::capi::abi::{borrow, free, give, lacuna_header, read, structs, write};
use crate::capi::device::lacuna_queue;
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};

/// Sizes of `lacuna_tier_resolve`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_tier_resolve_shape {
    pub header: lacuna_header,
    /// Requests.
    pub batch: u64,
    /// Lists of a request: 1, or one for each head of keys. Each has slots of its own.
    pub lists_per_request: u64,
    /// Entries of a list, at most 8,192.
    pub n: u64,
    /// Logical numbers of a request: its tokens, or its pages.
    pub n_logical: u64,
    /// Slots of a list, 1 to 32,768. With at least `n`, each entry gets one.
    pub n_slots: u64,
    /// Pages of the large tier.
    pub n_source_pages: u64,
}

/// Elements of each view of `lacuna_tier_resolve_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_tier_resolve_sizes {
    pub header: lacuna_header,
    pub indices: u64,
    pub counts: u64,
    pub source_table: u64,
    pub slot_of: u64,
    pub logical_of: u64,
    pub referenced: u64,
    pub hands: u64,
    pub slots: u64,
    pub misses: u64,
    pub miss_counts: u64,
    pub hits: u64,
    pub hit_counts: u64,
    pub fetched: u64,
    pub fetched_counts: u64,
    pub overflows: u64,
}

/// What `lacuna_tier_resolve` reads, keeps from step to step, and writes. There are `batch * lists_per_request` lists.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_tier_resolve_args {
    pub header: lacuna_header,
    /// i32 `[lists, n]`: what each list asks for, by logical numbers, as `lacuna_topk_rows` leaves them. -1 and other numbers of nothing
    /// are passed over; one that stands there twice is copied once.
    pub indices: lacuna_view,
    /// Optional, u32 `[lists]`: how many of each list's entries count; else all.
    pub counts: lacuna_view,
    /// Optional, i32 `[batch, n_logical]`: the page `p` that each logical number has in the large tier, in which the lists of a request
    /// have pages `p * lists_per_request` and on. Without it list `l` of all has pages `l * n_logical` and on.
    pub source_table: lacuna_view,
    /// i32 `[lists, n_logical]`: the slot of each logical number, or -1. A number is in a slot where both maps say so.
    pub slot_of: lacuna_view_mut,
    /// i32 `[lists, n_slots]`: the logical number in each slot, or -1; filled with -1 to begin with, and where a request ends.
    pub logical_of: lacuna_view_mut,
    /// u32 `[lists, n_slots / 32, rounded up]`: bits of slots asked for; zeros to begin with.
    pub referenced: lacuna_view_mut,
    /// u32 `[lists]`: the slot that is looked at next; zeros to begin with.
    pub hands: lacuna_view_mut,
    /// i32 `[lists, n]`: the slot of each entry, in `0..n_slots`; -1 where it has none.
    pub slots: lacuna_view_mut,
    /// i32 `[lists, n, 2]`, from a multiple of 8 bytes on: pages of the large tier and where they go, page `l * n_slots + slot` of the
    /// small tier, `l` being the list; then -1. The pairs of `lacuna_copy_pages`,
    pub misses: lacuna_view_mut,
    /// u32 `[lists]`: and their counts.
    pub miss_counts: lacuna_view_mut,
    /// Optional, the next four together: `slots` in two parts, each in the order of the list, then -1, which are lists of blocks that
    /// `lacuna_attend` takes. i32 `[lists, n]`: the slots of entries that were there.
    pub hits: lacuna_view_mut,
    /// u32 `[lists]`: how many.
    pub hit_counts: lacuna_view_mut,
    /// i32 `[lists, n]`: the slots of entries that are copied.
    pub fetched: lacuna_view_mut,
    /// u32 `[lists]`: how many.
    pub fetched_counts: lacuna_view_mut,
    /// Optional, u32 `[lists]`: logical numbers that no slot was left for.
    pub overflows: lacuna_view_mut,
}

structs! {
    lacuna_tier_resolve_shape: 56,
    lacuna_tier_resolve_sizes: 128,
    lacuna_tier_resolve_args: 368,
}

/// A plan of `lacuna_tier_resolve`: for any device, and any number of launches at once, each with a state of its own.
pub struct lacuna_tier_resolve_plan(TierPlan);

impl lacuna_tier_resolve_plan {
    fn new(shape: &lacuna_tier_resolve_shape) -> Outcome<Self> {
        Ok(Self(TierPlan::new(TierShape {
            batch: shape.batch,
            lists_per_request: shape.lists_per_request,
            n: shape.n,
            n_logical: shape.n_logical,
            n_slots: shape.n_slots,
            n_source_pages: shape.n_source_pages,
        })?))
    }

    fn sizes(&self) -> lacuna_tier_resolve_sizes {
        let plan = &self.0;
        let (n_lists, n_entries) = (plan.n_lists(), plan.entries_len());
        lacuna_tier_resolve_sizes {
            header: lacuna_header::NONE,
            indices: n_entries,
            counts: n_lists,
            source_table: plan.source_table_len(),
            slot_of: plan.slot_of_len(),
            logical_of: plan.logical_of_len(),
            referenced: plan.referenced_len(),
            hands: n_lists,
            slots: n_entries,
            misses: plan.misses_len(),
            miss_counts: n_lists,
            hits: n_entries,
            hit_counts: n_lists,
            fetched: n_entries,
            fetched_counts: n_lists,
            overflows: n_lists,
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_tier_resolve_plan_new(
    shape: *const lacuna_tier_resolve_shape,
    plan: *mut *mut lacuna_tier_resolve_plan,
) -> lacuna_status {
    // SAFETY: the caller's struct and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_tier_resolve_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_tier_resolve_plan_free(plan: *mut lacuna_tier_resolve_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be. The small tier's pool has as many pages as `logical_of` has elements.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_tier_resolve_plan_sizes(
    plan: *const lacuna_tier_resolve_plan,
    sizes: *mut lacuna_tier_resolve_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Finds what lists ask for in the slots of a small fast tier, and slots for what is not there: hits, misses and the copies to make
/// (after ShadowKV and RetroInfer). Slots that a list asks for are never given up to it; where it asks for more than there are, the numbers
/// that come last get -1. `lacuna::attention::tier_resolve` says all of it.
///
/// One launch; lists and counts are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_tier_resolve(
    queue: *const lacuna_queue,
    plan: *const lacuna_tier_resolve_plan,
    args: *const lacuna_tier_resolve_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let inputs = TierInputs {
            indices: args.indices.of("indices", queue)?,
            counts: args.counts.optional("counts", queue)?,
            source_table: args.source_table.optional("source_table", queue)?,
        };
        let mut state = TierState {
            slot_of: args.slot_of.of("slot_of", queue)?,
            logical_of: args.logical_of.of("logical_of", queue)?,
            referenced: args.referenced.of("referenced", queue)?,
            hands: args.hands.of("hands", queue)?,
        };
        let parts = [&args.hits, &args.hit_counts, &args.fetched, &args.fetched_counts];
        let parts = if parts.into_iter().all(lacuna_view_mut::is_none) {
            None
        } else {
            Some(PartedSlots {
                hits: args.hits.of("hits", queue)?,
                hit_counts: args.hit_counts.of("hit_counts", queue)?,
                fetched: args.fetched.of("fetched", queue)?,
                fetched_counts: args.fetched_counts.of("fetched_counts", queue)?,
            })
        };
        let mut outputs = TierOutputs {
            slots: args.slots.of("slots", queue)?,
            misses: args.misses.of("misses", queue)?,
            miss_counts: args.miss_counts.of("miss_counts", queue)?,
            parts,
            overflows: args.overflows.optional("overflows", queue)?,
        };
        Ok(crate::attention::tier_resolve(queue, &plan.0, &inputs, &mut state, &mut outputs)?)
    })
}
