//! `attend_tiered`.

use super::attend::{lacuna_attend_args, lacuna_attend_plan, lacuna_attend_shape};
use crate::Error;
use crate::attention::{TieredInputs, TieredPlan};
use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, read, structs, truth, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::{with_half, with_real};
use crate::capi::kv::lists;
use crate::capi::quant::page::tail;
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::kv::{KvLayout, KvShape};
use crate::quant::{ChannelViews, PagesPlan, PagesShape, Tier, TierPools};

/// Sizes of `lacuna_attend_tiered`: the tiered pages before the segments.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_tiered_shape {
    pub header: lacuna_header,
    /// Queries, outputs and the segments after the pages, of which there is at least one, if of no rows; heads of 64, 128 or 256 elements.
    pub attend: *const lacuna_attend_shape,
    /// Pages of a list, of keys and of values: 64 slots each.
    pub n_pages: u64,
    /// Pages of a list that have the same scales and offsets of channels; 0 is all of them.
    pub span_pages: u64,
    /// Pages of each tier's pool, of 16, 8, 4 and 2 bits; 0 where there is no pool.
    pub n_pool_pages: [u64; 4],
    /// A `lacuna_kv_lists`: whose `counts` of slots there are.
    pub lists: u32,
    /// A `lacuna_tail`, of all pools.
    pub tail: u32,
    /// 1: room on chip for three pieces of pages of each warp in place of two. Bits do not depend on it.
    pub has_three_stages: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_attend_tiered_args`, by the same names; those of `attend` are `lacuna_attend_plan_sizes` of
/// `lacuna_attend_tiered_plan_attend`, its workspace that of this launch.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_tiered_sizes {
    pub header: lacuna_header,
    pub pools: [u64; 4],
    pub status: u64,
    pub key_entries: u64,
    pub value_entries: u64,
    pub counts: u64,
    pub key_scales: u64,
    pub key_offsets: u64,
    pub value_scales: u64,
    pub value_offsets: u64,
    pub logits: u64,
}

/// What `lacuna_attend_tiered` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_tiered_args {
    pub header: lacuna_header,
    /// All the rest. Pages are seen by all queries: what may be masked is in segments.
    pub attend: *const lacuna_attend_args,
    /// u8, of 16, 8, 4 and 2 bits, from a multiple of 16 bytes on: the tiers' pools; none of a tier without pages.
    pub pools: [lacuna_view; 4],
    /// u32 `[batch, n_heads, n_pages]`: the page of keys of each 64 tokens, `tier << 30 | number`, tiers by their place in `pools`;
    /// number 0x3FFFFFFF is of none, and its tokens are absent.
    pub key_entries: lacuna_view,
    /// The same of values.
    pub value_entries: lacuna_view,
    /// Optional, u32 `[batch, n_lists]`: how many slots of each list's pages hold tokens, from the first on; else all.
    pub counts: lacuna_view,
    /// Optional, f32 `[batch, n_heads, n_pages / span_pages, rounded up; head_dim]`: what keys were divided by; else 1.
    pub key_scales: lacuna_view,
    /// Optional, the same: what was taken from them before; else 0.
    pub key_offsets: lacuna_view,
    /// Optional, as those of keys.
    pub value_scales: lacuna_view,
    /// Optional, as those of keys.
    pub value_offsets: lacuna_view,
    /// Optional, u64 `[1]`: raised where an entry names a page that its pool does not have, which `lacuna_pages_check_status` tells; never cleared.
    pub status: lacuna_view_mut,
    /// Optional, f32 `[batch, n_queries, n_q_heads, 64 * n_pages + rows of the segments]`: what each weight is 2 to the power of, before
    /// all are divided by their sum; -inf of what is absent or not seen.
    pub logits: lacuna_view_mut,
}

structs! {
    lacuna_attend_tiered_shape: 80,
    lacuna_attend_tiered_sizes: 112,
    lacuna_attend_tiered_args: 328,
}

/// A plan of `lacuna_attend_tiered`: for any device, and any number of launches at once, each with a workspace of its own.
pub struct lacuna_attend_tiered_plan {
    plan: TieredPlan,
    attend: lacuna_attend_plan,
}

impl lacuna_attend_tiered_plan {
    /// # Safety
    /// The caller's structs.
    unsafe fn new(shape: &lacuna_attend_tiered_shape) -> Outcome<Self> {
        check_reserved("lacuna_attend_tiered_shape", shape.reserved)?;
        // SAFETY: the caller's structs.
        let attend = unsafe { read(shape.attend)?.plan() }?;
        // Of a cache, requests and heads alone matter, which are the segments'.
        let first = attend.plan.segments().next().map(|segment| *segment.layout.shape());
        let what = "segments";
        let first = first.ok_or(Error::Range { what, value: 0, allowed: "1..=4" })?;
        let layout = KvLayout::new(KvShape { tokens_per_row: 1, ..first })?;
        let usual = PagesShape::of(layout, shape.n_pages);
        let pages = PagesPlan::new(PagesShape {
            lists: lists(shape.lists)?,
            span_pages: crate::capi::abi::or(shape.span_pages, usual.span_pages),
            n_pool_pages: shape.n_pool_pages,
            tail: tail(shape.tail)?,
            ..usual
        })?;
        let plan = TieredPlan::new(attend.plan, pages)?;
        let is_three = truth("has_three_stages", shape.has_three_stages)?;
        let plan = if is_three { plan.with_three_stages() } else { plan };
        Ok(Self { plan, attend: lacuna_attend_plan { plan: *plan.attend(), ..attend } })
    }

    fn sizes(&self) -> lacuna_attend_tiered_sizes {
        let pages = self.plan.pages();
        lacuna_attend_tiered_sizes {
            header: lacuna_header::NONE,
            pools: Tier::BY_TAG.map(|tier| pages.pool_bytes(tier)),
            status: 1,
            key_entries: pages.entries_len(),
            value_entries: pages.entries_len(),
            counts: pages.n_lists(),
            key_scales: pages.channels_len(),
            key_offsets: pages.channels_len(),
            value_scales: pages.channels_len(),
            value_offsets: pages.channels_len(),
            logits: self.plan.logits_len(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: those of `lacuna_attend_plan_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_tiered_plan_new(
    shape: *const lacuna_attend_tiered_shape,
    plan: *mut *mut lacuna_attend_tiered_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_attend_tiered_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_tiered_plan_free(plan: *mut lacuna_attend_tiered_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// What says all but which pages there are, for `lacuna_attend_plan_sizes`: a part of the plan, which ends with it. Null of null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_tiered_plan_attend(
    plan: *const lacuna_attend_tiered_plan,
) -> *const lacuna_attend_plan {
    // SAFETY: the caller's handle.
    unsafe { plan.as_ref() }.map_or(std::ptr::null(), |plan| &raw const plan.attend)
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_tiered_plan_sizes(
    plan: *const lacuna_attend_tiered_plan,
    sizes: *mut lacuna_attend_tiered_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// As `lacuna_attend`, over tokens of which those that matter less have fewer bits: first all tokens of tiered pages, then the rows of
/// segments. Codes are multiplied as they lie in pages. `lacuna::attention::attend_tiered` says all of it.
///
/// One launch; entries, counts and channels are read on the device.
///
/// Errors: those of `lacuna_attend`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_tiered(
    queue: *const lacuna_queue,
    plan: *const lacuna_attend_tiered_plan,
    args: *const lacuna_attend_tiered_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, structs and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let attend = read(args.attend)?;
        let mut pools = [None; 4];
        for (pool, view) in pools.iter_mut().zip(&args.pools) {
            *pool = view.optional("pools", queue)?;
        }
        let mut pages = TieredInputs {
            pools: TierPools { pools, status: args.status.optional("status", queue)? },
            key_entries: args.key_entries.of("key_entries", queue)?,
            value_entries: args.value_entries.of("value_entries", queue)?,
            counts: args.counts.optional("counts", queue)?,
            key_channels: ChannelViews {
                scales: args.key_scales.optional("key_scales", queue)?,
                offsets: args.key_offsets.optional("key_offsets", queue)?,
            },
            value_channels: ChannelViews {
                scales: args.value_scales.optional("value_scales", queue)?,
                offsets: args.value_offsets.optional("value_offsets", queue)?,
            },
        };
        let mut logits = args.logits.optional("logits", queue)?;
        with_half!(plan.attend.dtype, "queries", T => {
            let segments = attend.segments::<T>(plan.plan.attend(), queue)?;
            let inputs = attend.inputs(&segments, queue)?;
            with_real!(plan.attend.output_dtype, "outputs", O => {
                let mut outputs = attend.outputs::<O>(queue)?;
                Ok(crate::attention::attend_tiered(
                    queue,
                    &plan.plan,
                    &inputs,
                    &mut pages,
                    &mut outputs,
                    logits.as_mut(),
                )?)
            })
        })
    })
}
