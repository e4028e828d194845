//! `quantize_pages`, `dequantize_pages`, `measure_channels`.

use super::page::tail;
use crate::capi::abi::{borrow, free, give, lacuna_header, or, read, structs, write};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::with_half;
use crate::capi::kv::{lacuna_kv, lacuna_kv_mut, lacuna_kv_shape, lists};
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::quant::{
    ChannelViews, ChannelViewsMut, ChannelsPlan, MeasuredRows, PageLists, PagesPlan, PagesShape,
    Tier, TierPools, TierPoolsMut,
};
use crate::queue::Queue;

/// Sizes of `lacuna_quantize_pages`, `lacuna_dequantize_pages` and `lacuna_measure_channels`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_pages_shape {
    pub header: lacuna_header,
    /// The cache of numbers: bf16 or f16, keys and values, rows of a multiple of 32 elements, up to 256.
    pub kv: *const lacuna_kv_shape,
    /// Pages that a list makes, of keys and of values, at most: 64 indices each.
    pub n_pages: u64,
    /// Pages of a list that have the same scales and offsets of channels; 0 is all of them.
    pub span_pages: u64,
    /// Pages of each tier's pool, by `lacuna_tier`: of 16, 8, 4 and 2 bits; 0 where there is no pool. Channels are measured without them.
    pub n_pool_pages: [u64; 4],
    /// A `lacuna_kv_lists`.
    pub lists: u32,
    /// A `lacuna_tail`, of all pools.
    pub tail: u32,
}

/// Elements of each view of `lacuna_quantize_pages_args`, `lacuna_dequantize_pages_args` and `lacuna_measure_channels_args`, by the same
/// names; of the cache, `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_pages_sizes {
    pub header: lacuna_header,
    pub indices: u64,
    pub counts: u64,
    pub key_entries: u64,
    pub value_entries: u64,
    pub key_scales: u64,
    pub key_offsets: u64,
    pub value_scales: u64,
    pub value_offsets: u64,
    pub pools: [u64; 4],
    pub status: u64,
    /// Of `lacuna_measure_channels`.
    pub workspace: u64,
}

/// What `lacuna_quantize_pages` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_quantize_pages_args {
    pub header: lacuna_header,
    /// The cache of numbers.
    pub cache: lacuna_kv,
    /// i32 `[batch, n_lists, n_pages, 64]`, of a request one list or one for each head: numbers of a request's rows. One that is of no row, as
    /// -1, is a slot of nothing.
    pub indices: lacuna_view,
    /// Optional, u32 `[batch, n_lists]`: how many of each list's indices count; else all.
    pub counts: lacuna_view,
    /// u32 `[batch, n_heads, n_pages]`: the page of keys of each 64, `tier << 30 | number`, tiers by `lacuna_tier`. One of no page
    /// (`LACUNA_NO_PAGE`) is passed over. No page may stand there twice.
    pub key_entries: lacuna_view,
    /// The same of values.
    pub value_entries: lacuna_view,
    /// Optional, f32 `[batch, n_heads, n_pages / span_pages, rounded up; head_dim]`: what keys are divided by; else 1.
    pub key_scales: lacuna_view,
    /// Optional, the same: what is taken from them before; else 0.
    pub key_offsets: lacuna_view,
    /// Optional, as those of keys.
    pub value_scales: lacuna_view,
    /// Optional, as those of keys.
    pub value_offsets: lacuna_view,
    /// u8, by `lacuna_tier`, from a multiple of 16 bytes on: the tiers' pools; none of a tier without pages. One that is left out has none,
    /// whatever the plan says.
    pub pools: [lacuna_view_mut; 4],
    /// Optional, u64 `[1]`: raised where an entry names a page that its pool does not have (`lacuna_pages_check_status`); never cleared.
    pub status: lacuna_view_mut,
}

/// What `lacuna_dequantize_pages` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_dequantize_pages_args {
    pub header: lacuna_header,
    /// As of `lacuna_quantize_pages_args`.
    pub pools: [lacuna_view; 4],
    /// Optional, the same.
    pub status: lacuna_view_mut,
    /// The same: which rows the pages' slots go to.
    pub indices: lacuna_view,
    /// Optional, the same.
    pub counts: lacuna_view,
    /// The same.
    pub key_entries: lacuna_view,
    /// The same.
    pub value_entries: lacuna_view,
    /// Optional, the same.
    pub key_scales: lacuna_view,
    /// Optional, the same.
    pub key_offsets: lacuna_view,
    /// Optional, the same.
    pub value_scales: lacuna_view,
    /// Optional, the same.
    pub value_offsets: lacuna_view,
    /// Whose rows are written; those that no list names are left alone.
    pub cache: lacuna_kv_mut,
}

/// What `lacuna_measure_channels` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_measure_channels_args {
    pub header: lacuna_header,
    /// The cache of numbers.
    pub cache: lacuna_kv,
    /// As of `lacuna_quantize_pages_args`: which rows are measured.
    pub indices: lacuna_view,
    /// Optional, the same.
    pub counts: lacuna_view,
    /// Optional, f32 `[batch, n_heads, n_pages / span_pages, rounded up; head_dim]`: root mean squares of what is left of keys when offsets are
    /// taken away, those that are asked for.
    pub key_scales: lacuna_view_mut,
    /// Optional, the same: means.
    pub key_offsets: lacuna_view_mut,
    /// Optional, as those of keys.
    pub value_scales: lacuna_view_mut,
    /// Optional, as those of keys.
    pub value_offsets: lacuna_view_mut,
    /// u32: zeros before the first launch, and used by one launch at a time; every launch leaves it ready. Of no elements where a span
    /// has up to 8 pages.
    pub workspace: lacuna_view_mut,
}

structs! {
    lacuna_pages_shape: 72,
    lacuna_pages_sizes: 120,
    lacuna_quantize_pages_args: 424,
    lacuna_dequantize_pages_args: 416,
    lacuna_measure_channels_args: 280,
}

/// A plan of `lacuna_quantize_pages`, `lacuna_dequantize_pages` and `lacuna_measure_channels`: for any device, and any number of launches at
/// once.
pub struct lacuna_pages_plan {
    plan: PagesPlan,
    channels: ChannelsPlan,
    dtype: u32,
}

impl lacuna_pages_shape {
    /// The shape, and the type of the cache.
    ///
    /// # Safety
    /// The shape's struct is the caller's.
    pub(super) unsafe fn shape(&self) -> Outcome<(PagesShape, u32)> {
        // SAFETY: the caller's word.
        let kv = unsafe { read(self.kv) }?;
        with_half!(kv.dtype, "a cache of pages", T => Ok(size_of::<T>()))?;
        let usual = PagesShape::of(kv.layout()?, self.n_pages);
        let shape = PagesShape {
            lists: lists(self.lists)?,
            span_pages: or(self.span_pages, usual.span_pages),
            n_pool_pages: self.n_pool_pages,
            tail: tail(self.tail)?,
            ..usual
        };
        Ok((shape, kv.dtype))
    }
}

impl lacuna_pages_plan {
    /// # Safety
    /// The shape's struct is the caller's.
    unsafe fn new(shape: &lacuna_pages_shape) -> Outcome<Self> {
        // SAFETY: the caller's word.
        let (shape, dtype) = unsafe { shape.shape() }?;
        let plan = PagesPlan::new(shape)?;
        Ok(Self { plan, channels: ChannelsPlan::new(plan), dtype })
    }

    fn sizes(&self) -> lacuna_pages_sizes {
        let plan = &self.plan;
        lacuna_pages_sizes {
            header: lacuna_header::NONE,
            indices: plan.indices_len(),
            counts: plan.n_lists(),
            key_entries: plan.entries_len(),
            value_entries: plan.entries_len(),
            key_scales: plan.channels_len(),
            key_offsets: plan.channels_len(),
            value_scales: plan.channels_len(),
            value_offsets: plan.channels_len(),
            pools: Tier::BY_TAG.map(|tier| plan.pool_bytes(tier)),
            status: 1,
            workspace: self.channels.workspace_len(),
        }
    }
}

/// What channels are relative to: of keys, or of values.
///
/// # Safety
/// The memory is the caller's as the header's head says.
pub(super) unsafe fn channels<'a>(
    scales: &lacuna_view,
    offsets: &lacuna_view,
    [of_scales, of_offsets]: [&'static str; 2],
    queue: &Queue,
) -> Outcome<ChannelViews<'a>> {
    // SAFETY: the caller's word.
    unsafe {
        Ok(ChannelViews {
            scales: scales.optional(of_scales, queue)?,
            offsets: offsets.optional(of_offsets, queue)?,
        })
    }
}

pub(super) const OF_KEYS: [&str; 2] = ["key_scales", "key_offsets"];
pub(super) const OF_VALUES: [&str; 2] = ["value_scales", "value_offsets"];
const POOLS: [&str; 4] = ["pools[0]", "pools[1]", "pools[2]", "pools[3]"];

/// # Safety
/// As [`channels`].
pub(super) unsafe fn pools_mut<'a>(
    pools: &[lacuna_view_mut; 4],
    status: &lacuna_view_mut,
    queue: &Queue,
) -> Outcome<TierPoolsMut<'a>> {
    // SAFETY: the caller's word.
    unsafe {
        let mut found = TierPoolsMut::default();
        for (i, pool) in pools.iter().enumerate() {
            found.pools[i] = pool.optional(POOLS[i], queue)?;
        }
        found.status = status.optional("status", queue)?;
        Ok(found)
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pages_plan_new(
    shape: *const lacuna_pages_shape,
    plan: *mut *mut lacuna_pages_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_pages_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pages_plan_free(plan: *mut lacuna_pages_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pages_plan_sizes(
    plan: *const lacuna_pages_plan,
    sizes: *mut lacuna_pages_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Rows of a paged cache as tiered pages: keys and values in one launch, each page in the tier that its entry names.
/// `lacuna::quant::quantize_pages` says all of it. The plan's `tail` is `LACUNA_TAIL_ZERO_POINTS`.
///
/// One launch; lengths, page tables, lists and entries are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_quantize_pages(
    queue: *const lacuna_queue,
    plan: *const lacuna_pages_plan,
    args: *const lacuna_quantize_pages_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let lists = PageLists {
            indices: args.indices.of("indices", queue)?,
            counts: args.counts.optional("counts", queue)?,
            key_entries: args.key_entries.of("key_entries", queue)?,
            value_entries: args.value_entries.of("value_entries", queue)?,
            key_channels: channels(&args.key_scales, &args.key_offsets, OF_KEYS, queue)?,
            value_channels: channels(&args.value_scales, &args.value_offsets, OF_VALUES, queue)?,
        };
        let mut pools = pools_mut(&args.pools, &args.status, queue)?;
        with_half!(plan.dtype, "a cache of pages", T => {
            let plan = &plan.plan;
            let cache = args.cache.of::<T>(&plan.shape().layout, queue)?;
            Ok(crate::quant::quantize_pages(queue, plan, &cache, &lists, &mut pools)?)
        })
    })
}

/// Tiered pages as rows of a paged cache: what `lacuna_quantize_pages` took, as far as its bits tell.
/// `lacuna::quant::dequantize_pages` says all of it.
///
/// One launch; lengths, page tables, lists and entries are read on the device.
///
/// Errors: those of `lacuna_quantize_pages`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_dequantize_pages(
    queue: *const lacuna_queue,
    plan: *const lacuna_pages_plan,
    args: *const lacuna_dequantize_pages_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let lists = PageLists {
            indices: args.indices.of("indices", queue)?,
            counts: args.counts.optional("counts", queue)?,
            key_entries: args.key_entries.of("key_entries", queue)?,
            value_entries: args.value_entries.of("value_entries", queue)?,
            key_channels: channels(&args.key_scales, &args.key_offsets, OF_KEYS, queue)?,
            value_channels: channels(&args.value_scales, &args.value_offsets, OF_VALUES, queue)?,
        };
        let status = args.status.optional("status", queue)?;
        let mut pools = TierPools { status, ..TierPools::default() };
        for (i, pool) in args.pools.iter().enumerate() {
            pools.pools[i] = pool.optional(POOLS[i], queue)?;
        }
        with_half!(plan.dtype, "a cache of pages", T => {
            let plan = &plan.plan;
            let mut cache = args.cache.of::<T>(&plan.shape().layout, queue)?;
            Ok(crate::quant::dequantize_pages(queue, plan, &mut pools, &lists, &mut cache)?)
        })
    })
}

/// What the channels of keys and of values are relative to, of each span of pages: means as offsets, and root mean squares around them as
/// scales. `lacuna::quant::measure_channels` says all of it.
///
/// One launch; lengths, page tables and lists are read on the device.
///
/// Errors: those of `lacuna_quantize_pages`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_measure_channels(
    queue: *const lacuna_queue,
    plan: *const lacuna_pages_plan,
    args: *const lacuna_measure_channels_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let rows = MeasuredRows {
            indices: args.indices.of("indices", queue)?,
            counts: args.counts.optional("counts", queue)?,
        };
        let mut keys = ChannelViewsMut {
            scales: args.key_scales.optional("key_scales", queue)?,
            offsets: args.key_offsets.optional("key_offsets", queue)?,
        };
        let mut values = ChannelViewsMut {
            scales: args.value_scales.optional("value_scales", queue)?,
            offsets: args.value_offsets.optional("value_offsets", queue)?,
        };
        let mut workspace = args.workspace.or_empty("workspace", queue)?;
        with_half!(plan.dtype, "a cache of pages", T => {
            let plan = &plan.channels;
            let cache = args.cache.of::<T>(&plan.pages().shape().layout, queue)?;
            Ok(crate::quant::measure_channels(
                queue,
                plan,
                &cache,
                &rows,
                &mut workspace,
                &mut keys,
                &mut values,
            )?)
        })
    })
}
