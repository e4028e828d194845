//! `retier_pages`.

use super::pages::{OF_KEYS, OF_VALUES, channels, lacuna_pages_shape, pools_mut};
use crate::capi::abi::{borrow, free, give, lacuna_header, or, read, structs, write};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::with_half;
use crate::capi::kv::lacuna_kv;
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::quant::{RetierInputs, RetierOutputs, RetierPlan, RetierShape, Tier};

/// Sizes of `lacuna_retier_pages`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_retier_pages_shape {
    pub header: lacuna_header,
    /// Cache, pools, whose lists there are, and pages of a run. All pages of a list have the same channels: one span.
    pub pages: *const lacuna_pages_shape,
    /// Runs of a list, 1 to 16: each makes pages that follow each other in the new table; 0 is 1.
    pub n_runs: u64,
    /// Pages of an old table; 0 is those of a run.
    pub n_old_pages: u64,
    /// Pages of a new one; 0 is those of a run.
    pub n_new_pages: u64,
    /// Positions of a request that slots are known of; 0 is the rows that the cache holds.
    pub n_positions: u64,
}

/// Elements of each view of `lacuna_retier_pages_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_retier_pages_sizes {
    pub header: lacuna_header,
    pub slot_of: u64,
    pub old_key_entries: u64,
    pub old_value_entries: u64,
    pub indices: u64,
    pub counts: u64,
    pub first_pages: u64,
    pub key_entries: u64,
    pub value_entries: u64,
    pub key_scales: u64,
    pub key_offsets: u64,
    pub value_scales: u64,
    pub value_offsets: u64,
    pub pools: [u64; 4],
    pub status: u64,
    pub new_slots: u64,
}

/// What `lacuna_retier_pages` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_retier_pages_args {
    pub header: lacuna_header,
    /// Optional: where tokens that are in no page wait, by their positions.
    pub cache: lacuna_kv,
    /// i32 `[batch, n_heads, n_positions]`: where a token is, `64 * page + token` of the old tables; negative where it waits.
    pub slot_of: lacuna_view,
    /// u32 `[batch, n_heads, n_old_pages]`: `tier << 30 | number` of each old page of keys.
    pub old_key_entries: lacuna_view,
    /// The same of values.
    pub old_value_entries: lacuna_view,
    /// i32 `[batch, n_lists, n_runs, n_pages, 64]`: positions of tokens, in the order in which they shall stand. One of no token, as -1, is a slot
    /// of nothing.
    pub indices: lacuna_view,
    /// Optional, u32 `[batch, n_lists, n_runs]`: how many of each run's indices count; else all.
    pub counts: lacuna_view,
    /// Optional, the same: where in the new tables a run's first page is; else `n_pages` times the run's number.
    pub first_pages: lacuna_view,
    /// u32 `[batch, n_heads, n_new_pages]`: the page of keys of each 64 tokens. No page may stand there twice, and none that is an old one may be
    /// made.
    pub key_entries: lacuna_view,
    /// The same of values, which may be of other tiers.
    pub value_entries: lacuna_view,
    /// Optional, f32 `[batch, n_heads, head_dim]`, of old pages and new ones: what keys are divided by; else 1.
    pub key_scales: lacuna_view,
    /// Optional, the same: what is taken from them before; else 0.
    pub key_offsets: lacuna_view,
    /// Optional, as those of keys.
    pub value_scales: lacuna_view,
    /// Optional, as those of keys.
    pub value_offsets: lacuna_view,
    /// As of `lacuna_quantize_pages_args`: old pages and new ones.
    pub pools: [lacuna_view_mut; 4],
    /// Optional, the same.
    pub status: lacuna_view_mut,
    /// i32 `[batch, n_heads, n_positions]`: where each token that a list names is in the new tables. Others' are left alone.
    pub new_slots: lacuna_view_mut,
}

structs! {
    lacuna_retier_pages_shape: 48,
    lacuna_retier_pages_sizes: 152,
    lacuna_retier_pages_args: 544,
}

/// A plan of `lacuna_retier_pages`: for any device, and any number of launches at once.
pub struct lacuna_retier_pages_plan {
    plan: RetierPlan,
    dtype: u32,
}

impl lacuna_retier_pages_plan {
    /// # Safety
    /// The shape's structs are the caller's.
    unsafe fn new(shape: &lacuna_retier_pages_shape) -> Outcome<Self> {
        // SAFETY: the caller's word.
        let (pages, dtype) = unsafe { read(shape.pages)?.shape() }?;
        let usual = RetierShape::of(pages);
        let plan = RetierPlan::new(RetierShape {
            n_runs: or(shape.n_runs, usual.n_runs),
            n_old_pages: or(shape.n_old_pages, usual.n_old_pages),
            n_new_pages: or(shape.n_new_pages, usual.n_new_pages),
            n_positions: or(shape.n_positions, usual.n_positions),
            ..usual
        })?;
        Ok(Self { plan, dtype })
    }

    fn sizes(&self) -> lacuna_retier_pages_sizes {
        let (plan, pages) = (&self.plan, self.plan.pages());
        lacuna_retier_pages_sizes {
            header: lacuna_header::NONE,
            slot_of: plan.slots_len(),
            old_key_entries: plan.old_entries_len(),
            old_value_entries: plan.old_entries_len(),
            indices: plan.indices_len(),
            counts: plan.runs_len(),
            first_pages: plan.runs_len(),
            key_entries: plan.new_entries_len(),
            value_entries: plan.new_entries_len(),
            key_scales: pages.channels_len(),
            key_offsets: pages.channels_len(),
            value_scales: pages.channels_len(),
            value_offsets: pages.channels_len(),
            pools: Tier::BY_TAG.map(|tier| pages.pool_bytes(tier)),
            status: 1,
            new_slots: plan.slots_len(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_retier_pages_plan_new(
    shape: *const lacuna_retier_pages_shape,
    plan: *mut *mut lacuna_retier_pages_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_retier_pages_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_retier_pages_plan_free(plan: *mut lacuna_retier_pages_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_retier_pages_plan_sizes(
    plan: *const lacuna_retier_pages_plan,
    sizes: *mut lacuna_retier_pages_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Gathers tokens into new pages of any tiers, from pages of any tiers and from the cache in which they wait: what makes 8 bits 4 and 4 bits
/// 2 as tokens matter less, and closes the gaps that they leave. Old pages stay what they are. `lacuna::quant::retier_pages` says all of it.
///
/// One launch; lists, slots, entries and lengths are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_retier_pages(
    queue: *const lacuna_queue,
    plan: *const lacuna_retier_pages_plan,
    args: *const lacuna_retier_pages_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let mut outputs = RetierOutputs {
            pools: pools_mut(&args.pools, &args.status, queue)?,
            new_slots: args.new_slots.of("new_slots", queue)?,
        };
        with_half!(plan.dtype, "a cache of pages", T => {
            let plan = &plan.plan;
            let inputs = RetierInputs::<T> {
                cache: args.cache.optional(&plan.shape().pages.layout, queue)?,
                slot_of: args.slot_of.of("slot_of", queue)?,
                old_key_entries: args.old_key_entries.of("old_key_entries", queue)?,
                old_value_entries: args.old_value_entries.of("old_value_entries", queue)?,
                indices: args.indices.of("indices", queue)?,
                counts: args.counts.optional("counts", queue)?,
                first_pages: args.first_pages.optional("first_pages", queue)?,
                key_entries: args.key_entries.of("key_entries", queue)?,
                value_entries: args.value_entries.of("value_entries", queue)?,
                key_channels: channels(&args.key_scales, &args.key_offsets, OF_KEYS, queue)?,
                value_channels: channels(
                    &args.value_scales,
                    &args.value_offsets,
                    OF_VALUES,
                    queue,
                )?,
            };
            Ok(crate::quant::retier_pages(queue, plan, &inputs, &mut outputs)?)
        })
    })
}
